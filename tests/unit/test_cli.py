"""The command line starts quickly, teaches, and fails in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.local.stack_services import PROJECT
from flows.releasing.release_state import ReleaseState
from tests.ports import find_free_port

HEAVY = (
    "prefect",
    "mlflow",
    "feast",
    "evidently",
    "great_expectations",
    "sklearn",
    "bentoml",
    "pandas",
    "polars",
)


def run_perennial(*words: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "flows.cli", *words),
        cwd=PROJECT,
        env={**os.environ, "PERENNIAL_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_imports_nothing_heavy():
    """Asking for help, or for what runs, must not wait for the libraries that do the work."""
    code = f"""
import sys
from flows import doctor, terminal
from flows.local import stack, supervisor
from flows.cli import app as cli
sys.argv = ["perennial", "--help"]
try:
    cli.main()
except SystemExit:
    pass
print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run(
        (sys.executable, "-c", code), cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_help_names_every_command(tmp_path):
    """The first page lists all commands, and what to type first."""
    page = run_perennial("--help", home=tmp_path).stdout
    for word in (
        "up",
        "down",
        "status",
        "demo",
        "promote",
        "rollback",
        "ingest",
        "backfill",
        "train",
        "doctor",
    ):
        assert f" {word} " in page
    assert "First time" in page


@pytest.mark.parametrize("words", [["propose", "3"], ["approve"], ["train"], ["ingest"]])
def test_an_error_of_ours_is_one_line_on_stderr(tmp_path, words):
    """No traceback for what a person can put right: what, got, expected, next step, exit 1."""
    done = run_perennial(*words, home=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "perennial up" in done.stderr


@pytest.mark.parametrize("words", [["promote", "3"], ["rollback"], ["challenge", "3"], ["rollout"]])
def test_what_serves_can_be_changed_while_nothing_but_mlflow_runs(tmp_path, words):
    """MLflow is all that is asked for: without it the error says so, in one line."""
    done = run_perennial(*words, home=tmp_path, PERENNIAL_MLFLOW_PORT=str(find_free_port()))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "MLflow" in done.stderr


def test_history_is_told_while_nothing_runs(tmp_path):
    """The record is a file; what moved since nobody can say, and that is said."""
    state = ReleaseState(tmp_path)
    told = {"who": "ann", "how": "by hand", "reason": "[bold]it is better", "rollout": None}
    state.finish(state.begin("champion", None, 1, **told), 0.1)
    done = run_perennial("history", home=tmp_path, PERENNIAL_MLFLOW_PORT=str(find_free_port()))
    assert done.returncode == 0, done.stderr
    assert "[bold]" in done.stdout
    assert "does not answer" in done.stderr


def test_traceback_is_there_for_those_who_ask(tmp_path):
    """`--traceback` shows where the error came from."""
    done = run_perennial("--traceback", "promote", "3", home=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_misspelt_setting_is_refused_by_name(tmp_path):
    """A setting that does not exist is an error that lists those that do."""
    done = run_perennial("status", home=tmp_path, PERENNIAL_PROT="1")
    assert done.returncode == 1
    assert "PERENNIAL_PROT" in done.stderr
    assert "PERENNIAL_SERVICE_PORT" in done.stderr


def test_days_in_the_wrong_order_are_refused(tmp_path):
    """A backfill that ends before it begins names the argument at fault."""
    done = run_perennial("backfill", "2013-03-01", "2013-02-01", home=tmp_path)
    assert done.returncode == 2
    assert "UNTIL" in done.stderr


def test_status_of_nothing_is_said_in_json_too(tmp_path):
    """Programs read what people see; without a healthy stack the exit code is 1."""
    done = run_perennial("status", "--json", home=tmp_path)
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "home": str(tmp_path),
        "phase": "never started",
        "services": {},
        "live": None,
        "serving": None,
        "freshness": [],
        "verdicts": [],
        "alerts": None,
        "queues": {},
    }


def test_nothing_is_coloured_when_piped(tmp_path):
    """Output that is read by a program carries no terminal codes."""
    for words in (["--help"], ["status"], ["doctor", "--machine"]):
        done = run_perennial(*words, home=tmp_path)
        assert "\x1b" not in done.stdout + done.stderr


def test_stopping_nothing_is_no_error(tmp_path):
    """`down` twice is as good as once."""
    done = run_perennial("down", home=tmp_path)
    assert done.returncode == 0
    assert "nothing runs" in done.stdout
