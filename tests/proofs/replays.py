"""Twenty training sets and two hundred answers, made again: as they were, after a compaction, a correction.

Six weeks of real flights land day by day on a real MLflow and a real prediction service. Each of the last
twenty days a model is trained; then two days are answered over HTTP, the champion moved at noon.
"""

import contextlib
import json
import math
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

Figure = dict[str, Any]
FIRST, TRAINED, LAST = date(2013, 1, 1), date(2013, 1, 24), date(2013, 2, 13)
RUNS, ANSWERS, PER_DAY, CORRECTED = 20, 200, 400, date(2013, 2, 10)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def measure() -> Iterator[Figure]:
    """Yield the figures."""
    from flows.retention import find_named_snapshots, keep_lake

    with tempfile.TemporaryDirectory() as folder, _running(Path(folder)) as project:
        runs = _build(project)
        _serve(project, runs)
        yield from _replay_all(project, runs, "")
        yield from _control(project)
        before = _count_files(project)
        done = keep_lake(project, find_named_snapshots, grace_hours=0)
        told = {
            "files": [before, _count_files(project)],
            "MB freed": _count_freed(done),
            "not": done.not_vacuumed,
        }
        fewer = told["files"][1] < before and not done.not_vacuumed
        yield _tell("files before and after compaction and vacuum without grace", told, "fewer", fewer)
        yield from _replay_all(project, runs, " after compaction and vacuum")
        changed = _correct(project)
        yield _tell("rows that a correction of a past day changed", changed, ">= 100", changed >= 100)
        keep_lake(project, find_named_snapshots, grace_hours=0)
        yield from _replay_all(project, runs, " after a correction and another vacuum")


@contextlib.contextmanager
def _running(home: Path) -> Iterator[Any]:
    """Run MLflow and the prediction service on a home, and give the project on it."""
    from feature_repo.settings import Settings
    from flows.local.stack import running_stack
    from flows.local.stack_services import build_environment, build_services
    from flows.project import open_project
    from tests.ports import find_free_port

    ports = {f"{name}_port": find_free_port() for name in ("prefect", "mlflow", "service", "runner")}
    # No Prefect runs here, so no schedule is asked for.
    settings = Settings(home=home, schedules=False, required_monitors="reference", **ports)
    before = dict(os.environ)
    quiet = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1"}
    os.environ.update({**build_environment(settings), **quiet})
    try:
        chosen = [s for s in build_services(settings) if s.name in {"mlflow", "service"}]
        with running_stack(settings, chosen):
            yield open_project(settings)
    finally:
        os.environ.clear()
        os.environ.update(before)


def _build(project: Any) -> list[Any]:
    """Land the days; train on each of the last twenty. All but the last model are small, to save time."""
    from flows.loop import backfill_days
    from flows.train import train_candidate

    def build_small(problem: Any) -> Any:
        return project.build_estimator(problem).set_params(deep__trees__max_iter=20, flat__trees__max_iter=20)

    small = replace(project, build_estimator=build_small)
    backfill_days(project, FIRST, TRAINED, lambda done, total: None)
    runs = []
    for n in range(RUNS):
        day = TRAINED + n * DAY
        backfill_days(project, day, day + DAY, lambda done, total: None)
        chosen = project if n == RUNS - 1 else small
        runs.append(train_candidate(chosen, project.day(day + DAY).since, "a proof"))
    return runs


def _serve(project: Any, runs: Sequence[Any]) -> None:
    """Answer two days over HTTP, hour by hour as they go online; move the champion at noon."""
    from flows.releasing.release import promote_version
    from flows.traffic import Load, await_version

    settings, days = project.settings, [LAST, LAST + DAY]
    load = Load(settings.service_url, project.problem, per_second=4)
    for n, version in enumerate((runs[-1].version, runs[-2].version)):
        promote_version(project, version, "a proof", by_hand=True)
        assert await_version(settings.service_url, version, settings.service_workers, 60) is not None
        if n == 0:
            load.start()
        _serve_day(project, days[n], load)
    load.end()
    assert not load.failed, load.failed[:3]


def _serve_day(project: Any, day: date, load: Any) -> None:
    import httpx
    import polars as pl

    from feature_repo.contract import Period
    from flows.features import build_features, materialize_period
    from flows.ingest import ingest_period
    from flows.traffic import ask, sample_requests

    problem, period = project.problem, project.day(day)
    ingest_period(project, period)
    frames = build_features(project, period)
    ahead = Period(period.since - 2 * DAY, period.until)
    upcoming = problem.build_requests({"schedule": project.lake.read("schedule", ahead)})
    today = sample_requests(upcoming, problem, period, PER_DAY)
    with httpx.Client() as client:
        hour = period.since
        while hour < period.until:
            within = pl.col(problem.decided_at).is_between(hour, hour + HOUR, closed="left")
            rows = today.filter(within).to_dicts()
            if rows:
                ask(client, project.settings.service_url, rows, problem)
                threading.Event().wait(1.0)  # hours come one after the other, as in life, only faster
            materialize_period(project, frames, Period(hour, hour + HOUR))
            hour += HOUR
            load.point_at(upcoming, hour)


def _replay_all(project: Any, runs: Sequence[Any], when: str) -> Iterator[Figure]:
    from flows.replay import replay_dataset
    from flows.retention import read_run_tags

    url = project.settings.mlflow_url
    told = [replay_dataset(project, run.run_id, read_run_tags(url, run.run_id)) for run in runs]
    same = sum(one.same for one in told)
    snapshots = len({one.snapshot for one in told})
    name = f"training sets of {RUNS} runs ({snapshots} snapshots) rebuilt to the same hash{when}"
    yield _tell(name, same, RUNS, same == RUNS)
    replays = _replay(project, _sample(project))
    counts = Counter(one.status for one in replays)
    for one in replays:
        if one.status != "exact":
            print(
                json.dumps(
                    {"not exact": one.prediction_id, "why": one.why, "differing": one.differing}, default=str
                )
            )
    name = f"of {ANSWERS} sampled predictions replayed exactly{when}"
    yield _tell(name, counts["exact"], ANSWERS, counts["exact"] == ANSWERS == len(replays))


def _control(project: Any) -> Iterator[Figure]:
    """Show that the comparison sees the last bit: one feature of each answer is moved by it."""
    from dataclasses import replace as change

    stored = [f.name for f in project.problem.features if f.source != "request"]
    nudged = []
    for number, one in enumerate(_sample(project)):
        features = json.loads(one.features)
        held = [name for name in stored if features.get(name) is not None]
        if held:
            name = held[number % len(held)]
            features[name] = math.nextafter(features[name], math.inf)
            nudged.append(change(one, features=json.dumps(features)))
    seen = sum(one.status == "different" for one in _replay(project, nudged))
    name = f"of {len(nudged)} answers with one feature moved by its last bit, told as different"
    yield _tell(name, seen, len(nudged), seen == len(nudged) > 0)


def _sample(project: Any) -> list[Any]:
    from feature_repo.contract import Period

    return project.journal.sample_predictions(Period(project.problem.start, project.problem.end), ANSWERS)


def _replay(project: Any, predictions: Sequence[Any]) -> list[Any]:
    from flows.replay import Replayer
    from services.schemas import build_wire

    replayer = Replayer(project, build_wire(project.problem), slack=HOUR / 3_600)
    return [replayer.replay(one) for one in predictions]


def _correct(project: Any) -> int:
    """Let the source tell a past day anew: every third flight that was in time came late."""
    import polars as pl

    from flows.corrections import follow_corrections, restate_period

    day = project.day(CORRECTED)

    def fetch(table: str, period: Any) -> Any:
        told = project.fetch(table, period)
        if table != "arrivals" or period.since != day.since:
            return told
        quick = pl.col("arr_delay").is_between(-30, 0) & (pl.col("arr_time") < 2_300)
        delayed = quick & (pl.int_range(pl.len()) % 3 == 0)
        minutes = pl.col("arr_time") // 100 * 60 + pl.col("arr_time") % 100 + 45
        changes = {
            "arr_delay": pl.col("arr_delay") + 45,
            "arr_time": minutes // 60 * 100 + minutes % 60,
            "late": pl.lit(1, pl.Int8),
        }
        restated = [pl.when(delayed).then(new).otherwise(name).alias(name) for name, new in changes.items()]
        return replace(told, frame=told.frame.with_columns(restated))

    told = restate_period(replace(project, fetch=fetch), day)
    assert [m.status for m in told] == ["landed"], [m.reasons for m in told]
    followed = follow_corrections(project)
    assert followed.features
    return int(json.loads(told[0].changes)["changed"])


def _count_files(project: Any) -> int:
    return sum(project.lake.measure(table)[0] for table in project.lake.tables())


def _count_freed(done: Any) -> float:
    return round(sum(one.bytes_freed for one in done.tables) / 1e6, 1)


def _tell(name: str, value: Any, bar: Any, ok: bool) -> Figure:
    return {"name": name, "value": value, "bar": bar, "ok": bool(ok)}
