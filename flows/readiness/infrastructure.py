"""The seven tests of infrastructure."""

import json
from datetime import UTC, datetime

from flows.drill.incident import MODES
from flows.policy.readiness import Finding
from flows.readiness.lookups import Question, counted, deployed, gate_held, kept, passed, ran, tagged, take
from flows.readiness.sources import Sources

E2E = "tests/e2e/test_loop.py"


def find_answer(sources: Sources) -> Finding:
    """The newest answer is kept with the exact values that it was made from."""
    from feature_repo.contract import Period

    start = sources.project.problem.start
    some = sources.project.journal.sample_predictions(Period(start, datetime.now(UTC)), 1)
    if not some:
        return Finding(False, "no answer is journalled", "", "Ask the service something: perennial example.")
    values = json.loads(some[0].features)
    told = f"answer {some[0].prediction_id} is kept with its {len(values)} inputs"
    return Finding(bool(values), told, f".venv/bin/perennial trace {some[0].prediction_id}")


def find_way_back(sources: Sources) -> Finding:
    """There is a version to go back to."""
    previous = sources.aliases.get("previous")
    if previous is None or previous == sources.champion:
        return Finding(
            False, "there is no other version to go back to", "", "It comes with the second model."
        )
    told = f"version {previous} is kept as the way back from {sources.champion}"
    return Finding(True, told, sources.name_version(previous))


def find_origin(sources: Sources) -> Finding:
    """The champion names the snapshot, the hash and the code from which it can be made again."""
    tags = sources.versions[sources.champion]
    names = ("perennial.snapshot", "perennial.training_set_sha256", "perennial.code")
    lacking = [name for name in names if not tags.get(name)]
    if lacking:
        return Finding(False, f"version {sources.champion} lacks {', '.join(lacking)}", "", "Train again.")
    sources.project.lake.load_snapshot(tags["perennial.snapshot"])
    told = f"version {sources.champion}: snapshot {tags['perennial.snapshot']} is there, and its hash is kept"
    return Finding(True, told, f".venv/bin/perennial replay dataset {sources.find_run(sources.champion)}")


def find_loop(sources: Sources) -> Finding:
    """The running stack did the whole loop: days, a training, answers, labels."""
    known = {name: len(sources.table(name)) for name in ("labels", "verdicts")}
    empty = [name for name, rows in known.items() if not rows]
    if empty:
        return Finding(
            False, f"no {' and no '.join(empty)} yet", "", "Run the daily loop, or `perennial demo`."
        )
    told = ", ".join(f"{rows:,} {name}" for name, rows in known.items())
    return Finding(True, f"{told} came of what was served", str(sources.settings.home / "lake"))


def find_beside(sources: Sources) -> Finding:
    """Look whether a version ever stood beside the champion: as a rollout, or scored and not heard."""
    from flows.releasing.release_state import ReleaseState

    path = sources.settings.home / "releases"
    known = ReleaseState(sources.settings.home).rollouts() if path.is_dir() else []
    if not known:
        return counted("perennial_shadow_scores_total", positive=True)(sources)
    last = known[-1]
    told = f"version {last.version} beside {last.baseline} from {last.opened_at[:19]}: {last.state}"
    return Finding(True, told, str(path / "releases.db"))


def find_drill(sources: Sources) -> Finding:
    """Look whether the drill on this home noticed and healed every failure that it injected."""
    path = sources.settings.home / "drill" / "drill.json"
    if not path.is_file():
        return Finding(False, f"no {path}", "", "Run .venv/bin/perennial drill.")
    told = json.loads(path.read_text())
    bad = [one["mode"] for one in told["modes"] if not one["ok"]]
    if bad:
        return Finding(False, f"the drill of {told['at']} failed: {', '.join(bad)}", "", f"Read {path}.")
    if lacking := [mode for mode in MODES if mode not in {one["mode"] for one in told["modes"]}]:
        found = f"the drill of {told['at']} was not of {', '.join(lacking)}"
        return Finding(False, found, "", "Run .venv/bin/perennial drill.")
    if told.get("code") != sources.code:
        found = f"the drill of {told['at']} was of other code"
        return Finding(False, found, "", "Run .venv/bin/perennial drill.")
    return Finding(True, f"the drill of {told['at']}: {len(told['modes'])} failures, all healed", str(path))


def find_whole_test(sources: Sources) -> Finding:
    """Look whether the whole pipeline ran as a test: in the suite, or as the drill on this home."""
    suite, drill = take(passed(E2E), sources), take(find_drill, sources)
    return drill if drill.holds and not suite.holds else suite


QUESTIONS = (
    Question(
        "Training is reproducible",
        (
            find_origin,
            passed("tests/flows/test_replay.py::test_a_training_set_is_built_again_to_the_same_hash"),
        ),
        (find_origin,),
    ),
    Question(
        "Model specification code is unit tested",
        (
            passed(
                "tests/unit/test_compiled.py::test_the_problems_own_pipeline_gives_the_same_scores",
                "tests/flows/test_toy.py::test_a_model_of_the_toy_problem_trains_and_answers_in_a_clean_process",
            ),
        ),
    ),
    Question(
        "The full ML pipeline is integration tested",
        (find_whole_test, ran("retrain")),
        (find_loop, ran("retrain")),
    ),
    Question(
        "Model quality is validated before attempting to serve it",
        (tagged("perennial.gate", "passed"), kept("gate.md"), passed("tests/unit/test_gate.py")),
        (kept("gate.md"),),
    ),
    Question(
        "The model allows debugging by observing computation on a single example",
        (find_answer, passed("tests/flows/test_trace.py", "tests/flows/test_replay.py")),
        (find_answer,),
    ),
    Question(
        "Models are tested via a canary process before they enter production",
        (
            gate_held("clean process"),
            find_beside,
            passed("tests/contracts/test_service.py::test_a_challenger_is_scored_and_not_heard"),
        ),
        (gate_held("clean process"), passed("tests/unit/test_models.py")),
    ),
    Question(
        "Models can be quickly and safely rolled back",
        (
            find_way_back,
            deployed("rollback"),
            passed(
                "tests/flows/test_release.py::test_the_way_back_is_never_blocked", "tests/unit/test_models.py"
            ),
        ),
        (find_way_back,),
    ),
)
