"""Replay: an old training set or an old answer, made again from what was kept, beside what was recorded.

What is promised of a score: the same float64 to the last bit, on the same kind of machine with the locked
packages; on another CPU, within `services.package.TOLERANCE`. Features and data sets are the same anywhere.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from feature_repo.contract import Problem
from feature_repo.errors import NotEnoughData
from feature_repo.materializations import Materializations
from feature_repo.store import OnlineVector, judge_ages
from flows.online_past import SLACK, OnlinePast, PastRow
from flows.project import Project
from services.inputs import Inputs
from services.journal import Prediction
from services.wire import Wire

if TYPE_CHECKING:
    from services.package import Package

Status = Literal["exact", "explained", "different", "gone"]
PROMISE = "to the last bit of the float64 on this kind of machine with the locked packages"
NEEDED = ("perennial.snapshot", "perennial.until", "perennial.training_set_sha256")


@dataclass(frozen=True)
class DatasetReplay:
    """A training set built anew; `code` is the version of the code that built it first."""

    run_id: str
    snapshot: str
    until: datetime
    recorded: str
    rebuilt: str
    rows: int
    code: str

    @property
    def same(self) -> bool:
        """Whether the rows are those that were trained on."""
        return self.recorded == self.rebuilt


@dataclass(frozen=True)
class Replay:
    """An answer made anew.

    status      exact: score and every feature are the same
                explained: what differs the answer itself told to be missing, the store being away
                different: `differing` names features as (journalled, from the lake), or the score differs
                gone: the lake no longer holds, or never logged, what was online then; `why` says which
    score       as journalled; `recomputed`: the version's score of the journalled features
    snapshot    feature table versions that were online, as a snapshot id
    sources     feature table -> the row that was online: its version and tick
    """

    prediction_id: str
    status: Status
    why: str
    score: float
    recomputed: float
    differing: Mapping[str, tuple[Any, Any]]
    snapshot: str | None
    model_version: str | None
    sources: Mapping[str, PastRow] = field(default_factory=dict)


def replay_dataset(project: Project, run_id: str, tags: Mapping[str, str]) -> DatasetReplay:
    """Build a run's training set anew from the lake. Raises NotEnoughData if that cannot be done."""
    from flows.training_set import build_training_set

    lacking = [name for name in NEEDED if name not in tags]
    if lacking:
        raise NotEnoughData(
            f"run {run_id}",
            got=f"no tag {', '.join(lacking)}",
            expected="the tags that training writes",
            next_step="Name a training run of this project, by its id in MLflow.",
        )
    snapshot = project.lake.load_snapshot(tags["perennial.snapshot"])
    gone = [name for name, v in snapshot.versions.items() if v >= 0 and not project.lake.can_read(name, v)]
    if gone:
        raise NotEnoughData(
            f"snapshot {snapshot.id}",
            got=f"files of {', '.join(gone)} that are gone",
            expected="all of them",
            next_step="Retention keeps the snapshots of runs that are not deleted in MLflow.",
        )
    until = datetime.fromisoformat(tags["perennial.until"])
    training = build_training_set(project, until, snapshot)
    recorded, code = tags["perennial.training_set_sha256"], tags.get("perennial.code", "unknown")
    return DatasetReplay(run_id, snapshot.id, until, recorded, training.sha256, len(training.rows), code)


class Replayer:
    """Makes old answers anew; what it reads of models and lake it keeps for the next one.

    slack   how long before an answer was stamped its features may have been read
    """

    def __init__(self, project: Project, wire: Wire, slack: timedelta = SLACK) -> None:
        self._project = project
        self._problem = project.problem
        self._wire = wire
        self._slack = slack
        self._packages: dict[str, Package] = {}

    def replay(self, prediction: Prediction) -> Replay:
        """Make one answer anew and compare it, value by value."""
        row, told = self._rebuild_row(prediction), json.loads(prediction.features)
        recomputed = self._score(prediction, {**row, **told})
        unchecked = Replay(
            prediction_id=prediction.prediction_id,
            status="gone",
            why="",
            score=prediction.score,
            recomputed=recomputed,
            differing={},
            snapshot=None,
            model_version=prediction.model_version,
        )
        try:
            online = self._find_online(prediction, row, told)
        except NotEnoughData as error:
            return replace(unchecked, why=str(error))
        vector = self._judge(self._problem, online, row[self._problem.decided_at])
        found = self._find_inputs(prediction).gather(row, vector)
        differing = {
            name: (told.get(name), found.get(name))
            for name in {**told, **found}
            if not _same(told.get(name), found.get(name))
        }
        status, why = self._conclude(prediction, recomputed, differing)
        write = self._past.find_write(datetime.fromisoformat(prediction.received_at))
        return replace(
            unchecked,
            status=status,
            why=why,
            differing=differing,
            snapshot=write.snapshot.id if write else None,
            sources=online,
        )

    def _rebuild_row(self, prediction: Prediction) -> dict[str, Any]:
        (item,), _ = self._wire.requests.read(prediction.request.encode())
        row = self._wire.to_row(item)
        if prediction.reason == "request_features_failed":
            return row
        frame = pl.DataFrame([row], schema_overrides=self._problem.request_fields)
        return self._problem.add_request_features(frame).to_dicts()[0]

    def _score(self, prediction: Prediction, row: Mapping[str, Any]) -> float:
        if prediction.served_by == "prior" or prediction.model_version is None:
            return self._problem.prior
        package = self._load(prediction.model_version)
        if prediction.served_by == "rule":
            return package.rule.score(row)
        return package.predict([row])[0]

    def _find_online(
        self, prediction: Prediction, row: Mapping[str, Any], told: Mapping[str, Any]
    ) -> dict[str, PastRow]:
        at = datetime.fromisoformat(prediction.received_at)
        if self._past.find_write(at) is None:
            raise NotEnoughData(
                f"prediction {prediction.prediction_id}",
                got=f"no logged write to the online store before {at}",
                expected="one",
                next_step="It was answered before the first, or on another home.",
            )
        online = {}
        for table in self._problem.feature_tables:
            rows = self._past.find_rows(table, row, at)
            alone = replace(self._problem, feature_tables=(table,))
            decided = row[self._problem.decided_at]
            fitting = (r for r in rows if _agrees(self._judge(alone, {table.name: r}, decided), told))
            online[table.name] = next(fitting, rows[0])
        return online

    def _judge(self, problem: Problem, online: Mapping[str, PastRow], at: datetime) -> OnlineVector:
        answer: dict[str, list[Any]] = {}
        for table in problem.feature_tables:
            held = online[table.name]
            for name in table.features:
                answer[name] = [(held.values or {}).get(name)]
                answer[f"{name}__ts"] = [held.stamp]
        return judge_ages(problem, answer, 0, at)

    def _find_inputs(self, prediction: Prediction) -> Inputs:
        if prediction.model_version is not None:
            return self._load(prediction.model_version).inputs
        return Inputs.of(self._problem)

    def _conclude(
        self, prediction: Prediction, recomputed: float, differing: Mapping[str, Any]
    ) -> tuple[Status, str]:
        if not _same(prediction.score, recomputed):
            return "different", f"scored {prediction.score!r}, now {recomputed!r}"
        if not differing:
            return "exact", ""
        missing = {flag["feature"] for flag in json.loads(prediction.flags) if flag["kind"] == "missing"}
        stored = {f.name for f in self._problem.features if f.source != "request"}
        if stored <= missing and set(differing) <= missing:
            return "explained", "the answer says that the feature store was away"
        return "different", f"{len(differing)} features differ"

    def _load(self, version: str) -> "Package":
        from services.package import load_package

        if version not in self._packages:
            self._packages[version] = load_package(self._project.package(int(version)), version)
        return self._packages[version]

    @cached_property
    def _past(self) -> OnlinePast:
        log = Materializations(self._project.settings.home / "feast").read()
        return OnlinePast(self._project.lake, self._problem, log, self._slack)


def _agrees(vector: OnlineVector, told: Mapping[str, Any]) -> bool:
    return all(_same(told[name], value) for name, value in vector.values.items() if name in told)


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are the same to the last bit; no value and not a number are one."""
    one, other = (None if isinstance(v, float) and math.isnan(v) else v for v in (one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return float(one).hex() == float(other).hex()
    return bool(one == other)
