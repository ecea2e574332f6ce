"""Labels: outcomes joined to predictions, whatever the order and however often they are told."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.contract import Period, RawTable
from feature_repo.lake import Lake
from feature_repo.problem import PROBLEM
from flows.label import LabelCounts, as_asked, count_labels, label_period, read_labels
from flows.outcomes import FATES, TOLD_SCHEMA, name_things, resolve
from flows.outcomes_kept import MARK, TABLE, count_fates, read_kept
from services.journal_records import Mark, News, Prediction

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

    def find_prediction(self, prediction_id):
        rest = dict.fromkeys(Prediction._fields, "")
        found = [Prediction(**rest | p) for p in self.predictions if p["prediction_id"] == prediction_id]
        return found[0] if found else None

    def find_news(self, after):
        new = [p["requested_at"] for p in self.predictions[after.predictions :]]
        new += [o["observed_at"] for o in self.outcomes[after.outcomes :]]
        return News(Mark(len(self.outcomes), len(self.predictions)), min(new, default=None))

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


def told(entity, value, at, status="arrived", prediction=None, via="api"):
    """An outcome."""
    row = {"entity": entity, "prediction_id": prediction, "outcome": value, "status": status}
    return {**row, "known_at": at, "via": via}


@dataclass(frozen=True)
class Joined:
    """Outcomes joined to predictions."""

    history: pl.DataFrame  # a row for each change of a label
    labels: pl.DataFrame  # the last of each thing
    fates: list[str]
    counts: LabelCounts


def join(predictions, outcomes):
    """Join rows given as dicts."""
    asked = as_asked(pl.DataFrame(predictions))
    rows = name_things(pl.DataFrame(outcomes, schema=TOLD_SCHEMA), asked)
    resolved = resolve(asked, rows, HORIZON)
    labels = resolved.labels.group_by("entity", maintain_order=True).last().select(resolved.labels.columns)
    counts = count_labels(resolved, Period(NOON - 99 * HOUR, NOON + 999 * HOUR))
    return Joined(
        resolved.labels, labels.sort("known_at", "prediction_id"), list(resolved.told["fate"]), counts
    )


def as_feedback(entity, value, at, prediction=None):
    """An outcome as the journal has it."""
    row = {"entity": entity, "prediction_id": prediction, "outcome": value, "status": "arrived"}
    return {**row, "observed_at": at.isoformat().replace("+00:00", "Z")}


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
    joined = join([asked("a")], [late, told("nobody", 1.0, NOON)])
    assert (joined.counts.late, joined.counts.orphans, joined.counts.labelled) == (1, 1, 1)
    assert joined.fates == ["late", "orphan"]


def test_the_source_holds_against_a_client_however_late_the_client_says_otherwise():
    """A client's later word is a conflict, and its earlier one too; the label is the source's."""
    outcomes = [
        told("a", 0.0, NOON + 3 * HOUR),
        told("a", 1.0, NOON + 4 * HOUR, via="source"),
        told("a", 0.0, NOON + 5 * HOUR),
    ]
    joined = join([asked("a")], outcomes)
    assert joined.labels["outcome"].to_list() == [1.0]
    assert joined.fates == ["conflict", "accepted", "conflict"]
    assert joined.history["outcome"].to_list() == [0.0, 1.0]


@pytest.mark.parametrize(("early", "fate"), [(0.0, "conflict"), (1.0, "duplicate")])
def test_a_client_whose_clock_is_early_takes_no_label_away(early, fate):
    """When it became known is the source's to say: the label is the source's, known when it says so."""
    outcomes = [told("a", early, NOON - HOUR), told("a", 1.0, NOON + 4 * HOUR, via="source")]
    joined = join([asked("a")], outcomes)
    assert joined.history.select("outcome", "known_at").rows() == [(1.0, NOON + 4 * HOUR)]
    assert joined.fates == [fate, "accepted"]
    assert joined.counts.hindsight == 0


def test_a_source_that_is_later_than_its_reach_keeps_what_a_client_told_in_time():
    """The client's word found the prediction; that the source says the same much later takes nothing away."""
    late = NOON + 5 * HORIZON
    outcomes = [told("a", 1.0, NOON + 4 * HOUR), told("a", 1.0, late, via="source")]
    joined = join([asked("a")], outcomes)
    assert joined.labels["known_at"].to_list() == [NOON + 4 * HOUR]
    assert joined.fates == ["accepted", "duplicate"]


def test_what_goes_back_and_forth_holds_from_its_last_turn():
    """An outcome withdrawn and told again is known since it was told again."""
    outcomes = [told("a", v, NOON + h * HOUR) for v, h in ((1.0, 3), (0.0, 4), (1.0, 5), (1.0, 6))]
    joined = join([asked("a")], outcomes)
    assert joined.labels["known_at"].to_list() == [NOON + 5 * HOUR]
    assert joined.fates == ["duplicate", "conflict", "accepted", "duplicate"]


def test_an_outcome_that_everybody_asked_about_too_late_is_no_label():
    """It was known when the first prediction was asked for: told so, not taken for an orphan."""
    joined = join([asked("a", NOON + 9 * HOUR)], [told("a", 1.0, NOON + 4 * HOUR)])
    assert (joined.fates, len(joined.labels)) == (["hindsight"], 0)


def test_a_prediction_after_a_first_word_is_hindsight_though_a_correction_came_later():
    """Whoever asked could know the first word: the correction labels the prediction before it."""
    predictions = [asked("a"), asked("a", NOON + 5 * HOUR, 2)]
    joined = join(predictions, [told("a", 1.0, NOON + 4 * HOUR), told("a", 0.0, NOON + 6 * HOUR)])
    assert joined.labels.select("prediction_id", "outcome").rows() == [("a/1", 0.0)]


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
    assert first.history.equals(again.history)
    assert (first.counts, first.fates) == (again.counts, again.fates)
    assert first.history.select("entity", "known_at").is_unique().all()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_order_and_batches_of_delivery_do_not_matter(data, tmp_path_factory):
    """Whatever comes when, and however often a day is run: the same labels and the same fates are kept."""
    entity, hours = st.sampled_from("abc"), st.integers(0, 60)
    rows = data.draw(st.lists(st.tuples(entity, hours), max_size=6))
    predictions = [asked(e, NOON + h * HOUR, i) for i, (e, h) in enumerate(rows)]
    told_ = st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from([0.0, 1.0]), hours)
    outcomes = [
        as_feedback(e, v, NOON + h * HOUR, p if e else p or "a/0")
        for (e, v, h), p in data.draw(
            st.lists(st.tuples(told_, st.sampled_from([None, "a/0", "b/1", "gone"])), max_size=8)
        )
    ]
    landed = [("a", 1.0, "arrived", NOON + 30 * HOUR)]
    kept = []
    for shuffled in (False, True):
        lake = Lake(tmp_path_factory.mktemp("lake"))
        frame = pl.DataFrame(landed, schema=LANDED, orient="row")
        lake.replace("landings", frame, Period(NOON, NOON + 3 * timedelta(days=1)), by="known_at")
        journal = FakeJournal()
        batches = [(predictions, outcomes)]
        if shuffled:
            some, cut = data.draw(st.permutations(predictions)), data.draw(st.integers(0, 8))
            told_again = data.draw(st.permutations(outcomes))
            batches = [(some[cut:], told_again[:cut]), (some[:cut], told_again[cut:])]
        for asked_, said in batches:
            journal.predictions += asked_
            journal.outcomes += said
            for number in data.draw(st.permutations([0, 1, 2])) if shuffled else (0, 1, 2):
                label_period(lake, journal, TOY, day(number))
        fates = read_kept(lake).sort(pl.all())
        labels = lake.read("labels")
        kept.append((fates.rows(), sorted(labels.rows()) if labels.width else []))
    assert kept[0] == kept[1]


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
    first, then = as_feedback("z", 1.0, NOON + 4 * HOUR), as_feedback("z", 0.0, NOON + 26 * HOUR)
    journal = FakeJournal([asked("z")], [first, then])
    for number in (0, 1):
        label_period(lake, journal, TOY, day(number))
    seen = [read_labels(lake, day(0), NOON + h * HOUR)["outcome"].to_list() for h in (5, 25, 27)]
    assert seen == [[1.0], [1.0], [0.0]]


def test_an_orphan_that_finds_its_prediction_is_a_label(lake):
    """The prediction came into the journal after the outcome was labelled: the next run finds both."""
    journal = FakeJournal()
    assert label_period(lake, journal, TOY, day(0)).orphans == 2
    journal.predictions.append(asked("a"))
    label_period(lake, journal, TOY, day(3))
    assert lake.read("labels")["entity"].to_list() == ["a"]
    assert count_fates(read_kept(lake)) == {**dict.fromkeys(FATES, 0), "accepted": 1, "orphan": 2}


def test_an_outcome_delivered_after_its_day_was_run_is_labelled_by_the_next_run(lake):
    """Nobody has to run the day again."""
    journal = FakeJournal([asked("z")])
    for number in (0, 1):
        label_period(lake, journal, TOY, day(number))
    journal.outcomes.append(as_feedback("z", 1.0, NOON + 6 * HOUR))
    label_period(lake, journal, TOY, day(2))
    assert read_labels(lake, day(0), NOON + 7 * HOUR)["entity"].to_list() == ["z"]


def test_days_that_are_run_in_another_order_know_the_same_hindsight(lake):
    """The day of the outcome is run after that of the prediction: nobody's label, and no orphan."""
    asked_late = asked("b", NOON + 25 * HOUR)
    for order in ((0, 1), (1, 0)):
        (lake.root / MARK).unlink(missing_ok=True)
        for number in order:
            label_period(lake, FakeJournal([asked_late]), TOY, day(number))
        assert read_kept(lake).filter(thing="b")["fate"].to_list() == ["hindsight"]


def test_an_outcome_that_names_its_prediction_finds_it_however_late(lake):
    """A month later, by id alone: kept, a label, and late."""
    journal = FakeJournal([asked("z")], [as_feedback(None, 1.0, NOON + 720 * HOUR, "z/1")])
    assert label_period(lake, journal, TOY, day(30)).late == 1


def test_a_run_that_was_killed_before_it_kept_how_far_it_came_is_made_up_for(lake):
    """Without the mark all is looked at again, and nothing changes."""
    journal = FakeJournal([asked("a")], [as_feedback("a", 0.0, NOON + 3 * HOUR)])
    label_period(lake, journal, TOY, day(0))
    before = lake.hashes()
    (lake.root / MARK).unlink()
    label_period(lake, journal, TOY, day(1))
    kept = read_kept(lake)
    assert lake.hashes()["labels"] == before["labels"]
    assert kept.filter(thing="a")["fate"].to_list() == ["conflict", "accepted"]
    assert TABLE in before


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
