"""What a run did, as artifacts that a person reads in the Prefect UI."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from feature_repo.settings import Settings

if TYPE_CHECKING:
    from flows.manifests import Manifest


def publish(key: str, markdown: str, description: str) -> None:
    """Show markdown beside the run; nothing happens outside a run."""
    from prefect.artifacts import create_markdown_artifact
    from prefect.context import get_run_context
    from prefect.exceptions import MissingContextError

    try:
        get_run_context()
    except MissingContextError:
        return
    create_markdown_artifact(key=key, markdown=markdown, description=description)


def publish_table(key: str, rows: Sequence[dict[str, Any]], description: str) -> None:
    """Show rows as a table beside the run."""
    if not rows:
        return publish(key, "Nothing to show.", description)
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    lines += [f"| {' | '.join(_escape(str(row[name])) for name in names)} |" for row in rows]
    return publish(key, "\n".join(lines), description)


def _escape(cell: str) -> str:
    # Data may hold what would end a cell or start a tag.
    return cell.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def publish_manifests(key: str, manifests: Sequence["Manifest"], settings: Settings) -> None:
    """Show what became of each batch, with a link to its validation page."""
    shown = ("table", "status", "since", "until", "seen", "accepted", "quarantined", "reasons", "warnings")
    rows = [
        {
            **{name: getattr(manifest, name) for name in shown},
            "page": f"[open]({settings.reports_url}/{quote(manifest.page)})" if manifest.page else "",
        }
        for manifest in manifests
    ]
    publish_table(key, rows, "Batches: what was seen, accepted and quarantined")
