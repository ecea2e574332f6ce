"""Old answers and training sets are made again from the lake, on the toy problem."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from feature_repo.contract import Period
from feature_repo.errors import NotEnoughData, StoreUnavailable
from feature_repo.lake import content_hash
from feature_repo.materializations import Materializations
from flows.features import STAMP, build_features, materialize_period, refresh_online
from flows.project import Project
from flows.replay import Replay, Replayer, replay_dataset
from flows.training_set import build_training_set
from services.answering import Answering
from services.journal import Prediction, format_instant
from services.live import Serving
from services.metrics import Metrics
from services.package import load_package
from tests import toy
from tests.contracts.test_service import WIRE
from tests.packages import write_package

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
NOON = toy.START + timedelta(days=10, hours=12)
HOUR = timedelta(hours=1)


class Models:
    """Models that serve what they are told to."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving

    def read_status(self) -> dict[str, Any]:
        return {}


class AwayStore:
    """A feature store that is away."""

    def read_online(self, rows: Sequence[Any]) -> list[Any]:
        raise StoreUnavailable("store", got="nothing", expected="an answer", next_step="Wait.")


@pytest.fixture
def project(make_toy: Callable[..., Project]) -> Project:
    """Return the toy problem with ten days and a half landed, all of it online, and a model version 1."""
    project = make_toy()
    for name, frame in toy.make_orders(12).items():
        known = frame.filter(pl.col("known_at") < NOON)
        project.lake.replace(name, known, Period(toy.START, NOON), "known_at")
    period = Period(toy.START, NOON)
    materialize_period(project, build_features(project, period), period)
    let_time_pass(project)
    write_package(project.settings.home / "packages" / "1", toy.TOY, seed=1)
    return project


def let_time_pass(project: Project) -> None:
    """Make all that was done an hour older, so that no answer was given while a write went on."""
    log = project.settings.home / "feast" / "materializations.db"
    shift(log, "materializations", "id", "started_at", lambda at: at.isoformat(timespec="microseconds"))
    shift(log, "materializations", "id", "ended_at", lambda at: at.isoformat(timespec="microseconds"))
    journal = project.settings.home / "journal" / "journal.db"
    if journal.exists():
        shift(journal, "predictions", "prediction_id", "received_at", format_instant)


def shift(path: Path, table: str, key: str, column: str, write: Callable[[datetime], str]) -> None:
    with closing(sqlite3.connect(path, timeout=10)) as connection, connection:
        for identity, text in connection.execute(f"SELECT {key}, {column} FROM {table}").fetchall():
            told = write(datetime.fromisoformat(text) - HOUR) if text else None
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (told, identity))


def land(project: Project, since: datetime, until: datetime) -> dict[str, pl.DataFrame]:
    """Land what became known in the period, and return its features, not yet online."""
    period = Period(since, until)
    for name, frame in toy.make_orders(12).items():
        within = pl.col("known_at").is_between(since, until, closed="left")
        project.lake.replace(name, frame.filter(within), period, "known_at")
    return build_features(project, period)


def answer(
    project: Project,
    at: datetime = NOON,
    serving: Serving | None = None,
    store: Any = None,
    shops: Sequence[str] = toy.SHOPS,
) -> list[Prediction]:
    """Answer one order a shop with the service's own code, journal the answers and return them."""
    package = load_package(project.package(1), "1")
    models = Models(serving or Serving(champion=package))
    answering = Answering(toy.TOY, store or project.store, models, Metrics())
    asked = [
        {"order_id": f"{shop}-{at:%d%H%M}", "shop": shop, "amount": 12.34, "ordered_at": at.isoformat()}
        for shop in shops
    ]
    sent = [msgspec.json.encode(one) for one in asked]
    rows = [WIRE.to_row(item) for one in sent for item in WIRE.requests.read(one)[0]]
    made = answering.answer(rows, sent)
    project.journal.append(made.predictions)
    return made.predictions


def replay(project: Project, predictions: Sequence[Prediction]) -> list[Replay]:
    """Read the answers back from the journal and replay them with nothing remembered."""
    replayer = Replayer(project, WIRE)
    found = [project.journal.find_prediction(one.prediction_id) for one in predictions]
    return [replayer.replay(one) for one in found if one]


def statuses(told: Sequence[Replay]) -> set[str]:
    return {one.status for one in told}


def test_answers_of_every_rung_replay_exactly(project: Project) -> None:
    """Champion, previous version, rule and prior: the score is the same to the last bit."""
    package = load_package(project.package(1), "1")
    late = NOON + timedelta(hours=7)  # beyond the features' freshness limit: the rule answers
    made = [
        *answer(project),
        *answer(project, NOON + HOUR, Serving(previous=package, reason="champion_refused")),
        *answer(project, late),
        *answer(project, NOON + 2 * HOUR, Serving()),
    ]
    assert [one.served_by for one in made[::4]] == ["champion", "previous", "rule", "prior"]
    told = replay(project, made)
    assert statuses(told) == {"exact"}
    assert [one.recomputed.hex() for one in told] == [one.score.hex() for one in made]


def test_an_answer_replays_after_newer_values_a_correction_and_a_refresh(project: Project) -> None:
    """What was online when it was given counts, not what is online now."""
    first = answer(project)
    let_time_pass(project)
    frames = land(project, NOON, NOON + HOUR)
    materialize_period(project, frames, Period(NOON, NOON + HOUR))
    let_time_pass(project)
    second = answer(project, NOON + HOUR)
    let_time_pass(project)
    day = Period(NOON - timedelta(hours=12), NOON)
    corrected = project.lake.read("returns", day).with_columns(returned=pl.lit(1, pl.Int8))
    project.lake.replace("returns", corrected, day, "known_at")
    build_features(project, Period(day.since, NOON + HOUR))
    assert refresh_online(project) == len(toy.SHOPS)
    let_time_pass(project)
    third = answer(project, NOON + HOUR)
    assert [one.features for one in third] != [one.features for one in second]
    told = replay(project, [*first, *second, *third])
    assert statuses(told) == {"exact"}
    assert len({one.sources["shop_day"].version for one in told}) == 3


def test_hours_of_one_day_that_go_online_one_by_one_replay_each(project: Project) -> None:
    """The lake holds a whole day's ticks; only those that had gone online count."""
    frames = land(project, NOON, NOON + 6 * HOUR)
    made = []
    for n in range(6):
        materialize_period(project, frames, Period(NOON + n * HOUR, NOON + (n + 1) * HOUR))
        let_time_pass(project)
        made += answer(project, NOON + (n + 1) * HOUR)
    told = replay(project, made)
    assert statuses(told) == {"exact"}
    assert len({one.sources["shop_day"].stamp for one in told}) == 6


def test_a_journalled_value_that_was_not_online_is_a_difference(project: Project) -> None:
    """The differing feature is named, with what the answer says and what the lake says."""
    (made,) = answer(project, shops=["north"])
    truth = msgspec.json.decode(made.features)["shop_returned_1d"]
    forged = msgspec.json.encode({**msgspec.json.decode(made.features), "shop_returned_1d": 0.5}).decode()
    told = Replayer(project, WIRE).replay(made._replace(features=forged))
    assert told.status == "different"
    assert told.differing == {"shop_returned_1d": (0.5, truth)} or told.score != told.recomputed


def test_a_score_one_bit_off_is_a_difference(project: Project) -> None:
    """Scores are compared bit by bit."""
    (made,) = answer(project, shops=["north"])
    told = Replayer(project, WIRE).replay(made._replace(score=made.score * (1 + 2**-52)))
    assert told.status == "different"
    assert "scored" in told.why


def test_what_a_store_that_was_away_left_out_is_explained(project: Project) -> None:
    """The answer said that its features were missing; the lake had them."""
    told = replay(project, answer(project, store=AwayStore()))
    assert statuses(told) == {"explained"}
    assert set(told[0].differing) == {"shop_returned_1d"}


def test_an_unknown_key_replays_as_unknown(project: Project) -> None:
    """A shop that no feature table knows has no value then and now."""
    assert statuses(replay(project, answer(project, shops=["moon"]))) == {"exact"}


def test_an_answer_given_while_a_write_went_on_replays(project: Project) -> None:
    """It may have seen the old values or the new ones; both are exact, others are not."""
    old = answer(project)
    frames = land(project, NOON, NOON + HOUR)
    materialize_period(project, frames, Period(NOON, NOON + HOUR))
    new = answer(project)
    log = Materializations(project.settings.home / "feast")
    last = log.read()[-1]
    meanwhile = (last.started_at + timedelta(microseconds=1)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    replayer = Replayer(project, WIRE)
    told = [replayer.replay(one._replace(received_at=meanwhile)) for one in (*old, *new)]
    assert statuses(told) == {"exact"}
    ticks = [one.sources["shop_day"].stamp for one in told]
    assert ticks == [NOON.timestamp()] * 4 + [(NOON + HOUR).timestamp()] * 4


def test_a_write_that_was_killed_may_have_taken_effect(project: Project) -> None:
    """Its log row was never closed: answers replay whether or not its values got online."""
    frames = land(project, NOON, NOON + 2 * HOUR)
    materialize_period(project, frames, Period(NOON, NOON + HOUR))
    with closing(sqlite3.connect(project.settings.home / "feast" / "materializations.db")) as log:
        log.execute(
            "UPDATE materializations SET ended_at = NULL WHERE id = (SELECT max(id) FROM materializations)"
        )
        log.commit()
    made = answer(project, NOON + HOUR)
    materialize_period(project, frames, Period(NOON + HOUR, NOON + 2 * HOUR))
    assert statuses(replay(project, [*made, *answer(project, NOON + 2 * HOUR)])) == {"exact"}


def test_versions_that_retention_dropped_are_told(project: Project) -> None:
    """An answer older than what is kept is neither exact nor different, and says why."""
    made = answer(project)
    frames = land(project, NOON, NOON + 20 * HOUR)
    materialize_period(project, frames, Period(NOON, NOON + 20 * HOUR))
    project.lake.compact("shop_day", small_files=2)
    project.lake.vacuum("shop_day", (), 0)
    (told, *_) = replay(project, made)
    assert told.status == "gone"
    assert "shop_day" in told.why


def test_an_answer_from_before_the_log_is_told(project: Project) -> None:
    """Where no write was logged, nothing says what was online."""
    made = answer(project)
    (project.settings.home / "feast" / "materializations.db").unlink()
    (told, *_) = replay(project, made)
    assert told.status == "gone"
    assert "no logged write" in told.why


def read_values(project: Project, at: datetime) -> list[float | None]:
    rows = [{"shop": shop, "decided_at": at} for shop in toy.SHOPS]
    return [vector.values["shop_returned_1d"] for vector in project.store.read_online(rows)]


def test_older_rows_never_replace_newer_ones_online(project: Project) -> None:
    """Writing a past day again leaves what is online alone."""
    before = read_values(project, NOON)
    past = Period(NOON - timedelta(days=3), NOON - timedelta(days=2))
    assert materialize_period(project, build_features(project, past), past) == 0
    assert read_values(project, NOON) == before
    assert None not in before
    assert statuses(replay(project, answer(project))) == {"exact"}


def test_a_newest_row_of_nulls_goes_online(project: Project) -> None:
    """A null that was observed replaces the number before it."""
    tick = NOON + HOUR
    frame = (
        project.lake.read("shop_day")
        .unique("shop")
        .with_columns(pl.lit(tick).cast(toy.INSTANT).alias(STAMP), shop_returned_1d=pl.lit(None, pl.Float64))
    )
    project.lake.replace("shop_day", frame, Period(NOON, tick), STAMP, closed="right")
    assert materialize_period(project, {"shop_day": frame}, Period(NOON, tick)) == len(toy.SHOPS)
    assert read_values(project, tick) == [None] * len(toy.SHOPS)
    assert statuses(replay(project, answer(project, tick))) == {"exact"}


def test_a_write_says_what_it_wrote(project: Project) -> None:
    """The log names the ticks and the versions of the tables that they came from."""
    (write,) = Materializations(project.settings.home / "feast").read()
    assert (write.since, write.until) == (toy.START, NOON)
    assert write.snapshot == project.lake.current(["shop_day"])
    assert write.ended_at is not None


def test_a_feature_commit_names_the_raw_versions_it_read(project: Project) -> None:
    """The version of a feature table leads to a snapshot of the raw tables."""
    told = project.lake.history("shop_day")[0]
    assert told["perennial.snapshot"] == project.lake.current(["returns"]).id
    assert told["perennial.versions"] == '{"returns": 0}'


def test_a_sample_is_the_same_every_time(project: Project) -> None:
    """Sampling picks by chance, but the same ones for the same journal."""
    made = answer(project)
    period = Period(NOON, NOON + HOUR)
    chosen = project.journal.sample_predictions(period, 3)
    assert chosen == project.journal.sample_predictions(period, 3)
    assert len({one.prediction_id for one in chosen} & {one.prediction_id for one in made}) == 3
    assert project.journal.find_prediction("nobody") is None


def test_a_training_set_is_built_again_to_the_same_hash(project: Project) -> None:
    """After new data, a correction, a compaction and a vacuum that keeps its snapshot."""
    training = build_training_set(project, NOON)
    tags = {
        "perennial.snapshot": training.snapshot.id,
        "perennial.until": training.until.isoformat(),
        "perennial.training_set_sha256": training.sha256,
    }
    land(project, NOON, NOON + 5 * HOUR)
    early = Period(toy.START, toy.START + timedelta(days=5))
    corrected = project.lake.read("returns", early).with_columns(returned=pl.lit(1, pl.Int8))
    project.lake.replace("returns", corrected, early, "known_at")
    assert build_training_set(project, NOON).sha256 != training.sha256
    for table in project.lake.tables():
        project.lake.compact(table, small_files=2)
        project.lake.vacuum(table, [training.snapshot.versions[table]], 0)
    told = replay_dataset(project, "run", tags)
    assert told.same
    assert told.rows == len(training.rows)
    assert told.rebuilt == training.sha256 == content_hash(training.rows)


def test_a_training_set_that_cannot_be_built_says_why(project: Project) -> None:
    """A run without tags, and a snapshot without files, are named."""
    training = build_training_set(project, NOON)
    with pytest.raises(NotEnoughData, match=r"perennial.snapshot, perennial.until"):
        replay_dataset(project, "run", {"perennial.training_set_sha256": training.sha256})
    tags = {
        "perennial.snapshot": training.snapshot.id,
        "perennial.until": training.until.isoformat(),
        "perennial.training_set_sha256": training.sha256,
    }
    land(project, NOON, NOON + 5 * HOUR)
    project.lake.compact("orders", small_files=2)
    project.lake.vacuum("orders", (), 0)
    with pytest.raises(NotEnoughData, match="orders"):
        replay_dataset(project, "run", tags)


def test_what_is_on_disk_is_all_that_a_replay_needs(project: Project) -> None:
    """Another process on the same home replays what this one answered."""
    made = answer(project)
    assert statuses(replay(replace(project), made)) == {"exact"}
