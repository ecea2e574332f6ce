"""The drill's table: one row a mode."""

from collections.abc import Sequence
from textwrap import shorten

from rich.table import Table

from flows.drill.incident import TITLES, Incident, Mark

LONGEST = 160  # characters of what a mark tells; all of it is in the report
COLUMNS = ("mode", "injected", "noticed", "by the system itself", "by a person", "well again", "requests")


def draw_table(incidents: Sequence[Incident]) -> Table:
    """Return the table that the drill ends with."""
    table = Table(title="The drill", show_lines=True)
    for name in COLUMNS:
        table.add_column(name, overflow="fold")
    for one in incidents:
        table.add_row(*list_cells(one))
    return table


def list_cells(one: Incident) -> tuple[str, ...]:
    """Return a row's cells, as COLUMNS names them."""
    failed = f"{one.sent:,} sent, {len(one.failed)} failed or unanswered"
    return (
        f"{'passed' if one.ok else 'FAILED'}: {TITLES[one.mode]}",
        "\n".join(mark.told for mark in one.marks if mark.what == "injected"),
        "\n".join(map(tell_mark, one.list("noticed"))) or "by nobody",
        "\n".join(map(tell_mark, one.list("answered"))) or "nothing",
        "\n".join(mark.told for mark in one.list("mended")) or "nothing",
        "\n".join(map(tell_mark, one.list("well"))) or "no",
        failed,
    )


def tell_mark(mark: Mark) -> str:
    """Return a mark in words: when, who, what."""
    at = f", {mark.at:%d %b %H:%M} UTC of the data" if mark.at else ""
    return f"after {mark.after:.1f} s{at}: {mark.by}: {shorten(mark.told, LONGEST, placeholder=' ...')}"
