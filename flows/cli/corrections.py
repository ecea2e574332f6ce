"""What `perennial restate` says of what it did."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console


def show_restated(console: Console, told: Mapping[str, Any]) -> None:
    """Print what the source restated, what followed, or why there was nothing to do."""
    if not told["asked"]:
        console.print("nothing has landed in those days, so there is nothing to restate")
        return
    if not told["restated"]:
        console.print(f"asked about {told['asked']} batches: the source tells the same as before")
        return
    for batch in told["restated"]:
        counts = ", ".join(
            f"{batch[name]} {name}" for name in ("added", "removed", "changed", "in quarantine")
        )
        console.print(f"{batch['batch']}: {batch['status']}; {counts}", markup=False, soft_wrap=True)
        for detail in ("columns", "examples", "page"):
            if batch[detail]:
                console.print(f"  {detail}: {batch[detail]}", markup=False, soft_wrap=True)
    features = told["followed"]["features"] or {}
    words = ", ".join(f"{name} {rows} rows" for name, rows in features.items()) or "none"
    console.print(f"features computed anew: {words}; labels: {told['followed']['labels']}", soft_wrap=True)
