"""A home that a container of the image starts on: features of one flight online, and how to ask about it."""

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import polars as pl

from feature_repo.online_tables import OnlineTable, OnlineTables, to_microseconds
from feature_repo.problem import PROBLEM
from feature_repo.store import COLUMNS, PROJECT, FeatureStore
from services.schemas import build_wire

FLIGHT = {
    "carrier": "UA",
    "flight": 1545,
    "origin": "EWR",
    "dest": "IAH",
    "distance": 1400,
    "scheduled_departure": "2013-02-05T17:15:00Z",
    "requested_at": "2013-02-05T15:00:00Z",
}


def fill_store(home: Path) -> None:
    """Put features of one flight online, as new as its request."""
    FeatureStore(home, PROBLEM).apply()
    wire = build_wire(PROBLEM)
    items, _ = wire.requests.read(json.dumps(FLIGHT).encode())
    row = wire.to_row(items[0])
    stamp = to_microseconds(row[PROBLEM.decided_at])
    parts = []
    for table in PROBLEM.feature_tables:
        features = {name: COLUMNS[kind] for name, kind in table.features.items()}
        layout = OnlineTable(f"{PROJECT}_{table.name}", dict.fromkeys(table.keys, "TEXT"), features)
        values = ("text" if kind == pl.String else 5 for kind in table.features.values())
        parts.append((layout, [(*(row[key] for key in table.keys), stamp, *values)]))
    OnlineTables(home / "feast" / "online.db").write(parts)


def make_home(folder: Path, filled: Path) -> Path:
    """Return a home with features online, all of it the image's user's."""
    shutil.copytree(filled / "feast", folder / "feast")
    for path in (folder / "feast", *(folder / "feast").iterdir()):
        path.chmod(0o777)
    return folder


def ask(url: str) -> dict[str, Any]:
    """Return the answer to the flight."""
    answer = httpx.post(f"{url}/predict", json=FLIGHT, timeout=30)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body
