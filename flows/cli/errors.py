"""Errors at the terminal: one line with the next step; where it came from only for those who ask."""

import errno
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from feature_repo.errors import PerennialError

# What the parser raises itself: for usage, the class of all of them, wherever Typer keeps it.
PARSERS: tuple[type[Exception], ...] = (
    typer.Abort,
    typer.Exit,
    *(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"),
)
INSTALL = "rm .venv/.installed && make lint"
ASK = "`--traceback` shows where it came from."
# Errors of the libraries beneath, by the name of their class: none of them is imported for this.
KNOWN = {
    "ConnectError": "Nobody answers there: start the stack with `perennial up`.",
    "ConnectionRefusedError": "Nobody answers there: start the stack with `perennial up`.",
    "ConnectionError": "Nobody answers there: start the stack with `perennial up`.",
    "MaxRetryError": "Nobody answers there: start the stack with `perennial up`.",
    "TimeoutException": "Try again; `perennial status` says what answers.",
    "TimeoutError": "Try again; `perennial status` says what answers.",
    "PermissionError": "Give yourself the right to it, or set PERENNIAL_HOME to a folder of yours.",
    "ModuleNotFoundError": f"Install what is locked anew: `{INSTALL}`.",
    "MemoryError": "Free memory, or work on a shorter period.",
}
NUMBERS = {
    errno.ENOSPC: "The disk is full: make room; `perennial compact` frees what nothing needs.",
    errno.EROFS: "Set PERENNIAL_HOME to a folder that can be written to.",
    errno.EMFILE: "Raise the limit of open files: `ulimit -n 4096`.",
}


class OneLineErrors(TyperGroup):
    """Prints an error in one line and exits 1; `--traceback`, before the command or after, shows more."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run with the option wherever it stands among the words."""
        words = list(extra.pop("args", None) or (args[0] if args and args[0] is not None else sys.argv[1:]))
        if "--traceback" in words:
            words = ["--traceback", *(word for word in words if word != "--traceback")]
        return super().main(words, *args[1:], **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except PARSERS:
            raise
        except Exception as error:
            broken_pipe = isinstance(error, OSError) and error.errno == errno.EPIPE
            if broken_pipe or ctx.params.get("traceback"):
                raise
            print(f"perennial: {tell_error(error)}", file=sys.stderr)
            raise typer.Exit(1) from None


def tell_error(error: Exception) -> str:
    """Return an error in one line, with what to do next."""
    if isinstance(error, PerennialError):
        return " ".join(str(error).split())
    told = " ".join(str(error).split())[:300] or "no more was said"
    return f"{type(error).__name__}: {told}. {_advise(error)} {ASK}"


def _advise(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in NUMBERS:
        return NUMBERS[error.errno]
    names = [kind.__name__ for kind in type(error).__mro__]
    known = next((KNOWN[name] for name in names if name in KNOWN), None)
    return known or "This was not foreseen; nothing that was done before is lost, and it can be run again."
