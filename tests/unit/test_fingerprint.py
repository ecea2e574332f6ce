"""A fingerprint changes with every edit that can change a value, and with no other."""

import dataclasses
import functools
import importlib.util
import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

from feature_repo import transforms
from feature_repo.code_text import read_code
from feature_repo.errors import DefinitionChanged
from feature_repo.fingerprint import (
    describe_problem,
    describe_table,
    find_changes,
    fingerprint,
    fingerprint_all,
)
from feature_repo.problem import PROBLEM as WHOLE
from feature_repo.problem import TABLES
from feature_repo.request_inputs import SideBySide
from tests import toy

SOURCE = Path(transforms.__file__).read_text()
PROBLEM = dataclasses.replace(WHOLE, feature_tables=TABLES)  # those whose functions stand in SOURCE
Edit = Callable[..., dict[str, str]]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Return what makes a text a module of its own."""
    loaded = []

    def load(text: str) -> ModuleType:
        name = f"edited_{len(loaded)}"
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        loaded.append(module)
        return module

    return load


@pytest.fixture
def fingerprints_of(load: Callable[[str], ModuleType]) -> Edit:
    """Return what the bundled problem's fingerprints would be with another text of its functions."""

    def fingerprints(old: str = "", new: str = "", text: str = SOURCE) -> dict[str, str]:
        assert old in text
        module = load(text.replace(old, new))

        def swap(function):
            return getattr(module, function.__name__)

        def rebuild(table):
            compute = table.compute
            called = swap(compute.func if hasattr(compute, "func") else compute)
            given = {
                "compute": type(compute)(called, **compute.keywords) if hasattr(compute, "func") else called
            }
            return dataclasses.replace(table, ticks=swap(table.ticks), **given)

        problem = dataclasses.replace(
            PROBLEM,
            feature_tables=tuple(map(rebuild, PROBLEM.feature_tables)),
            add_request_features=swap(PROBLEM.add_request_features),
        )
        return fingerprint_all(describe_problem(problem))

    return fingerprints


NOW = fingerprint_all(describe_problem(PROBLEM))
DAILY = {"carrier_daily", "airport_daily", "route_daily"}
RECENT = {"airport_recent", "pair_recent"}


def differing(told: dict[str, str]) -> set[str]:
    return {name for name in NOW if told[name] != NOW[name]}


def test_the_same_code_elsewhere_is_the_same_definition(fingerprints_of: Edit) -> None:
    """Moving all functions to another module changes nothing."""
    assert fingerprints_of() == NOW


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    frames = []\n", "    frames = []  # by tick\n\n"),
        ("    frames = []\n", "    frames = [\n    ]\n"),
        ("Return, per key and local midnight, the share", "Say, per key, which share"),
        ("def _next_hour(at: str) -> pl.Expr:", "def _next_hour(at):"),
        ("(-30, 240), (-60, 240)", "( - 30, 240 ), (\n    -60,\n    240,\n)"),
        ("LATE_MINUTES).mean()", "(LATE_MINUTES)).mean()"),
    ],
)
def test_comments_docstrings_annotations_and_layout_do_not_count(
    fingerprints_of: Edit, old: str, new: str
) -> None:
    """What computes nothing changes nothing."""
    assert fingerprints_of(old, new) == NOW


def test_the_order_of_functions_does_not_count(fingerprints_of: Edit) -> None:
    """A helper that moves to the top of its module is the same helper."""
    at = SOURCE.index("def _next_hour")
    helper = SOURCE[at : SOURCE.index("def _stamp")]
    moved = SOURCE.replace(helper, "").replace("def hourly_ticks", f"{helper}\ndef hourly_ticks")
    assert fingerprints_of(text=moved) == NOW


@pytest.mark.parametrize(
    ("old", "new", "tables"),
    [
        ("today - timedelta(days=n)", "today - timedelta(days=n + 1)", DAILY),
        ('closed="left")\n            late', 'closed="both")\n            late', DAILY),
        ('pl.col("late").is_not_null()', 'pl.col("late").is_null()', DAILY | RECENT),
        ("ARRIVAL_CAP = (-30, 240), (-60, 240)", "ARRIVAL_CAP = (-30, 240), (-60, 241)", RECENT),
        ('truncate("1h")', 'truncate("30m")', RECENT | {"airport_weather"}),
        ("pl.lit(tick).cast", "pl.lit(tick + timedelta(hours=1)).cast", DAILY),
        ("tick += timedelta(hours=1)", "tick += timedelta(hours=2)", RECENT | {"airport_weather"}),
        ("precip_6h=hundredths.sum()", "precip_6h=hundredths.max()", {"airport_weather"}),
        ("local.dt.minute() / 60", "local.dt.minute() / 100", {"request"}),
        ("waiting.mean()", "waiting.cast(pl.Int8).mean()", RECENT),
    ],
)
def test_an_edit_that_can_change_a_value_is_seen_where_it_matters(
    fingerprints_of: Edit, old: str, new: str, tables: set[str]
) -> None:
    """The tables that use what was edited, helpers and constants too, differ; no other does."""
    assert differing(fingerprints_of(old, new)) == tables


def test_a_constant_of_another_module_counts(fingerprints_of: Edit) -> None:
    """A constant that is imported is part of what is computed."""
    facts = "from feature_repo.facts import DECIDE_AHEAD, LATE_MINUTES, RECENT_HOURS, TIME_ZONE"
    told = fingerprints_of(facts, facts.replace("LATE_MINUTES, ", "") + "\nLATE_MINUTES = 20")
    assert differing(told) == RECENT


@pytest.mark.parametrize(
    "changed",
    [
        {"ttl": timedelta(hours=7)},
        {"lookback": timedelta(days=2)},
        {"every": timedelta(hours=2)},
        {"features": {"shop_returned_1d": pl.Int64}},
        {"reads": ("returns", "orders")},
        {"keys": ("shop", "order_id")},
        {"ticks": transforms.daily_ticks},
    ],
)
def test_every_part_of_a_table_counts(changed: dict) -> None:
    """Freshness limit, types, keys, inputs and ticks define a table as its function does."""
    table = dataclasses.replace(toy.SHOP_DAY, **changed)
    assert fingerprint(describe_table(table)) != fingerprint(describe_table(toy.SHOP_DAY))
    (change,) = find_changes({"t": describe_table(toy.SHOP_DAY)}, {"t": describe_table(table)})
    assert next(iter(changed)) in change.what


def test_words_about_a_table_do_not_count() -> None:
    """Owner, description and meanings compute nothing."""
    table = dataclasses.replace(toy.SHOP_DAY, owner="x", description="y", meanings={"shop_returned_1d": "z"})
    assert describe_table(table) == describe_table(toy.SHOP_DAY)


def test_what_changed_is_told_by_name(fingerprints_of: Edit) -> None:
    """A change names the function or constant that is another."""
    before = describe_problem(PROBLEM)
    code = {**before["airport_recent"]["code"], "_next_hour": "another"}
    now = {**before, "airport_recent": {**before["airport_recent"], "code": code}}
    (change,) = find_changes(before, now)
    assert (change.table, change.what) == ("airport_recent", "code: _next_hour")
    assert "airport_late_3h" in change.features


def add_more(requests: pl.DataFrame) -> pl.DataFrame:
    """Add an input beside those that there are, and try to change one."""
    return requests.with_columns(hour_v2=pl.col("hour") / 24, hour=pl.lit(0.0))


def add_other(requests: pl.DataFrame) -> pl.DataFrame:
    """Add another input."""
    return requests.with_columns(dear=pl.col("amount") > 100)


def add_otherwise(requests: pl.DataFrame) -> pl.DataFrame:
    """Compute the input in another way."""
    return requests.with_columns(hour=pl.col("ordered_at").dt.hour() + 1.0)


def add_over(requests: pl.DataFrame) -> pl.DataFrame:
    """Call the old function and change what it made."""
    return toy.add_request_features(requests).with_columns(hour=pl.col("hour") + 1)


OLD = toy.add_request_features
DISGUISED = functools.wraps(OLD)(functools.partial(add_over).func)


def describe_request(add: Callable[[pl.DataFrame], pl.DataFrame]) -> dict:
    return {"request": describe_problem(dataclasses.replace(toy.TOY, add_request_features=add))["request"]}


@pytest.mark.parametrize(
    "add",
    [
        add_otherwise,
        add_over,
        functools.partial(add_over),
        functools.partial(OLD),
        DISGUISED,
        SideBySide((add_over,)),
        SideBySide((add_more, OLD)),
    ],
)
def test_a_request_input_may_not_be_changed(add: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Another function is refused, one around the old one too, and one that comes before it."""
    before = describe_request(OLD)
    assert [change.table for change in find_changes(before, describe_request(add))] == ["request"]
    beside = describe_request(SideBySide((OLD, add_more)))
    assert [change.table for change in find_changes(beside, describe_request(add))] == ["request"]


def test_request_inputs_may_be_added_beside() -> None:
    """Functions side by side keep what older models take, and stay as they are once a model takes them."""
    first, second, third = (
        describe_request(SideBySide(functions))
        for functions in ((OLD,), (OLD, add_more), (OLD, add_more, add_other))
    )
    assert first == describe_request(OLD)
    assert find_changes(first, second) == find_changes(second, third) == find_changes(first, third) == []
    assert find_changes(first, json.loads(json.dumps(third))) == []
    other = describe_request(SideBySide((OLD, add_other, add_more)))
    assert find_changes(second, other)
    assert find_changes(second, first)


def test_functions_side_by_side_leave_the_older_inputs_alone() -> None:
    """A later function's columns of an old name do not count; its new ones stand beside them."""
    asked = pl.DataFrame({"ordered_at": [toy.START.replace(hour=12), None], "amount": [1.5, 200.0]})
    asked = asked.with_columns(pl.col("ordered_at").cast(toy.INSTANT))
    made = SideBySide((OLD, add_more, add_other))(asked)
    assert made.select(OLD(asked).columns).equals(OLD(asked))
    assert made["hour_v2"].to_list() == [0.5, None]
    assert made["dear"].to_list() == [False, True]


def test_a_lambda_and_a_closure_are_told_by_their_content() -> None:
    """Two functions made on the spot are equal if their code and what they hold are."""

    def make(days: int):
        return lambda raw, ticks: raw["returns"].head(days)

    assert read_code(make(1)) == read_code(make(1))
    assert read_code(make(1)) != read_code(make(2))


CODE = """
import functools
import numpy as np
import pandas as pd
import polars as pl

CAP = 3
LIMIT = 4
ARRAY = np.arange(5_000)
NAMED = np.array([(1, 2.0)], dtype=[("a", "i8"), ("b", "f8")])
FRAME = pl.DataFrame({"a": [1]}, schema={"a": pl.Int64})
COLUMN = pl.Series("a", ["x"])
PANDAS = pd.DataFrame({"a": range(2_000)}, index=range(2_000))
INDEX = pd.Series(range(1_001))
KINDS = pd.Series(pd.Categorical(["x"], categories=["x", "y"]))
LITERAL = pl.lit(pl.Series([1, 2, 3]))
LISTED = pl.col("a").is_in([1, 2, 3, 4, 5])


def keeps(raw, ticks, CAP=CAP):
    return CAP


def keeps_by_name(raw, ticks, *, CAP=(CAP, 1)):
    return CAP


def make(limit):
    def inner(raw, ticks, limit=limit):
        return limit
    return inner


closed = make(7)


def shadows(raw, ticks):
    return [CAP for CAP in range(CAP)]


def takes(name):
    def around(function):
        return lambda raw, ticks: function(raw, ticks)[name]
    return around


@takes(LIMIT)
def decorated(raw, ticks, LIMIT=1):
    return LIMIT


@functools.singledispatch
def dispatched(raw, ticks=None):
    return 1


@dispatched.register(int)
def _(raw, ticks=None):
    return 2


def uses_array(raw, ticks):
    return ARRAY, NAMED


def uses_frames(raw, ticks):
    return FRAME, COLUMN, PANDAS, INDEX, KINDS


def uses_expressions(raw, ticks):
    return LITERAL, LISTED
"""


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("keeps", "CAP = 3", "CAP = 4"),
        ("keeps_by_name", "CAP = 3", "CAP = 4"),
        ("closed", "make(7)", "make(8)"),
        ("shadows", "CAP = 3", "CAP = 4"),
        ("decorated", "LIMIT = 4", "LIMIT = 5"),
        ("decorated", "function(raw, ticks)[name]", "function(raw, ticks)[name] + 1"),
        ("decorated", "LIMIT=1", "LIMIT=2"),
        ("dispatched", "return 2", "return 3"),
        ("dispatched", "return 1", "return 3"),
        ("uses_array", "np.arange(5_000)", "np.where(np.arange(5_000) == 2_500, 0, np.arange(5_000))"),
        ("uses_array", "np.arange(5_000)", "np.arange(5_000).astype(float)"),
        ("uses_array", "np.arange(5_000)", "np.arange(5_000).reshape(2, -1)"),
        ("uses_array", '("b", "f8")', '("c", "f8")'),
        ("uses_frames", '{"a": pl.Int64}', '{"a": pl.Int32}'),
        ("uses_frames", '"a", ["x"]', '"b", ["x"]'),
        ("uses_frames", "index=range(2_000)", "index=range(1, 2_001)"),
        ("uses_frames", '{"a": range(2_000)}', '{"a": [0, 7, *range(2, 2_000)]}'),
        ("uses_frames", "range(1_001)", "[0, *range(2, 1_001), 1]"),
        ("uses_frames", '["x", "y"]', '["y", "x"]'),
        ("uses_expressions", "Series([1, 2, 3])", "Series([1, 2, 4])"),
        ("uses_expressions", "[1, 2, 3, 4, 5]", "[1, 2, 9, 4, 5]"),
    ],
)
def test_values_around_a_function_count(
    load: Callable[[str], ModuleType], name: str, old: str, new: str
) -> None:
    """Defaults, decorators, registrations and constants of any size are read by their content."""
    assert old in CODE
    before, same, edited = (getattr(load(text), name) for text in (CODE, CODE, CODE.replace(old, new)))
    assert read_code(before) == read_code(same)
    assert read_code(before) != read_code(edited)


@pytest.mark.parametrize(
    "body",
    [
        "globals()['CAP']",
        "eval('CAP')",
        "open('caps.txt').read()",
        "Path('caps.txt').read_text()",
        "pl.read_csv('caps.csv')",
        "pl.scan_parquet('caps.parquet')",
        "np.load('caps.npy')",
        "os.environ['CAP']",
        "os.getenv('CAP')",
        "importlib.import_module('caps').CAP",
        "raw.select(MAPPED)",
        "LAZY.collect()",
    ],
)
def test_what_a_fingerprint_cannot_see_is_refused(load: Callable[[str], ModuleType], body: str) -> None:
    """A file, the environment, names by text and Python inside an expression have no content to tell."""
    heads = (
        "import importlib, os\nfrom pathlib import Path\nimport numpy as np\nimport polars as pl\nCAP = 3\n"
    )
    heads += "MAPPED = pl.col('a').map_elements(lambda x: len(str(x)), return_dtype=pl.Int64)\n"
    heads += "LAZY = pl.LazyFrame({'a': [1]})\n"
    module = load(f"{heads}\n\ndef compute(raw, ticks):\n    return {body}\n")
    with pytest.raises(DefinitionChanged, match="fingerprint of"):
        read_code(module.compute)
