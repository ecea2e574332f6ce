"""Readiness: points follow from what was looked up, and from nothing else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.drill.incident import MODES
from flows.policy.readiness import Finding, Score, grade
from flows.readiness import records
from flows.readiness.infrastructure import find_drill
from flows.readiness.lookups import TestsPassed, deployed, passed, take
from flows.readiness.model import BACKTEST, find_backtest
from flows.readiness.records import FILE, TestRecord, append_records, hash_code, read_records
from flows.readiness.sources import Sources
from flows.readiness.walk import CHECKLIST, RUBRIC, describe, draw_answers, score_rubric, walk_checklist

YES = Finding(True, "found", "http://somewhere")
NO = Finding(False, "not found", "", "Do it.")
NOWHERE = Finding(True, "claimed")
TEST = "tests/unit/test_x.py::test_y"


@pytest.mark.parametrize(
    ("automated", "documented", "points"),
    [
        ([YES, YES], [], 1.0),
        ([YES, NO], [YES], 0.5),
        ([YES, NO], [NO], 0.0),
        ([YES, NO], [], 0.0),
        ([], [], 0.0),
        ([NOWHERE], [], 0.0),
        ([NO], [NOWHERE], 0.0),
    ],
)
def test_a_point_needs_evidence_that_can_be_opened(automated: Any, documented: Any, points: float) -> None:
    """All that is automated holds: one; all that is written down: half; what nobody can open: nothing."""
    assert grade("data", "?", automated, documented).points == points


def test_the_score_is_the_least_of_the_four_sections() -> None:
    """A strong section makes up for no weak one."""
    answers = [grade(name, "?", [YES]) for name in ("data", "model", "infrastructure")]
    score = Score((*answers, grade("data", "?", [YES]), grade("monitoring", "?", [NO], [YES])))
    assert score.sections == {"data": 2.0, "model": 1.0, "infrastructure": 1.0, "monitoring": 0.5}
    assert score.least == 0.5


def test_the_rubric_has_seven_tests_in_each_of_four_sections() -> None:
    """No test is left out, and none is asked twice."""
    assert [len(asked) for asked in RUBRIC.values()] == [7, 7, 7, 7]
    assert len({one.text for asked in RUBRIC.values() for one in asked}) == 28


def test_tests_that_are_named_as_evidence_exist() -> None:
    """A test that was renamed would cost a point for ever."""
    asked = [one for part in (*RUBRIC.values(), *CHECKLIST.values()) for one in part]
    looks = [look for one in asked for look in (*one.automated, *one.documented)]
    names = {name for look in looks if isinstance(look, TestsPassed) for name in look.names}
    assert names
    for name in names:
        file, _, test = name.partition("::")
        text = (records.ROOT / file).read_text()
        assert not test or f"def {test.partition('[')[0]}(" in text, name


@pytest.fixture
def sources(make_toy: Any) -> Sources:
    """Return where evidence on an empty home is looked up, with nothing running."""
    project = make_toy()
    quiet = {f"{name}_port": 1 for name in ("prefect", "service", "reports", "prometheus", "alertmanager")}
    return Sources(replace(project, settings=project.settings.model_copy(update=quiet)))


def test_where_nothing_is_there_is_no_point_for_what_must_run(sources: Sources) -> None:
    """On an empty home every look says what to do next, and the score is 0."""
    score = score_rubric(sources)
    assert score.least == 0
    assert all(one.next_step for answer in score.answers for one in answer.missing)
    assert not any(answer.points for answer in walk_checklist(sources) if answer.section == "serving")
    assert len(describe(score, walk_checklist(sources))["rubric"]) == 28


def record(sources: Sources, **given: str) -> None:
    told = {
        "test": TEST,
        "outcome": "passed",
        "commit": "abc",
        "code": hash_code(),
        "at": "2026-01-01T00:00:00",
    }
    append_records(sources.settings.home / FILE, [TestRecord(**{**told, **given})])


def test_a_test_that_passed_on_this_code_is_evidence(sources: Sources) -> None:
    """It is named with commit and time, and its file can be opened."""
    record(sources)
    found = take(passed(TEST), sources)
    assert found.holds
    assert "abc" in found.what
    assert found.where.endswith("tests/unit/test_x.py")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"code": "another"}, "changed since"),
        ({"outcome": "failed"}, "failed"),
        ({"outcome": "skipped"}, "skipped"),
        ({"test": f"{TEST}_and_more"}, "no record"),
    ],
)
def test_a_test_of_other_code_or_that_did_not_pass_is_none(
    sources: Sources, given: dict[str, str], why: str
) -> None:
    """Stale, failed, skipped and missing are each told, with how to run it."""
    record(sources, **given)
    found = take(passed(TEST), sources)
    assert not found.holds
    assert why in found.what
    assert "pytest" in found.next_step


def test_all_parameters_of_a_test_have_to_pass(sources: Sources) -> None:
    """One that failed is not hidden by the others."""
    record(sources, test=f"{TEST}[a]")
    assert take(passed(TEST), sources).holds
    record(sources, test=f"{TEST}[b]", outcome="failed")
    assert not take(passed(TEST), Sources(sources.project)).holds


def test_the_newest_outcome_of_a_test_counts(tmp_path: Path) -> None:
    """Running a test again replaces what was known of it; a damaged line spoils no other."""
    path, one = tmp_path / FILE, TestRecord(TEST, "failed", "a", "c", "2026-01-01T00:00:00")
    append_records(path, [one])
    append_records(path, [replace(one, outcome="passed", at="2026-01-02T00:00:00")])
    path.write_text(path.read_text() + '{"test": "cut sho')
    assert {test: found.outcome for test, found in read_records([path]).items()} == {TEST: "passed"}


def test_code_is_told_by_its_content(tmp_path: Path) -> None:
    """Another byte of code is other code; anything else is not."""
    file = tmp_path / "flows" / "one.py"
    file.parent.mkdir()
    file.write_text("a = 1\n")
    before = hash_code(tmp_path)
    (tmp_path / "README.md").write_text("words")
    hash_code.cache_clear()
    assert hash_code(tmp_path) == before
    file.write_text("a = 2\n")
    hash_code.cache_clear()
    assert hash_code(tmp_path) != before


@pytest.mark.parametrize(("active", "holds"), [(True, True), (False, False)])
def test_a_schedule_that_is_switched_off_runs_nothing(sources: Sources, active: bool, holds: bool) -> None:
    """It stands in the UI, and is no evidence."""
    schedule = {"active": active, "schedule": {"cron": "0 4 * * *"}}
    one = {"name": "daily-loop", "id": "1", "paused": False, "schedules": [schedule]}
    vars(sources)["deployments"] = {"daily-loop": one}
    assert take(deployed("daily-loop", scheduled=True), sources).holds is holds
    assert take(deployed("daily-loop"), sources).holds


@pytest.mark.parametrize(
    ("policies", "holds"), [(("never", "weekly"), True), (("weekly", "monthly"), False), (("never",), False)]
)
def test_only_beside_never_a_backtest_tells_what_staleness_costs(
    sources: Sources, policies: tuple[str, ...], holds: bool
) -> None:
    """A backtest of other policies alone does not."""
    path = sources.settings.home / BACKTEST
    path.parent.mkdir(parents=True)
    worths = [{"policy": name, "mean_auc": 0.7 + n / 100} for n, name in enumerate(policies)]
    path.write_text(json.dumps({"policies": worths}))
    found = take(find_backtest, sources)
    assert found.holds is holds
    assert not holds or found.what == "a backtest of 2 policies: never retrained AUC 0.7000, weekly 0.7100"


@pytest.mark.parametrize("lacks", ["", "a mode", "the code", "health"])
def test_a_drill_counts_if_it_was_whole_and_of_this_code(sources: Sources, lacks: str) -> None:
    """Of one mode only, of other code, or failed, it stands for no end-to-end test."""
    modes = [{"mode": mode, "ok": lacks != "health"} for mode in MODES[1 if lacks == "a mode" else 0 :]]
    code = "another" if lacks == "the code" else sources.code
    path = sources.settings.home / "drill" / "drill.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"at": "now", "modes": modes, "code": code}))
    assert take(find_drill, sources).holds is not bool(lacks)


def test_every_line_of_evidence_is_whole() -> None:
    """What was found, where to open it, and what is missing with the next step, each in one line."""
    lines = list(draw_answers((grade("data", "Is it?", [YES, NO], [YES]),), "Title"))
    assert any("½ Is it?" in line.replace("[yellow]", "").replace("[/]", "") for line in lines)
    assert any("found: http://somewhere" in line for line in lines)
    assert any("not found. Do it." in line for line in lines)
