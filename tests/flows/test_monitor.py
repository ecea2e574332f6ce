"""The monitor on a toy problem: verdicts, one retrain an incident, and what Prefect gets to see of it."""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

import flows.monitor
from feature_repo.contract import Period, RawTable
from feature_repo.errors import NotEnoughData, SettingsError
from feature_repo.lake import Lake
from feature_repo.problem import PROBLEM
from flows.day_watch import list_days
from flows.judgement import monitor_window
from flows.label import label_period
from flows.monitor import EVENT, emit_retrain, list_windows, monitor, monitor_step, run_monitor
from flows.notify import read_windows
from flows.policy.incident import POLICIES, find_incidents
from flows.retrain_records import Retrain, record_retrain
from flows.verdicts import read_history
from services.journal_records import News
from tests.packages import FakeRegistry

START = datetime(2013, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
LANDED = {
    "flight_id": pl.String,
    "late": pl.Float64,
    "status": pl.String,
    "known_at": pl.Datetime("us", "UTC"),
}
TOY = replace(
    PROBLEM,
    name="toy",
    start=START,
    time_zone="UTC",
    raw=(RawTable("landings", LANDED, key=("flight_id",)),),
    build_outcomes=lambda raw: raw["landings"],
    calendar=frozenset({"hour"}),
)
FEATURES = [("x", "number", 0.8), ("place", "category", 0.2), ("hour", "number", 0.5)]
ROWS = 400


class FakeJournal:
    """A journal in memory."""

    def __init__(self, rows):
        self.rows = rows

    def read_predictions(self, period):
        return pl.DataFrame(
            [r for r in self.rows if period.since <= datetime.fromisoformat(r["requested_at"]) < period.until]
        )

    def list_replayed(self):
        return []

    def read_outcomes(self, period):
        return pl.DataFrame()

    def find_prediction(self, prediction_id):
        return None

    def find_news(self, after):
        return News(after, None)


def draw(rng, rows, signal=1.0, shift=0.0):
    """Features, calibrated scores and outcomes; `signal` 0 makes the scores worthless."""
    x = rng.normal(shift, 1, rows)
    score = 1 / (1 + np.exp(-(1.5 * (x - shift) - 1)))
    truth = signal * score + (1 - signal) * score.mean()
    place = rng.choice(["EWR", "JFK", None], rows).tolist()
    late = (rng.random(rows) < truth).astype(float)
    return {
        "x": x,
        "place": place,
        "hour": rng.integers(5, 23, rows).astype(float),
        "score": score,
        "late": late,
    }


def write_package(folder):
    """A model package as far as the monitor reads it."""
    folder.mkdir()
    features = [{"name": n, "kind": k, "importance": i} for n, k, i in FEATURES]
    contract = {"problem": "toy", "features": features, "trained_until": START.isoformat()}
    (folder / "contract.json").write_text(json.dumps(contract))
    pl.DataFrame(draw(np.random.default_rng(0), 3_000)).write_parquet(folder / "reference.parquet")
    return folder


def answer(number, at, values, version="1", served_by="champion"):
    """A journalled answer."""
    features = {name: values[name] for name, _, _ in FEATURES}
    return {
        "prediction_id": f"p{number}",
        "entity": f"f{number}",
        "requested_at": at.isoformat(),
        "received_at": at.isoformat(),
        "model_version": version,
        "served_by": served_by,
        "score": values["score"],
        "features": json.dumps(features),
        "flags": json.dumps({"place": "missing"} if values["place"] is None else {}),
    }


class World:
    """A lake, a journal and a package with one week of answers for each (signal, shift) given."""

    def __init__(self, folder, weeks, rows=ROWS, shift_last_day=0.0):
        self.lake, self.package = Lake(folder / "lake"), write_package(folder / "package")
        self.reports, self.events, self.pages = folder / "reports", [], []
        rng, answers, landed = np.random.default_rng(1), [], []
        for week, (signal, shift) in enumerate(weeks):
            drawn = pl.DataFrame(draw(rng, rows, signal, shift)).to_dicts()
            for i, values in enumerate(drawn):
                number, at = week * rows + i, START + week * WEEK + i * (WEEK / rows)
                if shift_last_day and i >= rows * 6 // 7:
                    values["x"], values["score"] = values["x"] + shift_last_day, values["score"] ** 0.2
                answers.append(answer(number, at, values))
                landed.append((f"f{number}", values["late"], "arrived", at + timedelta(hours=5)))
        self.journal = FakeJournal(answers)
        self.whole = Period(START, START + (len(weeks) + 1) * WEEK)
        frame = pl.DataFrame(landed, schema=LANDED, orient="row")
        self.lake.replace("landings", frame, self.whole, by="known_at")
        label_period(self.lake, self.journal, TOY, self.whole)

    def run(self, weeks, **options):
        """Run the monitor when the given number of weeks has matured."""
        options = {
            "emit": lambda *e: self.events.append(e),
            "publish": lambda *p: self.pages.append(p),
        } | options
        options = {"until": START + weeks * WEEK + TOY.horizon} | options
        return run_monitor(self.lake, self.journal, TOY, self.package, self.reports, version="1", **options)


GOOD, WORTHLESS, SHIFTED = (1.0, 0.0), (0.0, 0.0), (1.0, 2.0)


@pytest.fixture(autouse=True)
def _quick_report(request, monkeypatch):
    """Evidently draws in the tests that look at its report; of the others the report is its name."""

    def name_report(verdict, *_, **__):
        return replace(verdict, report=f"{verdict.key}.html")

    if "real_report" not in request.fixturenames:
        monkeypatch.setattr("flows.judgement.report_window", name_report)


@pytest.fixture
def real_report():
    """Let Evidently draw."""


def test_a_healthy_model_is_kept(tmp_path):
    """Three healthy weeks: verdicts with quality and coverage, no breach, no event."""
    world = World(tmp_path, [GOOD] * 3)
    findings = world.run(3)
    assert [v.breaches for v in findings.verdicts] == [(), (), ()]
    assert [v.quality.state for v in findings.verdicts] == ["ok"] * 3
    assert (findings.trigger.retrain, world.events) == (False, [])
    first = findings.verdicts[0]
    assert (first.rows, first.coverage, first.quality.arrived) == (ROWS, 1.0, 1.0)
    assert 0.2 < first.flagged < 0.5


def test_calendar_columns_are_not_watched(tmp_path):
    """A column of the calendar moves by construction and is left out."""
    verdict = World(tmp_path, [GOOD]).run(1).verdicts[0]
    assert [c.name for c in verdict.drift.columns] == ["x", "place"]


@pytest.mark.parametrize(
    ("weeks", "cause"), [([GOOD, WORTHLESS, WORTHLESS], "quality"), ([SHIFTED] * 2, "drift")]
)
def test_decay_asks_for_one_retrain_and_says_why(tmp_path, weeks, cause):
    """Two bad windows ask once, with the cause; daily runs after them and re-runs ask no more."""
    world = World(tmp_path, weeks)
    found = [world.run(n) for n in range(1, len(weeks) + 1)]
    assert [f.asked for f in found] == [False] * (len(weeks) - 1) + [True]
    world.run(len(weeks))
    world.run(len(weeks), again=True)
    assert len(world.events) == 1
    name, payload = world.events[0]
    assert (name, payload["causes"], payload["model_version"]) == ("toy", cause, "1")
    assert cause in payload["reasons"]


def test_a_rejected_request_is_made_again_in_the_next_bad_window_and_not_before(tmp_path):
    """While the same version serves on, a week's newer rows may bring a candidate that passes."""
    world = World(tmp_path, [WORTHLESS] * 3)
    for week in (1, 2, 2, 3, 3):
        findings = world.run(week)
    assert [payload["causes"] for _, payload in world.events] == ["quality"] * 2
    assert len({payload["window"] for _, payload in world.events}) == 2
    assert findings.trigger.causes == ("quality",)


def test_running_a_window_again_changes_nothing(tmp_path):
    """The verdict of a window is the same row whenever it is computed."""
    world = World(tmp_path, [GOOD, WORTHLESS, WORTHLESS])
    world.run(3)
    before, version = world.lake.hashes(), world.lake.version("verdicts")
    world.run(3, again=True)
    world.run(3)
    assert (world.lake.hashes(), world.lake.version("verdicts")) == (before, version)


def test_a_kill_between_verdict_and_event_loses_no_retrain(tmp_path):
    """If the event was never taken, the next run sends it, without judging anew."""
    world = World(tmp_path, [WORTHLESS] * 2)

    def die(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.run(2, emit=die)
    findings = world.run(2)
    assert (findings.verdicts, findings.asked, len(world.events)) == ((), True, 1)


def test_a_request_that_came_to_nothing_is_sent_again(tmp_path, monkeypatch):
    """A runner was killed, or the run cancelled: an event of another id, until one is answered."""
    monkeypatch.setattr(flows.monitor, "PATIENCE", timedelta(0))
    world = World(tmp_path, [WORTHLESS] * 2)
    told = {"asked_at": START, "until": START, "cause": "event", "reason": ""}
    for state, sent in (("", 1), ("asked", 2), ("rejected", 2)):
        if state:
            record_retrain(world.lake, Retrain(key=world.events[0][1]["window"], state=state, **told))
        assert world.run(2).asked is (len(world.events) == sent and state != "rejected")
        assert [payload["attempt"] for _, payload in world.events] == list(range(1, sent + 1))


def test_a_request_is_given_time_to_be_answered(tmp_path):
    """Days of a replay pass in seconds, while the retrain is under way."""
    world = World(tmp_path, [WORTHLESS] * 2)
    assert [world.run(2).asked for _ in range(3)] == [True, False, False]


def test_a_verdict_is_shown_though_nobody_takes_the_event(tmp_path):
    """Prefect is away: the request is made again, the page would not be."""
    world = World(tmp_path, [WORTHLESS] * 2)

    def refuse(*_):
        raise ConnectionError("no server")

    with pytest.raises(ConnectionError):
        world.run(2, emit=refuse)
    assert len(world.pages) == 2
    assert world.run(2).asked


def test_a_report_that_cannot_be_drawn_costs_no_verdict(tmp_path, monkeypatch):
    """The week is judged, says that its report is lacking, and asks for the retrain all the same."""

    def break_down(*_, **__):
        raise ZeroDivisionError("a column that it cannot bin")

    monkeypatch.setattr("flows.judgement.report_window", break_down)
    findings = World(tmp_path, [WORTHLESS] * 2).run(2)
    assert findings.asked
    assert {(v.report, v.reasons[-1]) for v in findings.verdicts} == {
        ("", "no report: ZeroDivisionError when it was drawn")
    }


def test_no_window_is_judged_before_its_labels_are_mature(tmp_path):
    """A window is due only when the horizon after its end is over; asked earlier, quality is unknown."""
    world = World(tmp_path, [WORTHLESS])
    early = run_monitor(
        world.lake, world.journal, TOY, world.package, world.reports, version="1", until=START + WEEK
    )
    assert early.verdicts == ()
    window = Period(START, START + WEEK)
    verdict = monitor_window(
        world.lake,
        world.journal,
        TOY,
        world.package,
        window,
        reports=world.reports,
        version="1",
        asof=window.until,
    )
    assert verdict.quality.state == "unknown"
    assert "wait" in verdict.quality.reasons[0]


def test_answers_of_others_count_against_coverage_only(tmp_path):
    """What the rule or another version answered is no evidence about the champion."""
    world = World(tmp_path, [GOOD])
    for row in world.journal.rows[::2]:
        row["served_by"] = "rule"
    label_period(world.lake, world.journal, TOY, world.whole)
    verdict = world.run(1).verdicts[0]
    assert (verdict.answers, verdict.rows, verdict.coverage) == (ROWS, ROWS // 2, 0.5)


def test_a_champion_that_never_answered_is_told(tmp_path):
    """If fallbacks answered a whole week, the verdict says that the champion served nothing."""
    world = World(tmp_path, [GOOD])
    for row in world.journal.rows:
        row["served_by"] = "rule"
    verdict = world.run(1).verdicts[0]
    assert (verdict.rows, verdict.coverage, verdict.quality.state) == (0, 0.0, "unknown")
    assert verdict.reasons[0].startswith("0 things answered")


def test_windows_of_another_champion_or_of_nobody_are_not_judged(tmp_path):
    """Before its first answer a version has no windows, so that they neither count nor confuse."""
    world = World(tmp_path, [WORTHLESS] * 2)
    for row in world.journal.rows:
        row["model_version"] = "0"
    assert world.run(2).verdicts == ()
    world.journal.rows.clear()
    assert world.run(2).verdicts == ()


def test_a_day_is_judged_without_labels_once_and_never_retrains(tmp_path):
    """A day's alarm needs no label; its verdict is one row, and no sign of a week's trend."""
    world = World(tmp_path, [GOOD], rows=7 * 300, shift_last_day=3.0)
    until = START + WEEK
    found = world.run(0, until=until)
    day = found.days[-1]
    assert (day.window.until, day.quality.state) == (until, "unknown")
    assert {"inputs", "predictions"} <= set(day.alarms)
    assert (found.trigger.retrain, world.events) == (False, [])
    assert world.run(0, until=until).days == ()
    assert read_history(world.lake, "1", world.whole, WEEK) == []


def test_a_quiet_day_raises_nothing(tmp_path):
    """A day like the reference alarms on nothing that is compared with it, and says what was looked at."""
    world = World(tmp_path, [GOOD], rows=7 * 300)
    day = world.run(0, until=START + WEEK).days[-1]
    states = {signal.name: signal.state for signal in day.signals}
    assert [states[n] for n in ("inputs", "predictions", "estimated quality", "coverage")] == ["ok"] * 4
    assert day.estimate.auc.low <= day.estimate.auc.value <= day.estimate.auc.high


def test_every_day_is_judged_once_also_after_an_outage(tmp_path):
    """Daily runs judge each day as it ends; after days without a run those of the last week are made good."""
    world = World(tmp_path, [GOOD] * 2)
    day = timedelta(days=1)
    assert [v.window.until for v in world.run(0, until=START + day).days] == [START + day]
    assert world.run(0, until=START + day + timedelta(hours=5)).days == ()
    late = world.run(0, until=START + 6 * day)
    assert [v.window.until for v in late.days] == [START + n * day for n in range(2, 7)]
    later = world.run(0, until=START + 14 * day)
    assert [v.window.until for v in later.days] == [START + n * day for n in range(8, 15)]


def test_days_are_the_problems_local_ones_through_both_changes_of_the_clock():
    """Every instant of the year is in one day, and each day is due as soon as it is over."""
    local = replace(TOY, time_zone="America/New_York", start=PROBLEM.start)
    ends = [datetime(2013, 1, 2, 5, tzinfo=UTC)]
    while ends[-1] < datetime(2013, 12, 30, tzinfo=UTC):
        (day,) = list_days(local, ends[-1] + timedelta(hours=25), 1)
        assert day.since == ends[-1]
        assert list_days(local, day.until, 1) == [day]
        assert list_days(local, day.until - timedelta(seconds=1), 1)[0].until == day.since
        ends.append(day.until)
    lengths = {(b - a) // timedelta(hours=1) for a, b in pairwise(ends)}
    assert lengths == {23, 24, 25}
    assert datetime(2013, 11, 4, 5, tzinfo=UTC) in ends


def test_the_first_of_a_stretch_of_odd_days_has_a_report_and_every_day_a_page(tmp_path):
    """What a message about odd days leads to is there; a kill before the report is made good."""
    world = World(tmp_path, [SHIFTED, SHIFTED], rows=7 * 300)
    days = world.run(0, until=START + timedelta(days=3)).days
    assert [bool(v.report) for v in days] == [True, False, False]
    assert [name for name, _ in world.pages] == ["toy-day"] * 3
    assert f"`{world.reports}/{days[0].report}`" in world.pages[0][1]
    assert "one day: it can alarm" in world.pages[0][1]
    rows = world.lake.read("verdicts")
    row = rows.filter(key=days[0].key).with_columns(report=pl.lit(""))
    world.lake.replace_where("verdicts", row, "key", days[0].key)
    again = world.run(0, until=START + timedelta(days=3)).days
    assert [(v.key, bool(v.report)) for v in again] == [(days[0].key, True)]
    assert world.run(0, until=START + timedelta(days=3)).days == ()


@pytest.mark.parametrize(("odd", "reported"), [({1, 4}, {1, 4}), ({1, 3, 4}, {1})])
def test_a_stretch_of_odd_days_ends_with_two_well_ones(tmp_path, odd, reported):
    """The day on which the next incident opens has a report of its own; one within a stretch has none."""
    world = World(tmp_path, [GOOD], rows=7 * 300)
    for row in world.journal.rows:
        if (datetime.fromisoformat(row["requested_at"]) - START).days in odd:
            features = json.loads(row["features"])
            row["features"] = json.dumps({**features, "x": features["x"] + 3})
    days = world.run(0, until=START + timedelta(days=6)).days
    assert {n for n, verdict in enumerate(days) if "inputs" in verdict.alarms} == odd
    assert {n for n, verdict in enumerate(days) if verdict.report} == reported
    windows = [window for window in read_windows(world.lake) if window.kind == "day"]
    opened = {incident.opened.key for incident in find_incidents("toy", windows, POLICIES["day"])}
    assert opened == {days[n].key for n in reported}


def test_a_look_from_where_no_data_is_or_from_no_zone_is_refused(make_toy, monkeypatch):
    """The error names the instant that the data has reached; without a zone it says how to write one."""
    project = make_toy()
    monkeypatch.setattr("flows.project.open_project", lambda: project)
    vars(project)["registry"] = FakeRegistry()
    for until, error, told in (
        (datetime(2030, 1, 1, tzinfo=UTC), NotEnoughData, "at the latest: so far the data has come"),
        (datetime(2013, 7, 1, tzinfo=UTC).replace(tzinfo=None), SettingsError, "an instant with its zone"),
    ):
        with pytest.raises(error, match=told):
            monitor.fn(until)


def test_skew_that_the_probe_found_within_the_window_alarms(tmp_path):
    """What it found in the week before is that week's."""
    world = World(tmp_path, [GOOD] * 2)
    found = [
        (START + week * WEEK, START + week * WEEK + timedelta(days=1), "x", 500, week) for week in (0, 1)
    ]
    names = ("since", "until", "feature", "compared", "mismatched")
    world.lake.replace("skew", pl.DataFrame(found, schema=names, orient="row"), world.whole, by="since")
    told = [v.signals[-1] for v in world.run(2).verdicts]
    assert [(signal.name, signal.state) for signal in told] == [("skew", "ok"), ("skew", "alarm")]


def test_a_weeks_verdict_holds_its_estimate_against_the_labels(tmp_path):
    """Where the concept broke and the inputs did not, the verdict says not to rely on the estimate."""
    world = World(tmp_path, [WORTHLESS])
    verdict = world.run(1).verdicts[0]
    assert any("do not rely on it" in reason for reason in verdict.reasons)
    row = world.lake.read("verdicts").filter(key=verdict.key).to_dicts()[0]
    assert row["estimated_auc_low"] > row["auc"]


def test_estimates_that_miss_more_often_than_they_may_are_said_so_in_later_verdicts(tmp_path):
    """One miss may be chance; after two of two the week says it, and so does the next day's signal."""
    world = World(tmp_path, [WORTHLESS] * 3, rows=7 * 300)
    first, second = world.run(2).verdicts
    told = "outside the estimate's interval in 2 of 2 windows, more than a 95% interval should: do not rely"
    assert not any("windows, more than" in reason for reason in first.reasons)
    assert any(told in reason for reason in second.reasons)
    day = world.run(0, until=START + 2 * WEEK + TOY.horizon + timedelta(days=1)).days[-1]
    assert any(told in reason for reason in day.reasons)
    assert [told in s.reason for s in day.signals if s.name == "estimated quality"] == [True]
    assert world.run(2, again=True).verdicts[0].reasons == second.reasons


def test_estimates_that_hold_raise_no_doubt(tmp_path):
    """Three weeks whose labels came out as estimated: no verdict says a word of it."""
    for verdict in World(tmp_path, [GOOD] * 3).run(3).verdicts:
        assert not any("more than a 95% interval" in reason for reason in verdict.reasons)


def test_windows_follow_each_other_from_the_problems_start():
    """No answer falls in two windows, and only mature ones are due."""
    windows = list_windows(TOY, START + 5 * WEEK + TOY.horizon)
    assert [w.since for w in windows] == [START + n * WEEK for n in (2, 3, 4)]
    assert list_windows(TOY, START + WEEK) == []


@pytest.mark.usefixtures("real_report")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # importing Evidently raises several
def test_the_report_is_a_page_that_a_person_can_open(tmp_path):
    """Evidently's page and numbers are saved under the window's and version's name."""
    world = World(tmp_path, [WORTHLESS])
    verdict = world.run(1).verdicts[0]
    assert verdict.report == "20130101T0000-20130108T0000-v1.html"
    assert "<html" in (world.reports / verdict.report).read_text()[:200]
    saved = (world.reports / verdict.report).with_suffix(".json").read_text()
    assert "RocAuc" in saved
    assert sorted(p.suffix for p in world.reports.iterdir() if p.is_file()) == [".html", ".json"]
    assert verdict.report in world.pages[0][1]


@pytest.fixture(scope="module")
def prefect_server():
    """Prefect's own test server, once."""
    from prefect.settings import (
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_SERVER_ANALYTICS_ENABLED,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    # Telemetry would fight the server's own start for its database, and has no place in a test.
    quiet = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_SERVER_ANALYTICS_ENABLED: False}
    with temporary_settings(quiet), prefect_test_harness(server_startup_timeout=120):
        yield


def test_prefect_gets_the_event_once_and_the_artifact(prefect_server, tmp_path):
    """A flow's monitor step leaves a Markdown artifact, and one event with the window in its payload."""
    from prefect import flow
    from prefect.client.orchestration import get_client

    world = World(tmp_path, [WORTHLESS] * 2)

    @flow
    def a_day():
        return monitor_step(
            world.lake, world.journal, TOY, world.package, world.reports,
            version="1", until=START + 2 * WEEK + TOY.horizon,
        )  # fmt: skip

    assert a_day().asked
    emit_retrain("toy", json.loads(world.lake.read("retrain_requests")["payload"][0]))
    wanted = {"filter": {"event": {"name": [EVENT]}}}
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + 60
        while not (events := client.request("POST", "/events/filter", json=wanted).json()["events"]):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        artifacts = client.request("POST", "/artifacts/filter", json={}).json()
    assert [e["resource"]["prefect.resource.id"] for e in events] == ["perennial.model.toy"]
    assert events[0]["payload"]["window"] == "20130108T0000-20130115T0000-v1"
    assert events[0]["related"][0]["prefect.resource.role"] == "flow-run"
    pages = [a["data"] for a in artifacts if a["key"] == "verdict-toy"]
    assert len(pages) == 2
    assert any("Verdict: retrain" in page for page in pages)
