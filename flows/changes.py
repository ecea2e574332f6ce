"""What differs between two states of the same rows, by key. Pure."""

from collections.abc import Sequence
from typing import Any

import polars as pl

EXAMPLES = 5


def find_changes(before: pl.DataFrame, after: pl.DataFrame, key: Sequence[str]) -> dict[str, Any]:
    """Return how many rows were added, removed and changed, the changed columns, and some examples.

    Both frames have the same columns; `key` is unique in each.
    """
    others = [name for name in after.columns if name not in key]
    gone, new = before.join(after, on=key, how="anti"), after.join(before, on=key, how="anti")
    both = before.join(after, on=key, suffix="_after")
    differs = {name: both[name].ne_missing(both[f"{name}_after"]) for name in others}
    changed = (
        pl.Series([False] * len(both))
        if not differs
        else pl.DataFrame(differs).select(pl.any_horizontal(pl.all())).to_series()
    )
    columns = {name: int(mask.sum()) for name, mask in differs.items() if mask.any()}
    examples = [
        f"{' '.join(str(row[k]) for k in key)}: "
        + ", ".join(
            f"{name} {row[name]} -> {row[name + '_after']}"
            for name in others
            if row[name] != row[f"{name}_after"]
        )
        for row in both.filter(changed).sort(key).head(EXAMPLES).iter_rows(named=True)
    ]
    return {
        "added": len(new),
        "removed": len(gone),
        "changed": int(changed.sum()),
        "columns": columns,
        "examples": [*examples, *_name(new, key, "added"), *_name(gone, key, "removed")],
    }


def _name(rows: pl.DataFrame, key: Sequence[str], what: str) -> list[str]:
    shown = rows.select(key).sort(key).head(EXAMPLES)
    return [f"{' '.join(map(str, row))}: {what}" for row in shown.iter_rows()]
