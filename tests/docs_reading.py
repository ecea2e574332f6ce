"""What the project's documents tell people to type and to open."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = (ROOT / "README.md", *sorted((ROOT / "infra" / "docs").glob("*.md")))
RUNBOOKS = tuple(sorted((ROOT / "infra" / "runbooks").glob("*.md")))
FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"[\w.-]+(/[\w.*-]+)*/?")
SUFFIXES = (".py", ".md", ".yml", ".yaml", ".json", ".toml", ".lock", ".sh")
ENDS = {"|", ";", "&&", ">", "2>&1"}


@dataclass(frozen=True)
class Told:
    """Words of a document; `typed` if they stand in a block that a reader copies."""

    page: str
    words: tuple[str, ...]
    typed: bool


def list_lines(page: Path) -> Iterator[tuple[str, bool]]:
    """Yield every line that is code: of blocks in shell, and of spans in the text."""
    text = page.read_text(encoding="utf-8")
    for block in FENCE.finditer(text):
        if block["kind"] in {"bash", "sh"}:
            yield from ((line, True) for line in block["text"].splitlines() if line.strip())
    yield from ((span, False) for span in SPAN.findall(FENCE.sub("", text)))


def list_commands(page: Path, program: str) -> Iterator[Told]:
    """Yield what follows each call of the program, up to where the shell ends it."""
    for line, typed in list_lines(page):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # words, not a line of shell
            continue
        # A block may name the program by a variable, as `$perennial`.
        named = [i for i, word in enumerate(words) if re.fullmatch(rf"\$?([^\s=]*/)?{program}", word)]
        for start in named[:1]:
            rest = words[start + 1 :]
            until = next((i for i, word in enumerate(rest) if word in ENDS), len(rest))
            yield Told(page.name, tuple(rest[:until]), typed)


def list_paths(page: Path) -> Iterator[tuple[str, str]]:
    """Yield each path in the page's text, and the folder of the path named just before it in that line."""
    for line in FENCE.sub("", page.read_text(encoding="utf-8")).splitlines():
        folder = ""
        for span in SPAN.findall(line):
            if PATH.fullmatch(span) and ("/" in span or span.endswith(SUFFIXES)):
                yield span, folder
                folder = span.rpartition("/")[0] or folder


def list_links(page: Path) -> list[str]:
    """Return what the page links to or shows, but other sites."""
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [target.partition("#")[0] for target in found if not target.startswith(("http", "#"))]


def list_rows(page: Path) -> Iterator[list[str]]:
    """Yield the cells of each row of the page's tables."""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in line.strip("|").split("|")]
