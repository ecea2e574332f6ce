"""The skew probe: clean answers give no finding, each injected skew is found, named and kept."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from feature_repo.contract import Period
from feature_repo.errors import NotEnoughData
from feature_repo.problem import ADDED, PROBLEM
from flows.features import build_features, materialize_period
from flows.policy.skew import FeatureSkew
from flows.skew import METRICS, SkewReport, compare_answers, keep_report, probe_skew, read_skew
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


def test_clean_answers_of_the_second_version_give_no_finding(tmp_path: Path) -> None:
    """So it is with the features on what goes on around a flight, of which no key lacks a row."""
    base = build_base(tmp_path / "home", PROBLEM)
    given = base.answer()
    _, verdict = compare_answers(base.project, build_wire(base.project.problem), given)
    assert verdict.ok, verdict.reasons
    assert not any(one.mismatched for one in verdict.features)
    dense = {name for table in ADDED for name in table.features if table.name != "line_daily"}
    assert not any(one.withheld for one in verdict.features if one.name in dense)


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
        one._replace(flags=flags, features=json.dumps({**json.loads(one.features), "temp": None}))
        for one in clean[:50]
    ]
    _, verdict = compare_answers(base.project, build_wire(base.project.problem), given)
    temp = find(verdict.features, "temp")
    assert (temp.compared, temp.mismatched, temp.withheld, temp.lacking) == (0, 0, 50, 50)


def withhold(answer: Prediction, names: Sequence[str]) -> Prediction:
    """Return the answer as it is where the online store has nothing for some features."""
    flags = json.dumps([{"feature": name, "kind": "missing", "got": None} for name in names])
    told = {**json.loads(answer.features), **dict.fromkeys(names)}
    return answer._replace(flags=flags, features=json.dumps(told))


def test_answers_that_withheld_what_the_lake_has_are_not_clean(
    base: Base, clean: list[Prediction], tmp_path: Path
) -> None:
    """With no stored value compared there is no rate, no sample for Prometheus, and a reason in words."""
    copy = base.copy(tmp_path / "home")
    stored = [f.name for f in base.project.problem.features if f.source != "request"]
    whole = next(one for one in clean if None not in json.loads(one.features).values())
    copy.project.journal.append([withhold(whole, stored)])
    copy.project.journal.close()
    report = probe_skew(copy.project, build_wire(base.project.problem), asked_in(base))
    verdict = report.verdict
    assert (verdict.mismatched, verdict.compared, verdict.ok) == (0, 6, False)
    assert {find(verdict.features, name).rate for name in stored} == {None}
    assert any("withheld though the lake has them" in reason for reason in verdict.reasons)
    keep_report(copy.project, report)
    rates = dict(read_skew(copy.project).select("feature", "rate").iter_rows())
    assert (rates["temp"], rates["carrier"]) == (None, 0.0)
    samples = (tmp_path / "home" / METRICS).read_text()
    assert 'perennial_skew_rate{feature="temp"}' not in samples
    assert 'perennial_skew_lacking_values{feature="temp"} 1.0' in samples


def test_a_few_values_that_came_too_late_are_let_pass(base: Base, clean: list[Prediction]) -> None:
    """One in fifty is told of, and is not yet held against the answers; three are."""
    whole = [one for one in clean if None not in json.loads(one.features).values()][:50]
    assert len(whole) == 50
    for late, ok in ((1, True), (3, False)):
        given = [withhold(one, ["temp"]) if n < late else one for n, one in enumerate(whole)]
        _, verdict = compare_answers(base.project, build_wire(base.project.problem), given)
        assert (find(verdict.features, "temp").lacking, verdict.ok) == (late, ok)


def test_a_value_off_by_the_last_bit_is_found(base: Base, clean: list[Prediction]) -> None:
    """Nothing is rounded before it is compared."""
    import math

    told = json.loads(clean[0].features)
    nudged = {**told, "humid": math.nextafter(told["humid"], math.inf)}
    _, verdict = compare_answers(
        base.project, build_wire(base.project.problem), [clean[0]._replace(features=json.dumps(nudged))]
    )
    assert [one.name for one in verdict.features if one.mismatched] == ["humid"]


def without_temp(answer: Prediction, version: str | None = None) -> Prediction:
    fewer = {k: v for k, v in json.loads(answer.features).items() if k != "temp"}
    return answer._replace(features=json.dumps(fewer), model_version=version)


@pytest.fixture
def warm(clean: list[Prediction]) -> Prediction:
    """An answer that knew the temperature."""
    return next(one for one in clean if json.loads(one.features)["temp"] is not None)


def test_a_model_of_fewer_inputs_is_compared_on_those(base: Base, warm: Prediction, tmp_path: Path) -> None:
    """A feature that the contract of the answer's model does not name is no mismatch."""
    copy = base.copy(tmp_path / "home")
    package = tmp_path / "home" / "packages" / "3"
    package.mkdir(parents=True)
    fewer = [{"name": name} for name in base.project.problem.feature_names if name != "temp"]
    (package / "contract.json").write_text(json.dumps({"features": fewer}))
    wire = build_wire(base.project.problem)
    _, verdict = compare_answers(copy.project, wire, [without_temp(warm, "3")])
    assert verdict.ok
    assert find(verdict.features, "temp").compared == 0
    (package / "contract.json").write_text(json.dumps({"features": [*fewer, {"name": "temp"}]}))
    _, verdict = compare_answers(copy.project, wire, [without_temp(warm, "3")])
    assert [one.name for one in verdict.features if one.mismatched] == ["temp"]


def test_an_input_left_out_of_an_answer_is_found(base: Base, warm: Prediction) -> None:
    """Without a model an answer uses the problem's inputs: one that is not even named is a mismatch."""
    _, verdict = compare_answers(base.project, build_wire(base.project.problem), [without_temp(warm)])
    temp = find(verdict.features, "temp")
    assert (temp.compared, temp.mismatched, verdict.ok) == (1, 1, False)
    assert temp.cause
    assert temp.cause.name == "missing online"


def test_a_model_whose_contract_is_gone_is_judged_by_its_other_answers(base: Base, warm: Prediction) -> None:
    """What none of its answers names is taken for no input; what some name the others lack."""
    wire = build_wire(base.project.problem)
    _, verdict = compare_answers(base.project, wire, [without_temp(warm, "9")])
    assert find(verdict.features, "temp").compared == 0
    given = [without_temp(warm, "9"), warm._replace(model_version="9")]
    _, verdict = compare_answers(base.project, wire, given)
    assert find(verdict.features, "temp").mismatched == 1


def test_a_request_that_cannot_be_read_any_more_is_counted(base: Base, clean: list[Prediction]) -> None:
    """An answer to a request of another form is left out, and said to be."""
    asked, verdict = compare_answers(
        base.project, build_wire(base.project.problem), [*clean[:20], clean[20]._replace(request="{}")]
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


def test_a_report_stands_in_the_place_of_one_of_the_same_period_alone(
    base: Base, clean: list[Prediction], tmp_path: Path
) -> None:
    """A probe of several days leaves those of the days, and of another stretch begun with it, as they are."""
    copy = base.copy(tmp_path / "home")
    _, verdict = compare_answers(base.project, build_wire(base.project.problem), clean[:20])
    whole = asked_in(base)
    days = [Period(whole.since + timedelta(days=n), whole.since + timedelta(days=n + 1)) for n in range(3)]
    for period in (*days, whole, days[1]):
        keep_report(copy.project, SkewReport(period, 20, 0, verdict))
    kept = read_skew(copy.project)
    assert len(kept) == 4 * 34
    assert kept.select("since", "until").unique().height == 4


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
    copy.project.journal.append([one._replace(requested_at=late.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))])
    copy.project.journal.close()
    with pytest.raises(NotEnoughData):
        probe_skew(copy.project, build_wire(base.project.problem), Period(late, late + timedelta(days=1)))
