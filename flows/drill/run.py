"""The drill itself: each chosen mode in turn on one stack, a record of each, and a clean state afterwards."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from feature_repo.errors import PerennialError
from feature_repo.settings import Settings
from flows.drill import drift, feedback, release, silent, skew
from flows.drill.incident import MODES, Diary, Incident
from flows.drill.progress import Progress
from flows.drill.stage import FOLDER, Stage, clear_home, running_stage
from flows.readiness.records import hash_code

INJECT: dict[str, Callable[[Stage, Diary], None]] = {
    "silent": silent.inject,
    "skew": skew.inject,
    "release": release.inject,
    "feedback": feedback.inject,
    "drift": drift.inject,
}


def run_drill(
    settings: Settings,
    only: Sequence[str],
    say: Callable[[str], None],
    *,
    seed: int = 2013,
    keep: bool = False,
) -> list[Incident]:
    """Play the modes named, or all, on a stack of their own; return a record of each.

    keep  leave the drill's own home as it is; it is also left where a mode failed
    """
    modes = [mode for mode in MODES if mode in only or not only]
    progress = Progress(["prepare", *modes], say)
    with running_stage(settings, progress.tell, seed=seed) as stage:
        progress.done("prepare")
        incidents = []
        for mode in modes:
            incidents.append(play(stage, mode))
            progress.done(mode)
            progress.tell(tell_end(incidents[-1]))
    if not keep and all(one.ok for one in incidents):
        clear_home(stage.settings.home)
    return incidents


def tell_end(one: Incident) -> str:
    """Return in a line how a mode ended, and why where it failed."""
    state = "passed" if one.ok else "FAILED"
    return "; ".join((f"{one.mode}: {state} in {one.seconds:.0f} s", *one.explain()))


def play(stage: Stage, mode: str) -> Incident:
    """Inject one mode and watch until it is over; what goes wrong on the way is in the record."""
    stage.tell(f"== {mode}")
    sent, failed = stage.count()
    diary = Diary(mode)
    try:
        INJECT[mode](stage, diary)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and the mode has failed
        told = str(error) if isinstance(error, PerennialError) else repr(error)
        diary.require(False, f"the drill could not go on: {told}")
    after, bad = stage.count()
    return diary.close(after - sent, bad[len(failed) :])


def write_record(settings: Settings, incidents: Sequence[Incident]) -> Path:
    """Keep the records as JSON beside the report."""
    path = settings.home / FOLDER / "drill.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({**describe(incidents), "code": hash_code()}, indent=1))
    part.replace(path)
    return path


def pass_or_fail(incidents: Sequence[Incident]) -> tuple[int, list[str]]:
    """Return the exit code, and a line for each thing that went wrong, which begins with its mode."""
    told = [f"{one.mode} failed: {why}" for one in incidents for why in one.explain()]
    return int(bool(told)), told


def describe(incidents: Sequence[Incident]) -> dict[str, Any]:
    """Return the records as JSON takes them."""

    def tell(one: Incident) -> dict[str, Any]:
        told = asdict(one) | {"ok": one.ok, "why": list(one.explain())}
        return dict(json.loads(json.dumps(told, default=str)))

    return {"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "modes": [tell(one) for one in incidents]}
