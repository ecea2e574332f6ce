"""Labels: outcomes joined to predictions, whatever the order and however often they are told."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.contract import Period, RawTable
from feature_repo.lake import Lake
from feature_repo.problem import PROBLEM
from flows.label import OUTCOME_SCHEMA, join_outcomes, label_period, read_labels

INSTANT = pl.Datetime("us", "UTC")
NOON = datetime(2013, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
HORIZON = timedelta(days=2)
LANDED = {"flight_id": pl.String, "late": pl.Float64, "status": pl.String, "known_at": INSTANT}
TOY = replace(
    PROBLEM,
    name="toy",
    horizon=HORIZON,
    start=NOON,
    raw=(RawTable("landings", LANDED, key=("flight_id",)),),
    build_outcomes=lambda raw: raw["landings"],
)


class FakeJournal:
    """A journal in memory, with times as text, as the real one keeps them."""

    def __init__(self, predictions=(), outcomes=(), replayed=()):
        self.predictions, self.outcomes = list(predictions), list(outcomes)
        self.replayed = list(replayed)

    def read_predictions(self, period):
        return self._within(self.predictions, "requested_at", period)

    def list_replayed(self):
        return self.replayed

    def read_outcomes(self, period):
        return self._within(self.outcomes, "observed_at", period)

    def _within(self, rows, by, period):
        return pl.DataFrame([r for r in rows if period.since <= datetime.fromisoformat(r[by]) < period.until])


def asked(entity, at=NOON, number=1, version="1", score=0.5):
    """A journalled prediction."""
    return {
        "prediction_id": f"{entity}/{number}",
        "entity": entity,
        "requested_at": at.isoformat(),
        "received_at": (at + timedelta(minutes=number)).isoformat().replace("+00:00", "Z"),
        "score": score,
        "model_version": version,
        "served_by": "champion",
    }


def told(entity, value, at, status="arrived", prediction=None):
    """An outcome."""
    return {"entity": entity, "prediction_id": prediction, "outcome": value, "status": status, "known_at": at}


def join(predictions, outcomes):
    """Join rows given as dicts."""
    return join_outcomes(pl.DataFrame(predictions), pl.DataFrame(outcomes, schema=OUTCOME_SCHEMA), HORIZON)


def test_an_outcome_labels_its_prediction():
    """One prediction, one outcome: one label with both."""
    result = join([asked("a")], [told("a", 1.0, NOON + 4 * HOUR)])
    assert result.labels.select("prediction_id", "outcome", "status").rows() == [("a/1", 1.0, "arrived")]
    assert result.counts.labelled == 1


def test_the_latest_prediction_counts_and_the_others_are_superseded():
    """Of several predictions of one thing the one asked for last is labelled."""
    result = join([asked("a", number=1), asked("a", NOON + HOUR, 2)], [told("a", 1.0, NOON + 4 * HOUR)])
    assert result.labels["prediction_id"].to_list() == ["a/2"]
    assert result.counts.superseded == 1


def test_an_outcome_that_names_a_prediction_is_that_ones():
    """Whatever was asked about the same thing later."""
    named = told("a", 1.0, NOON + 4 * HOUR, prediction="a/1")
    result = join([asked("a", number=1), asked("a", NOON + HOUR, 2)], [named])
    assert result.labels["prediction_id"].to_list() == ["a/1"]


def test_of_equal_requests_the_first_answer_counts():
    """A request that was sent again leaves two records; the client acted on the first."""
    result = join([asked("a", number=2), asked("a", number=1)], [told("a", 1.0, NOON + 4 * HOUR)])
    assert result.labels["prediction_id"].to_list() == ["a/1"]


def test_a_prediction_made_in_hindsight_is_never_scored():
    """A prediction asked for after its outcome was known proves nothing."""
    result = join([asked("a"), asked("a", NOON + 9 * HOUR, 2)], [told("a", 1.0, NOON + 4 * HOUR)])
    assert result.labels["prediction_id"].to_list() == ["a/1"]
    assert result.counts.hindsight == 1


def test_an_outcome_told_twice_is_one_label_known_at_first():
    """A duplicate neither moves nor doubles the label."""
    result = join([asked("a")], [told("a", 1.0, NOON + 4 * HOUR), told("a", 1.0, NOON + 5 * HOUR)])
    assert result.labels["known_at"].to_list() == [NOON + 4 * HOUR]
    assert (result.counts.duplicates, result.counts.conflicts) == (1, 0)


def test_of_conflicting_outcomes_the_one_known_last_wins():
    """A correction replaces what was told before, and is counted."""
    result = join([asked("a")], [told("a", 1.0, NOON + 4 * HOUR), told("a", 0.0, NOON + 5 * HOUR)])
    assert result.labels["outcome"].to_list() == [0.0]
    assert result.counts.conflicts == 1


def test_what_will_never_have_an_outcome_is_kept_as_such():
    """A cancelled flight is a label without outcome, counted as excluded."""
    result = join([asked("a")], [told("a", None, NOON + HOUR, "cancelled")])
    assert result.labels.select("outcome", "status").rows() == [(None, "cancelled")]
    assert result.counts.excluded == 1


def test_late_outcomes_and_orphans_are_counted():
    """After the horizon a label still counts, and says so; one without prediction is an orphan."""
    late = told("a", 1.0, NOON + HORIZON + HOUR)
    counts = join([asked("a")], [late, told("nobody", 1.0, NOON)]).counts
    assert (counts.late, counts.orphans, counts.labelled) == (1, 1, 1)


def test_feedback_by_prediction_id_reaches_the_thing_predicted():
    """An outcome may name the prediction instead of the entity."""
    result = join([asked("a")], [told(None, 1.0, NOON + 4 * HOUR, prediction="a/1")])
    assert result.labels["entity"].to_list() == ["a"]


def test_no_predictions_and_no_outcomes_are_no_labels():
    """An empty day gives an empty table of the right columns."""
    assert join([], []).labels.is_empty()
    assert join([], [told("a", 1.0, NOON)]).counts.orphans == 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_order_of_rows_does_not_matter(data):
    """Predictions and outcomes shuffled in any way give the same labels and counts."""
    entity, hours = st.sampled_from("abc"), st.integers(0, 60)
    rows = data.draw(st.lists(st.tuples(entity, hours), max_size=8))
    predictions = [asked(e, NOON + h * HOUR, i) for i, (e, h) in enumerate(rows)]
    values = st.sampled_from([0.0, 1.0, None])
    outcomes = [
        told(e, v, NOON + h * HOUR, "arrived" if v is not None else "cancelled", p)
        for e, v, h, p in data.draw(
            st.lists(st.tuples(entity, values, hours, st.sampled_from([None, "a/0", "b/1"])), max_size=8)
        )
    ]
    first = join(predictions, outcomes)
    again = join(data.draw(st.permutations(predictions)), data.draw(st.permutations(outcomes)))
    assert first.labels.equals(again.labels)
    assert first.counts == again.counts
    assert first.labels["entity"].n_unique() == len(first.labels)


@pytest.fixture
def lake(tmp_path):
    """A lake with three landings: on the first day two, on the second one that was cancelled."""
    lake = Lake(tmp_path / "lake")
    rows = [("a", 1.0, "arrived", NOON + 4 * HOUR), ("b", 0.0, "arrived", NOON + 5 * HOUR)]
    rows += [("c", None, "cancelled", NOON + 30 * HOUR)]
    period = Period(NOON, NOON + timedelta(days=2))
    lake.replace("landings", pl.DataFrame(rows, schema=LANDED, orient="row"), period, by="known_at")
    return lake


def day(number):
    """A logical day, from noon to noon."""
    return Period(NOON + timedelta(days=number), NOON + timedelta(days=number + 1))


def test_labelling_a_period_again_changes_nothing(lake):
    """The same days labelled twice, in any order, leave the same table."""
    journal = FakeJournal([asked("a"), asked("b"), asked("c", NOON + 20 * HOUR)])
    counts = [label_period(lake, journal, TOY, day(n)) for n in (0, 1)]
    before, version = lake.hashes(), lake.version("labels")
    for number in (1, 0, 0):
        assert label_period(lake, journal, TOY, day(number)) == counts[number]
    assert (lake.hashes(), lake.version("labels")) == (before, version)
    assert [c.labelled for c in counts] == [2, 1]


def test_feedback_and_source_are_one_outcome(lake):
    """What /feedback said and what the source says later are a duplicate, or a conflict."""
    feedback = {"entity": "a", "prediction_id": None, "outcome": 0.0, "status": "arrived"}
    journal = FakeJournal(
        [asked("a"), asked("b")], [{**feedback, "observed_at": (NOON + 3 * HOUR).isoformat()}]
    )
    counts = label_period(lake, journal, TOY, day(0))
    assert (counts.conflicts, counts.labelled) == (1, 2)
    assert read_labels(lake, day(0), NOON + 9 * HOUR).filter(entity="a")["outcome"].item() == 1.0


def test_a_correction_on_a_later_day_wins_without_rewriting_the_past(lake):
    """Labels are read as they stood at an instant: before a correction the old value, then the new."""
    feedback = {"entity": "a", "prediction_id": "a/1", "outcome": 0.0, "status": "arrived"}
    journal = FakeJournal([asked("a")], [{**feedback, "observed_at": (NOON + 26 * HOUR).isoformat()}])
    for number in (0, 1):
        label_period(lake, journal, TOY, day(number))
    seen = [read_labels(lake, day(0), NOON + h * HOUR)["outcome"].to_list() for h in (5, 25, 27)]
    assert seen == [[1.0], [1.0], [0.0]]


def test_a_lake_without_outcomes_labels_nothing(tmp_path):
    """Before the first batch there are no labels, and no error."""
    counts = label_period(Lake(tmp_path), FakeJournal([asked("a")]), TOY, day(0))
    assert counts == replace(counts, outcomes=0, labelled=0, orphans=0)
    assert read_labels(Lake(tmp_path), day(0), NOON + HOUR).is_empty()


def test_an_answer_to_a_dead_letter_sent_again_is_no_ones_label(lake):
    """It was given after a fix, to nobody: the outcome is left without a prediction."""
    for replayed, labelled in (((), 1), (("a/1",), 0)):
        counts = label_period(lake, FakeJournal([asked("a")], replayed=replayed), TOY, day(0))
        assert counts.labelled == labelled
