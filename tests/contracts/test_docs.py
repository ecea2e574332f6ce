"""The documents are true: what they tell people to type parses, what they name is there."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from feature_repo.settings import Settings
from flows.cli.app import app
from tests.docs_reading import DOCS, ROOT, RUNBOOKS, Told, list_commands, list_lines, list_links, list_paths

PAGES = (*DOCS, *RUNBOOKS)
README = ROOT / "README.md"
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")  # stands for a value of the reader's own
# What runs make under the home; `monitoring` and `replicas` are made by commands of those names.
HOME = {
    *("evidently", "feast", "journal", "lake", "lineage", "logs", "metrics", "mlflow", "models"),
    *("monitoring", "pages", "prefect", "replicas", "reports", "screens", "drill"),
}
ids = [page.name for page in PAGES]


def find_command(words: tuple[str, ...]) -> tuple[Any, list[str]]:
    """Return the command that the words name, and the words that are left for it."""
    command, rest = get_command(app), list(words)
    if rest[:1] == ["--home"]:  # stands before the command, for whichever it is
        del rest[:2]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"no such command: {' '.join(words)}"
        command = command.commands[rest.pop(0)]
    return command, rest


def check_command(told: Told) -> None:
    """Parse the words as the command line would."""
    command, rest = find_command(told.words)
    if rest == ["--help"] or (not told.typed and not rest):
        return  # a name in a sentence
    assert not hasattr(command, "commands"), f"not a whole command: {told}"
    context = command.context_class(command, info_name=command.name)
    values, left, _ = command.make_parser(context).parse_args([*rest])
    assert not left, f"{told}: too many words: {left}"
    for parameter in command.params:
        value = values.get(parameter.name)
        given = value if isinstance(value, list | tuple) else [value]
        if not any(isinstance(one, str) and PLACEHOLDER.fullmatch(one) for one in given):
            parameter.process_value(context, value)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_perennial_command_parses(page: Path) -> None:
    """What a reader is told to type is understood, to the last option and the type of each value."""
    for told in list_commands(page, "perennial"):
        check_command(told)


@pytest.mark.parametrize(
    "words",
    [
        ("promot", "3"),
        ("promote", "three"),
        ("promote",),
        ("promote", "3", "4"),
        ("train", "--unti", "2013-01-01"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_is_noticed(words: tuple[str, ...]) -> None:
    """The check above can fail: by name, by type, by what is missing, by what is too much."""
    with pytest.raises(Exception, match=r"."):
        check_command(Told("a page", words, typed=True))


def test_the_reader_finds_commands_in_blocks_and_in_sentences() -> None:
    """The documents are searched truly: dozens of commands, of both kinds."""
    told = [one for page in PAGES for one in list_commands(page, "perennial")]
    assert sum(one.typed for one in told) > 10
    assert sum(not one.typed for one in told) > 20


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_make_target_is_there(page: Path) -> None:
    """`make X` in a document is a target of the Makefile, and AREA=X an area that can be proved."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for told in list_commands(page, "make"):
        if told.words:
            assert told.words[0] in targets, told
        for word in told.words[1:]:
            area = re.fullmatch(r"AREA=([a-z]+)", word)
            assert not area or (ROOT / "tests" / "prove" / f"{area[1]}.py").is_file(), told


def is_there(path: str, folder: str, page: Path) -> bool:
    """Return whether the path is in the project, beside the one named before it, or what a home holds."""
    if any((base / path).exists() for base in (ROOT, ROOT / folder, page.parent)):
        return True
    if path.startswith(".venv/") or f"> {path}" in page.read_text(encoding="utf-8"):
        return True  # `make` or the reader made it, by a line above
    if "*" in path:
        return any(ROOT.glob(path))
    parts = Path(path.removeprefix("var/")).parts
    return path == "var/" or (bool(parts) and parts[0] in HOME)


def list_artifacts() -> Iterator[str]:
    """Yield the names of files that flows log to MLflow."""
    for module in sorted((ROOT / "flows").glob("*.py")):
        yield from re.findall(r'"([\w-]+\.(?:md|json|csv|png))"', module.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_path_is_there(page: Path) -> None:
    """A file that a document names exists, or is one that runs make."""
    made = set(list_artifacts())
    lost = [
        path for path, folder in list_paths(page) if path not in made and not is_there(path, folder, page)
    ]
    assert lost == []


def test_a_wrong_path_is_noticed() -> None:
    """The check above can fail."""
    assert is_there("flows/gate.py", "", README)
    assert not is_there("flows/gates.py", "", README)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_link_and_picture_is_there(page: Path) -> None:
    """A link within the project leads to a file."""
    assert [link for link in list_links(page) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_setting_exists(page: Path) -> None:
    """PERENNIAL_X in a document is a setting that is read."""
    known = {f"PERENNIAL_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"PERENNIAL_[A-Z_]*[A-Z]", page.read_text(encoding="utf-8")))
    assert named <= known


def test_pictures_are_small_and_all_shown() -> None:
    """A clone is not heavy with pictures, and none is left over."""
    shown = {
        (page.parent / link).resolve() for page in DOCS for link in list_links(page) if link.endswith(".png")
    }
    kept = set((ROOT / "infra" / "docs" / "screens").glob("*.png"))
    assert kept == shown
    assert all(picture.stat().st_size < 200_000 for picture in kept)


def test_the_readme_is_short_and_leads_to_a_prediction() -> None:
    """At most 150 lines; the first prediction is asked for within 30."""
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    asked = next(n for n, line in enumerate(lines, 1) if "/predict" in line and "curl" in line)
    assert asked <= 30


def test_the_readme_names_every_deployment() -> None:
    """What a person may run from the Prefect UI is listed, nothing more."""
    from flows.deployments import PLANS

    row = next(line for line in README.read_text(encoding="utf-8").splitlines() if "Prefect UI, http" in line)
    told = set(re.findall(r"`([a-z-]+)`", row))
    assert told == {plan.name for plan in PLANS}


def test_the_readme_quotes_the_thresholds_that_decide() -> None:
    """Numbers under 'What decides', and on the page that it leads to, are those of the policies."""
    from flows.batches import MAX_QUARANTINED
    from flows.policy.gate import GatePolicy
    from flows.policy.patience import PatiencePolicy
    from flows.policy.quality import QualityPolicy
    from flows.policy.trigger import TriggerPolicy
    from services.routing import Terms

    short, whole = (
        " ".join(page.read_text(encoding="utf-8").split())
        for page in (README, ROOT / "infra" / "docs" / "what-decides.md")
    )
    gate, trigger, patience, quality = GatePolicy(), TriggerPolicy(), PatiencePolicy(), QualityPolicy()
    assert trigger.window == timedelta(days=7)
    for quoted in (
        f"within {gate.max_latency_ms:g} ms of CPU",
        f"{gate.min_rows:,} newer labelled rows of {gate.min_days} days",
        f"{gate.level:.0%} interval",
        f"within {gate.max_bias:g} of",
        f"{trigger.needed} of the last {trigger.of} weekly windows",
        f"learned from is {trigger.oldest.days} days old",
        "slope not surely outside {} to {}".format(*gate.slopes),
        f"AUC surely more than {quality.auc_tolerance:g}",
        f"Brier skill surely more than {quality.skill_tolerance:g}",
        "outcomes surely outside {} to {}".format(*quality.calibration),
        f"again after {trigger.after_rejection.days} days",
        f"{patience.rejections} rejections in a row",
        f"{patience.wait.days} days of newer labels",
        f"bake time, {Terms().bake:g} days",
        f"over {MAX_QUARANTINED:.0%} quarantined",
    ):
        assert quoted in whole, quoted
    for quoted in (
        f"{trigger.needed} of the last {trigger.of} weekly windows",
        f"learned from is {trigger.oldest.days} days old",
        f"{Terms().bake:g} days of watch",
    ):
        assert quoted in short, quoted


def test_the_readme_links_what_the_address_of_each_screen_is() -> None:
    """The ports that it quotes are the defaults of the settings."""
    ports = {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", README.read_text(encoding="utf-8"))}
    known = {value for name, value in Settings().model_dump().items() if name.endswith("_port")}
    assert ports <= known


def test_code_is_found_in_the_pages() -> None:
    """Every document of ours has something to type or to open."""
    assert all(any(list_lines(page)) for page in DOCS)
