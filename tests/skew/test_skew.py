"""The skew probe: clean answers give no finding, each injected skew is found, named and kept."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from feature_repo.contract import Period
from feature_repo.errors import NotEnoughData
from flows.features import build_features, materialize_period
from flows.policy.skew import FeatureSkew
from flows.skew import METRICS, compare_answers, keep_report, probe_skew, read_skew
from services.journal import Prediction
from services.schemas import build_wire
from tests.skew.harness import ASKED, FIRST, LAST, Base, build_base, find_stretch, judge, open_on
from tests.skew.mutations import MUTATIONS, Mutation


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Real flights around a clock change, and their features."""
    return build_base(tmp_path_factory.mktemp("skew") / "home")


@pytest.fixture(scope="module")
def clean(base: Base) -> list[Prediction]:
    """Answers that nothing was done to."""
    return base.answer()


def asked_in(base: Base) -> Period:
    return Period(base.project.day(ASKED).since, base.project.day(LAST).until)


def find(features: tuple[FeatureSkew, ...], name: str) -> FeatureSkew:
    return next(one for one in features if one.name == name)


def test_clean_answers_give_no_finding(base: Base, clean: list[Prediction]) -> None:
    """Over a clock change every value is the same three times over: journalled, joined, computed anew."""
    asked, verdict = compare_answers(base.project, build_wire(base.project.problem), clean)
    assert verdict.ok, verdict.reasons
    assert asked.unreadable == 0
    assert verdict.compared + sum(one.withheld for one in verdict.features) == len(clean) * 34


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_an_injected_skew_is_found_and_named(base: Base, mutation: Mutation) -> None:
    """The right features are found, no other, and the cause is told where values can tell it."""
    assert judge(mutation, base) == []


def test_there_are_many_kinds_of_skew() -> None:
    """At least eighteen, no two alike, each with a sentence on what it does."""
    assert len({one.name for one in MUTATIONS}) == len(MUTATIONS) >= 18


def test_a_value_that_the_answer_withheld_is_counted_apart(base: Base, clean: list[Prediction]) -> None:
    """A flagged value is none of the compared; where the lake has one by now that is told as well."""
    flags = json.dumps([{"feature": "temp", "kind": "missing", "got": None}])
    given = [
        replace(one, flags=flags, features=json.dumps({**json.loads(one.features), "temp": None}))
        for one in clean[:50]
    ]
    _, verdict = compare_answers(base.project, build_wire(base.project.problem), given)
    temp = find(verdict.features, "temp")
    assert (temp.compared, temp.mismatched, temp.withheld, temp.lacking) == (0, 0, 50, 50)


def test_a_value_off_by_the_last_bit_is_found(base: Base, clean: list[Prediction]) -> None:
    """Nothing is rounded before it is compared."""
    import math

    told = json.loads(clean[0].features)
    nudged = {**told, "humid": math.nextafter(told["humid"], math.inf)}
    _, verdict = compare_answers(
        base.project, build_wire(base.project.problem), [replace(clean[0], features=json.dumps(nudged))]
    )
    assert [one.name for one in verdict.features if one.mismatched] == ["humid"]


def test_a_model_of_fewer_inputs_is_compared_on_those(base: Base, clean: list[Prediction]) -> None:
    """A feature that the answer's model does not take is no mismatch."""
    fewer = {k: v for k, v in json.loads(clean[0].features).items() if k != "temp"}
    given = [replace(clean[0], features=json.dumps(fewer))]
    _, verdict = compare_answers(base.project, build_wire(base.project.problem), given)
    assert verdict.ok
    assert find(verdict.features, "temp").compared == 0


def test_a_request_that_cannot_be_read_any_more_is_counted(base: Base, clean: list[Prediction]) -> None:
    """An answer to a request of another form is left out, and said to be."""
    asked, verdict = compare_answers(
        base.project, build_wire(base.project.problem), [*clean[:20], replace(clean[20], request="{}")]
    )
    assert (len(asked.answers), asked.unreadable, verdict.ok) == (20, 1, True)


def test_the_probe_reads_the_journal_and_keeps_what_it_found(base: Base, tmp_path: Path) -> None:
    """The report is a table of the lake, once however often it is run, and a metric of each feature."""
    copy = base.copy(tmp_path / "home")
    lower = next(one for one in MUTATIONS if one.name == "lower_case")
    copy.project.journal.append(lower.inject(base)[0])
    period, wire = asked_in(base), build_wire(base.project.problem)
    report = probe_skew(copy.project, wire, period)
    for _ in range(2):
        keep_report(copy.project, report)
    copy.project.journal.close()
    kept = read_skew(copy.project)
    assert len(kept) == 34
    carrier = kept.row(by_predicate=pl.col("feature") == "carrier", named=True)
    assert (carrier["rate"], carrier["cause"]) == (1.0, "spelling")
    assert 'perennial_skew_rate{feature="carrier"} 1.0' in (tmp_path / "home" / METRICS).read_text()


def test_the_log_of_writes_tells_a_store_that_was_behind(base: Base, tmp_path: Path) -> None:
    """Answers by the real online store, an hour late: by their values alone a window might be off as well."""
    copy = base.copy(tmp_path / "home")
    noon = base.project.day(LAST).since + timedelta(hours=12)
    materialize_period(copy.project, base.frames, Period(base.project.day(FIRST).since, noon))
    behind = copy.ask(copy.project.store, Period(noon + timedelta(hours=1), noon + timedelta(hours=2)))
    _, verdict = compare_answers(copy.project, build_wire(base.project.problem), behind)
    assert find(verdict.features, "carrier_late_1d").mismatched == 0
    for name in ("airport_delay_3h", "temp"):
        cause = find(verdict.features, name).cause
        assert cause
        assert (cause.name, cause.share) == ("stale store", 1.0)


def test_the_log_of_writes_tells_a_value_that_has_changed_since(base: Base, tmp_path: Path) -> None:
    """What was online is in no newer version of the lake: rows came late, and features followed."""
    copy = base.copy(tmp_path / "home")
    noon = base.project.day(LAST).since + timedelta(hours=12)
    warm = base.frames["airport_weather"].with_columns(pl.col("temp") + 1.5)
    copy.project.lake.replace("airport_weather", warm, find_stretch(copy.project), "event_timestamp", "right")
    frames = {**base.frames, "airport_weather": warm}
    materialize_period(copy.project, frames, Period(base.project.day(FIRST).since, noon))
    given = copy.ask(copy.project.store, Period(noon, noon + timedelta(minutes=59)))
    build_features(copy.project, find_stretch(copy.project))
    _, verdict = compare_answers(copy.project, build_wire(base.project.problem), given)
    skewed = {one.name: one.cause.name for one in verdict.features if one.cause}
    assert skewed == {"temp": "late data"}


def test_without_answers_or_features_the_probe_says_so(base: Base, tmp_path: Path) -> None:
    """What was not compared is never reported as clean."""
    wire, period = build_wire(base.project.problem), asked_in(base)
    with pytest.raises(NotEnoughData, match="answers"):
        probe_skew(base.project, wire, period)
    with pytest.raises(NotEnoughData, match="feature table"):
        compare_answers(open_on(tmp_path), wire, base.answer()[:5])


def test_answers_ahead_of_what_has_landed_wait(base: Base, tmp_path: Path) -> None:
    """The lake cannot yet say what was known at their decision."""
    copy = base.copy(tmp_path / "home")
    late = base.project.day(LAST).until + timedelta(hours=3)
    one = base.answer()[0]
    copy.project.journal.append([replace(one, requested_at=late.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))])
    copy.project.journal.close()
    with pytest.raises(NotEnoughData):
        probe_skew(copy.project, build_wire(base.project.problem), Period(late, late + timedelta(days=1)))
