"""Messages of Alertmanager, kept in the home: one line each, newest last."""

import html
import json
import os
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE = "alerts.jsonl"
NEWEST = 50  # messages shown
KEPT = 1_000  # messages; older ones are dropped when there are twice as many
_writing = threading.Lock()


def keep_message(home: Path, message: Mapping[str, Any]) -> None:
    """Append a message, on disk when this returns. Raises KeyError or TypeError if it is none."""
    kept = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "status": str(message["status"]),
        "incident": str(message["groupLabels"].get("incident", "")),
        "alerts": [
            {
                "alert": str(alert["labels"]["alertname"]),
                "status": str(alert["status"]),
                "severity": str(alert["labels"].get("severity", "")),
                "summary": str(alert["annotations"].get("summary", "")),
                "runbook_url": str(alert["annotations"].get("runbook_url", "")),
            }
            for alert in message["alerts"]
        ],
    }
    with _writing, (home / FILE).open("ab+") as file:
        # A line that a crash cut short is ended first, or it would take this one with it.
        file.seek(max(0, file.tell() - 1))
        ended = file.read() in (b"", b"\n")
        file.write((b"" if ended else b"\n") + json.dumps(kept).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    with _writing:
        _shorten(home / FILE)


def read_messages(home: Path) -> list[dict[str, Any]]:
    """Return the kept messages, oldest first; a line that a crash cut short is left out."""
    if not (home / FILE).exists():
        return []
    found = []
    for line in (home / FILE).read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def list_messages(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the newest messages as HTML, newest first."""
    items = []
    for message in reversed(messages[-NEWEST:]):
        told = [f"{one['alert']} ({one['status']}): {one['summary']}" for one in message["alerts"]]
        words = f"{message['at']} {message['status']} {message['incident']}: {'; '.join(told)}"
        items.append(f"<li>{html.escape(words)}")
    return f"<h2>Alerts</h2><ul>{''.join(items) or '<li>none yet'}</ul>"


def _shorten(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if len(lines) < 2 * KEPT:
        return
    part = path.with_name(f".{path.name}")
    part.write_text("".join(lines[-KEPT:]), encoding="utf-8")
    part.replace(path)
