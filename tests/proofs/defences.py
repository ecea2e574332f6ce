"""Each defence switched off in turn: the drill fails, and says which mode it was.

One stack for all five, with a second service beside its own, whose contract check is off, and a keeper that
looks at no release: the drill's own watch does all the looking.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from feature_repo.contract import Period
from feature_repo.errors import NotEnoughData
from feature_repo.settings import Settings
from flows.drill.defences import Defences
from flows.drill.incident import MODES
from flows.drill.run import pass_or_fail, play
from flows.drill.stage import Stage, find_ports, running_stage
from flows.local.children import Service
from flows.monitor import Findings, run_monitor

Figure = dict[str, Any]
OFF = {
    "silent": "the service's check of each input against the model's contract",
    "skew": "the skew probe",
    "release": "the release watch, the keeper's looks included",
    "feedback": "the share of labels that a verdict waits for",
    "drift": "the monitor",
}
RUNNER = {"flows.deployments": "tests.proofs.unwatched"}


def measure(chosen: str = "") -> Iterator[Figure]:
    """Yield one figure a mode: with its defence off, the drill fails and names it."""
    [port] = find_ports(1)
    with (
        tempfile.TemporaryDirectory(prefix="defences-") as folder,
        running_stage(Settings(home=Path(folder)), _say, services=partial(build_both, port=port)) as stage,
    ):
        for mode in MODES:
            if chosen in mode:
                code, told = pass_or_fail([play(switch_off(stage, mode, port), mode)])
                yield {
                    "name": f"defences: {mode} without {OFF[mode]}",
                    "value": {"exit": code, "told": told},
                    "bar": f"exit 1, naming {mode}",
                    "ok": code == 1 and all(line.startswith(f"{mode} failed: ") for line in told),
                }


def switch_off(stage: Stage, mode: str, port: int) -> Stage:
    """Return the stage with the one defence of the mode switched off."""
    if mode == "silent":
        return replace(stage, settings=stage.settings.model_copy(update={"service_port": port}))
    defences = {
        "skew": Defences(probe=_compare_nothing),
        "release": Defences(watch_release=_watch_nothing),
        "feedback": Defences(monitor=_judge_whatever_is_there),
        "drift": Defences(monitor=_judge_nothing),
    }
    return replace(stage, defences=defences[mode])


def build_both(settings: Settings, port: int) -> list[Service]:
    """Return the stack's processes, no looks at releases among them, and a service that checks no input."""
    from flows.local.stack_services import build_services

    made = [
        replace(one, command=tuple(RUNNER.get(word, word) for word in one.command))
        for one in build_services(settings)
    ]
    whole = next(one for one in made if one.name == "service")
    own, other = f"{settings.service_port}", f"{port}"
    command = tuple(
        "tests.proofs.unchecked:PredictionService" if word.startswith("services.prediction:") else word
        for word in (other if word == own else word for word in whole.command)
    )
    environment = {**whole.environment, "PERENNIAL_SERVICE_PORT": other}
    moved = {name: getattr(whole, name).replace(own, other) for name in ("health", "url")}
    return [
        *made,
        replace(whole, name="unchecked", command=command, port=port, environment=environment, **moved),
    ]


def _judge_nothing(*given: Any, **options: Any) -> Findings:
    return Findings()


def _judge_whatever_is_there(*given: Any, **options: Any) -> Findings:
    from flows import judgement
    from flows.policy.quality import QualityPolicy, judge_quality

    hasty = partial(judge_quality, policy=QualityPolicy(min_share=0.0))
    with patch.object(judgement, "judge_quality", hasty):
        return run_monitor(*given, **options)


def _compare_nothing(project: Any, wire: Any, period: Period) -> Any:
    raise NotEnoughData("skew probe", got="switched off", expected="answers", next_step="Switch it on.")


def _watch_nothing(*given: Any, **options: Any) -> Any:
    return None


def _say(line: str) -> None:
    import sys

    print(line, file=sys.stderr, flush=True)
