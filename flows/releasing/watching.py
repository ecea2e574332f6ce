"""What is known of a release under way: each whole day's difference in log loss, and what its answers were.

What belongs to a release is told by when it was answered, on the clock of this machine; which day it belongs
to by when it was asked for, on the data's own. A day counts once the last label of it could have come.
"""

import json
import math
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from feature_repo.contract import Period
from feature_repo.errors import PerennialError
from feature_repo.settings import Settings
from flows.clean_process import answer_in_clean_process
from flows.label import read_labels
from flows.local.children import fetch
from flows.policy.gate import log_loss
from flows.policy.watch import Watched, is_slow
from flows.project import Project
from flows.releasing.release_state import Rollout
from flows.served import parse_features
from services.routing import falls_to_challenger

REACH = timedelta(days=120)  # how far back of the data's time a release may have begun, if it is not told
EARLIER = timedelta(days=30)  # of the data's time, by which something asked after a release may lie before it
LATEST = datetime(9999, 1, 1, tzinfo=UTC)
# All that a look needs of an answer but its features, which are most of it.
TOLD = (
    *("prediction_id", "entity", "requested_at", "received_at"),
    *("model_version", "served_by", "reason", "score"),
)
FAILURES = ("champion_failed", "champion_late", "champion_refused")
# No model's doing: a full queue, a request that no feature can be made of, no champion at all; and what
# MLflow did not hand out, unless nobody could ever load it.
ELSEWHERE = ("overloaded", "request_features_failed", "no_champion")
UNREACHABLE = "champion_unreachable"
STARVED = "features_unavailable"
BUCKET = re.compile(r'^perennial_predict_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)
START = re.compile(r"^perennial_start_timestamp_seconds (\S+)$", re.MULTILINE)
STARTED = "started"  # when the counting began, beside the counts
Days = tuple[list[float], list[float]]  # differences, sizes


def gather_days(project: Project, rollout: Rollout, until: datetime) -> Days:
    """Return, by whole day beside the champion, its log loss less the champion's, and how many rows tell.

    In shadow both were asked the same; in a canary each of its own share, and a day tells as much as the
    smaller arm lets it. Answers that somebody pinned to an arm were not drawn, and do not count.
    """
    answers = _read_answers(project, rollout, until).filter(pl.col("reason") == "ok")
    told = _attach_outcomes(project, answers, until)
    champion = told.filter(
        pl.col("served_by") == "champion", pl.col("model_version") == str(rollout.baseline)
    )
    if rollout.terms["stage"] == "shadow":
        since = datetime.fromisoformat(rollout.since)
        scored = project.journal.read_shadows(Period(since, LATEST))
        mine = scored.filter(model_version=str(rollout.version)).select("prediction_id", other="score")
        return _pair(champion.join(mine, on="prediction_id"))
    challenger = told.filter(
        pl.col("served_by") == "challenger", pl.col("model_version") == str(rollout.version)
    )
    arms = [
        _add_loss(one).group_by("day").agg(pl.col("loss").mean(), pl.len()) for one in (challenger, champion)
    ]
    both = arms[0].join(arms[1], on="day", suffix="_other").sort("day")
    sizes = both["len"] * both["len_other"] / (both["len"] + both["len_other"])
    return (both["loss"] - both["loss_other"]).to_list(), sizes.to_list()


def gather_watch(project: Project, rollout: Rollout, until: datetime) -> Watched:
    """Return what is known of a new champion since its promotion."""
    answers, version = _read_answers(project, rollout, until), str(rollout.version)
    # Until every worker has followed, the one before goes on answering.
    before = (pl.col("served_by") == "champion") & (pl.col("model_version") == str(rollout.baseline))
    own = (pl.col("served_by") == "champion") & (pl.col("model_version") == version)
    loaded = bool(len(answers.filter(own)))
    elsewhere = (*ELSEWHERE, UNREACHABLE) if loaded else ELSEWHERE
    asked = answers.filter(~before, pl.col("served_by") != "challenger", ~pl.col("reason").is_in(elsewhere))
    # An empty store starves any model; one that asks for more than the one before may have brought it about.
    starved = pl.col("reason") == STARVED
    if len(asked.filter(starved)) and not _asks_for_more(project, rollout):
        asked = asked.filter(~starved)
    failed = asked.filter(pl.col("reason").is_in((*FAILURES, UNREACHABLE)))
    mine = asked.filter(own)
    begun = rollout.terms.get("from")  # a record of before this was kept has the first answer's time
    first = datetime.fromisoformat(begun) if begun else mine["requested_at"].min()
    days = (until - first) / timedelta(days=1) if isinstance(first, datetime) else 0.0
    differences, sizes, trouble = _compare_with_before(project, rollout, mine, until)
    earlier = rollout.terms.get("latency") or {}
    before_ms = earlier.get("p95_ms")
    after_ms = find_p95(read_latency(project.settings), earlier.get("counts", {}))
    return Watched(
        asked=len(asked),
        answered=len(mine),
        failed=len(failed),
        failed_minutes=_count_minutes(failed),
        lacking_minutes=_count_minutes(asked.join(mine, on="prediction_id", how="anti")),
        before_ms=before_ms,
        after_ms=after_ms,
        cpu_ms=_measure_alone(project, rollout) if is_slow(before_ms, after_ms) else None,
        differences=differences,
        sizes=sizes,
        days=max(days, 0.0),
        wait=project.problem.horizon / timedelta(days=1),
        comparable=trouble,
    )


def count_days_asked(project: Project, rollout: Rollout, until: datetime) -> int:
    """Return on how many of the data's days anything was asked since the rollout began."""
    zone = project.problem.time_zone
    answers = _read_answers(project, rollout, until)
    return int(answers["requested_at"].dt.convert_time_zone(zone).dt.date().n_unique())


def count_challenged(project: Project, rollout: Rollout, until: datetime) -> tuple[int, int, int]:
    """Return how many answers a canary's challenger failed to give, in how many minutes, and of how many.

    Of what its hash draws to it: not what a header pinned to it, nor what another challenger was to answer.
    """
    answers, share = _read_answers(project, rollout, until), float(rollout.terms["share"])
    mine = [falls_to_challenger(name, str(rollout.version), share) for name in answers["entity"]]
    drawn = answers.filter(pl.Series(mine, dtype=pl.Boolean))
    failed = drawn.filter(pl.col("reason").str.starts_with("challenger_"))
    given = drawn.filter(pl.col("served_by") == "challenger", pl.col("reason") == "ok")
    return len(failed), _count_minutes(failed), len(failed) + len(given)


def read_latency(settings: Settings) -> dict[str, float]:
    """Return how many answers took at most so many seconds, by limit, and STARTED; empty if it is silent.

    They are of the one service that is asked: a balancer refuses to answer for its replicas.
    """
    text = (fetch(f"{settings.service_url}/metrics", 2.0) or b"").decode()
    counts = {limit: float(count) for limit, count in BUCKET.findall(text)}
    started = START.search(text)
    return {**counts, STARTED: float(started[1])} if started else counts


def find_p95(now: dict[str, float], before: dict[str, float]) -> float | None:
    """Return the 95th percentile, in ms, of what was answered in between; None if that is unknown.

    A service that started since then counts anew. Counts kept without a start are taken for the same one's.
    """
    anew = STARTED in before and before[STARTED] != now.get(STARTED)
    counts = {
        limit: count - (0.0 if anew else before.get(limit, 0.0))
        for limit, count in now.items()
        if limit != STARTED
    }
    total = counts.get("+Inf", 0.0)
    if total < 100 or min(counts.values()) < 0:  # too few, or a service that began to count anew
        return None
    limits = sorted((float(limit), count) for limit, count in counts.items())
    reached = next(limit for limit, count in limits if count >= 0.95 * total)
    return reached * 1_000


def _read_answers(project: Project, rollout: Rollout, until: datetime) -> pl.DataFrame:
    """Return what was answered since the rollout began, also of times that have not landed yet."""
    begun = rollout.terms.get("from")
    first = datetime.fromisoformat(begun) - EARLIER if begun else until - REACH
    read = project.journal.read_predictions(Period(first, LATEST), TOLD)
    read = read.filter(~pl.col("prediction_id").is_in(project.journal.list_replayed()))
    kind = pl.Datetime("us", "UTC")
    instants = (
        pl.col(n).str.to_datetime("%+", time_unit="us", time_zone="UTC").cast(kind)
        for n in ("requested_at", "received_at")
    )
    since = datetime.fromisoformat(rollout.since)
    return read.with_columns(*instants).filter(pl.col("received_at") >= since)


def _count_minutes(answers: pl.DataFrame) -> int:
    return answers["received_at"].dt.truncate("1m").n_unique()


def _asks_for_more(project: Project, rollout: Rollout) -> bool:
    """Return whether the version has inputs that the one before did not have; False if that is unknown."""
    if rollout.baseline is None:
        return False
    try:
        new, old = (
            {f["name"] for f in json.loads((project.package(v) / "contract.json").read_text())["features"]}
            for v in (rollout.version, rollout.baseline)
        )
    except (PerennialError, OSError, ValueError, KeyError):
        return False
    return not new <= old


def _attach_outcomes(project: Project, answers: pl.DataFrame, until: datetime) -> pl.DataFrame:
    """Return the answers whose day is whole, with day and outcome."""
    labels = read_labels(project.lake, Period(until - REACH, until), until)
    known = labels.filter(pl.col("outcome").is_not_null()).select("prediction_id", "outcome")
    zone = project.problem.time_zone
    local = pl.col("requested_at").dt.convert_time_zone(zone).dt.date()
    told = answers.join(known, on="prediction_id").with_columns(day=local)
    whole = [day for day in told["day"].unique() if project.day(day).until + project.problem.horizon <= until]
    return told.filter(pl.col("day").is_in(whole))


def _attach_features(project: Project, told: pl.DataFrame) -> pl.DataFrame:
    """Return the answers with the features that they were made of."""
    first, last = told["requested_at"].min(), told["requested_at"].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        return told.with_columns(features=pl.lit("{}"))
    stretch = Period(first, last + timedelta(seconds=1))
    features = project.journal.read_predictions(stretch, ("prediction_id", "features"))
    return told.join(features, on="prediction_id", maintain_order="left")


def _measure_alone(project: Project, rollout: Rollout) -> tuple[float, float] | None:
    """Return what an answer takes of CPU, in ms, before and now; None where that cannot be compared.

    A new version that does not answer where the one before does takes for ever.
    """
    if rollout.baseline is None:
        return None
    try:
        before, after = (_measure_cpu(project.package(v)) for v in (rollout.baseline, rollout.version))
    except (PerennialError, OSError):
        return None
    return None if before == math.inf else (before, after)


@lru_cache(maxsize=8)
def _measure_cpu(package: Path) -> float:
    """Return what one answer takes of CPU, in ms: measured once, for a package never changes."""
    found, _ = answer_in_clean_process(package)
    return math.inf if found is None else found


def _compare_with_before(
    project: Project, rollout: Rollout, mine: pl.DataFrame, until: datetime
) -> tuple[list[float], list[float], str]:
    """Return each whole day's log loss less that of the version before, on the very same features."""
    told = _attach_features(project, _attach_outcomes(project, mine, until))
    if rollout.baseline is None:
        return [], [], "there is no version before"
    try:
        scores = _score_again(project.package(rollout.version), project.package(rollout.baseline), told)
    except (PerennialError, OSError, ValueError, KeyError) as error:
        return [], [], f"version {rollout.baseline} cannot be asked again: {error}"
    differences, sizes = _pair(told.with_columns(other="score", score=pl.Series(scores, dtype=pl.Float64)))
    return differences, sizes, ""


def _score_again(new: Path, old: Path, told: pl.DataFrame) -> list[float]:
    from services.ladder import is_probability
    from services.package import load_package

    if not len(told):
        return []
    contract = json.loads((new / "contract.json").read_text())
    package, known = load_package(old), parse_features(told, contract)
    names = [feature["name"] for feature in package.contract["features"]]
    if lacking := sorted(set(names) - set(known.columns)):
        raise ValueError(f"no {', '.join(lacking)} in the journal")
    scores = package.predict(known.select(names).to_dicts())
    if not all(map(is_probability, scores)):
        raise ValueError("a score that is no probability")
    return scores


def _pair(told: pl.DataFrame) -> Days:
    """Return by day the mean of the loss of `other` less that of `score`, and the rows."""
    outcomes = told["outcome"].to_numpy()
    one, other = (log_loss(outcomes, told[name].to_numpy()) for name in ("score", "other"))
    return _by_day(told["day"], other - one)


def _by_day(days: pl.Series, values: Any) -> Days:
    frame = pl.DataFrame({"day": days, "value": np.asarray(values, dtype=float)})
    daily = frame.group_by("day").agg(pl.col("value").mean(), pl.len()).sort("day")
    return daily["value"].to_list(), daily["len"].cast(pl.Float64).to_list()


def _add_loss(told: pl.DataFrame) -> pl.DataFrame:
    loss = log_loss(told["outcome"].to_numpy(), told["score"].to_numpy())
    return told.with_columns(loss=pl.Series(loss, dtype=pl.Float64))
