"""The drill's proofs switch off what they say, and count what there is."""

from pathlib import Path

from feature_repo.settings import Settings
from flows.drill.defences import Defences
from flows.drill.incident import MODES
from flows.local.stack_services import build_services
from tests.proofs.browser import read_counts
from tests.proofs.defences import OFF, build_both


def test_every_mode_has_a_defence_that_can_be_switched_off() -> None:
    """Five modes, five defences: none is left untested."""
    assert {*OFF} == {*MODES}


def test_the_second_service_differs_by_port_and_check_alone(tmp_path: Path) -> None:
    """It stands on the same home, under another name, with all of its addresses on its own port."""
    settings = Settings(home=tmp_path, service_port=3456, evidently_port=0)
    [whole] = [one for one in build_both(settings, 4567) if one.name == "service"]
    [other] = [one for one in build_both(settings, 4567) if one.name == "unchecked"]
    assert (other.port, "4567" in other.health, "4567" in other.url) == (4567, True, True)
    assert "3456" not in " ".join((*other.command, other.health, other.url))
    assert "tests.proofs.unchecked:PredictionService" in other.command
    assert len(other.command) == len(whole.command)


def test_the_runner_of_the_proof_looks_at_no_release(tmp_path: Path) -> None:
    """It is the stack's own but for the keeper's looks, which would undo a bad release by themselves."""
    settings = Settings(home=tmp_path, evidently_port=0)
    [runner] = [one for one in build_both(settings, 4567) if one.name == "runner"]
    assert "tests.proofs.unwatched" in runner.command
    [own] = [one for one in build_services(settings) if one.name == "runner"]
    assert len(runner.command) == len(own.command)


def test_the_defences_of_a_drill_are_the_systems_own() -> None:
    """By default nothing is replaced."""
    from flows.monitor import run_monitor
    from flows.releasing.look import look
    from flows.skew import probe_skew

    own = Defences()
    assert (own.monitor, own.probe, own.watch_release) == (run_monitor, probe_skew, look)


def test_counts_of_a_test_report_are_read(tmp_path: Path) -> None:
    """Skipped tests count: a browser that is not there must not pass for one."""
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite tests="3" failures="1" errors="0" skipped="2"></testsuite></testsuites>'
    )
    assert read_counts(report) == {"tests": 3, "failures": 1, "errors": 0, "skipped": 2}
