"""The challenger's shadow: whatever it does, its thread goes on, and what is missing is counted."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from feature_repo.contract import Period
from feature_repo.store import OnlineVector
from services import shadow as module
from services.inputs import Inputs
from services.journal import Journal
from services.metrics import Metrics
from services.shadow import Shadow
from tests.toy import TOY

ALWAYS = Period(datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
VECTOR = OnlineVector({"shop_returned_1d": 5.0}, (), {})


class Challenger:
    """A model that scores as the test says."""

    version, inputs = "2", Inputs.of(TOY)

    def __init__(self, scores: Callable[[int], Sequence[float]]) -> None:
        self.scores = scores

    def predict(self, rows: Sequence[Any], vectors: Sequence[Any] = ()) -> Sequence[float]:
        return self.scores(len(rows))


class World:
    """A shadow over a real journal."""

    def __init__(self, folder: Path) -> None:
        self.journal, self.registry = Journal(folder / "journal.db"), CollectorRegistry()
        self.shadow = Shadow(self.journal, Metrics(self.registry))

    def put(self, scores: Callable[[int], Sequence[float]], *ids: str) -> None:
        rows = [{"order_id": name, "shop": "north", "amount": 5.0} for name in ids]
        self.shadow.put(Challenger(scores), ids, rows, [VECTOR] * len(ids))

    def read_scores(self) -> dict[str, float]:
        self.shadow.stop()
        rows = self.journal.read_shadows(ALWAYS).to_dicts()
        return {row["prediction_id"]: row["score"] for row in rows}

    def count_dropped(self, why: str) -> float | None:
        return self.registry.get_sample_value("perennial_shadow_dropped_total", {"why": why})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.shadow.stop()
    made.journal.close()


def test_too_few_scores_are_counted_and_the_next_ones_are_made(world: World) -> None:
    """Which row a score belongs to is not known: none is kept, and the thread goes on."""
    world.put(lambda count: [0.5] * (count - 1), "a", "b")
    world.put(lambda count: [0.5] * count, "c", "d")
    assert world.read_scores() == {"c": 0.5, "d": 0.5}
    assert world.count_dropped("failed") == 2


def test_scores_that_are_no_probabilities_are_counted_and_not_journalled(world: World) -> None:
    """One such score does not take the others with it."""
    world.put(lambda _: [0.0, math.nan, 1.5, -0.1, math.inf, 1.0], *"abcdef")
    assert world.read_scores() == {"a": 0.0, "f": 1.0}
    assert world.count_dropped("failed") == 4


def test_what_waits_is_bounded_by_its_rows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large list waits in as much memory as many small ones; what was scored makes room again."""
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    gate, reached = threading.Event(), threading.Event()

    def wait(count: int) -> list[float]:
        reached.set()
        assert gate.wait(60)
        return [0.5] * count

    world.put(wait, "a", "b")
    assert reached.wait(60)
    world.put(wait, "c", "d")
    world.put(wait, "e")
    assert world.count_dropped("behind") == 2
    gate.set()
    assert world.read_scores() == {"a": 0.5, "b": 0.5, "e": 0.5}
    assert world.shadow._rows == 0


def test_the_end_does_not_wait_for_a_challenger_that_hangs(world: World) -> None:
    """However much waits behind it."""
    gate, reached = threading.Event(), threading.Event()

    def hang(count: int) -> list[float]:
        reached.set()
        assert gate.wait(60)
        return [0.5] * count

    world.put(hang, "first")
    assert reached.wait(60)
    for i in range(300):
        world.put(hang, str(i))
    ending = threading.Thread(target=world.shadow.stop, daemon=True)
    ending.start()
    ending.join(20)
    assert not ending.is_alive()
    gate.set()
