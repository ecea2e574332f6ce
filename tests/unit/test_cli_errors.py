"""Errors at the terminal: one line and a next step, whoever raised it."""

import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from feature_repo.errors import StackError
from flows.cli.app import app as perennial
from flows.cli.errors import OneLineErrors, tell_error
from flows.cli.help import EXAMPLES, list_commands


class ConnectError(Exception):
    """As a client of HTTP would raise it."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (StackError("port", got="a", expected="b", next_step="Do c."), "port: got a, expected b. Do c."),
        (ConnectError("refused"), "perennial up"),
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full"),
        (PermissionError("no"), "PERENNIAL_HOME"),
        (ModuleNotFoundError("No module named 'x'"), "make"),
        (KeyError("secret"), "not foreseen"),
        (ValueError("two\nlines"), "two lines"),
    ],
)
def test_every_error_is_one_line_with_what_to_do(error: Exception, words: str) -> None:
    """Ours say it themselves; those of libraries are told by what they mean here."""
    assert words in tell_error(error)
    assert "\n" not in tell_error(error)


def make_app(error: Exception) -> typer.Typer:
    app = typer.Typer(cls=OneLineErrors, pretty_exceptions_enable=False)

    @app.callback()
    def read(traceback: bool = typer.Option(False, "--traceback")) -> None:
        """Take the option."""

    @app.command()
    def work() -> None:
        """Fail."""
        raise error

    @app.command()
    def leave() -> None:
        """End with a code."""
        raise typer.Exit(3)

    return app


def test_what_was_not_foreseen_is_one_line_too() -> None:
    """No traceback for those who did not ask for one; the exit code is 1."""
    done = CliRunner().invoke(make_app(RuntimeError("odd")), ["work"])
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [f"perennial: {tell_error(RuntimeError('odd'))}"]


@pytest.mark.parametrize("words", [["--traceback", "work"], ["work", "--traceback"]])
def test_a_traceback_may_be_asked_for_before_or_after_the_command(words: list[str]) -> None:
    """Where people think of it is at the end of what failed."""
    done = CliRunner().invoke(make_app(RuntimeError("odd")), words)
    assert isinstance(done.exception, RuntimeError)


def test_usage_and_exits_are_left_to_the_parser() -> None:
    """A misspelt command is 2, and a command's own exit code is its own."""
    app = make_app(RuntimeError("odd"))
    assert CliRunner().invoke(app, ["wrok"]).exit_code == 2
    assert CliRunner().invoke(app, ["leave"]).exit_code == 3


def test_every_example_is_of_a_command_and_parses() -> None:
    """What `--help` shows can be typed."""
    root = typer.main.get_command(perennial)
    for name, examples in EXAMPLES.items():
        for words in map(shlex.split, examples):
            command = root
            for part in name.split():
                command = command.commands[part]
            command.make_context(name, words[len(name.split()) :])


def test_commands_show_their_examples() -> None:
    """Each command ends its help with them."""
    told = {name: command.epilog or "" for name, command in list_commands(perennial)}
    assert set(told) == set(EXAMPLES)
    for name, examples in EXAMPLES.items():
        assert all(words in told[name] for words in examples), name


def test_a_shell_can_complete_commands() -> None:
    """What `--install-completion` puts into a shell asks the command itself, which answers with names."""
    asked = {"_PERENNIAL_COMPLETE": "complete_bash", "COMP_WORDS": "perennial do", "COMP_CWORD": "1"}
    done = subprocess.run(
        [Path(sys.executable).parent / "perennial"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert {"doctor", "down"} <= set(done.stdout.split())
