"""The skew probe as a flow: what was served in a period is compared, and what was found is kept."""

from datetime import timedelta
from pathlib import Path

import pytest

from feature_repo.contract import Period
from feature_repo.problem import PROBLEM
from services.journal import format_instant
from tests.skew.harness import ASKED, build_base, find_stretch


def test_the_flow_compares_the_period_and_says_when_there_is_nothing(
    prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an answer nothing is reported as clean; with answers the report is in the lake."""
    from flows.skew import METRICS, read_skew, skew_probe

    base = build_base(tmp_path / "home", PROBLEM)
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    day = base.project.day(ASKED)
    assert skew_probe()["answers"] == 0
    base.project.journal.append(base.answer()[:100])
    base.project.journal.close()
    told = skew_probe(day.since, day.until)
    assert told["answers"] == 100
    assert sum(one["mismatched"] for one in told["verdict"]["features"]) == 0
    assert read_skew(base.project)["mismatched"].sum() == 0
    assert (tmp_path / "home" / METRICS).is_file()
    landed = find_stretch(base.project).until
    hour = timedelta(hours=1)
    at_the_end = base.answer()[0]._replace(requested_at=format_instant(landed))
    base.project.journal.append([at_the_end._replace(prediction_id="at-the-end")])
    base.project.journal.close()
    assert skew_probe(landed, landed + hour)["answers"] == 0
    late = skew_probe(day.since, landed + hour)
    assert (late["answers"], late["period"]) == (100, str(Period(day.since, landed)))
