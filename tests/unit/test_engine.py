"""The engine: groups, deadlines, and what happens when more comes than can be answered."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from feature_repo.contract import Period
from feature_repo.store import OnlineVector
from services import engine as module
from services.answering import Answered, Answering
from services.engine import Asked, Engine, Group, Overloaded
from services.journal import Journal
from services.live import Serving
from services.metrics import Metrics
from services.package import Package, load_package
from services.shadow import Shadow
from tests.packages import write_package
from tests.toy import TOY

ALWAYS = Period(datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
NOON = datetime(2024, 1, 5, 12, tzinfo=UTC)


class Models:
    """What serves, set by the test."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving

    def read_status(self) -> dict[str, Any]:
        return {}


class Gate:
    """Holds whoever comes while it is shut, and says that somebody came."""

    def __init__(self) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        self.open.set()

    def pass_through(self) -> None:
        self.reached.set()
        assert self.open.wait(60)


class Store:
    """A feature store with one value, behind a gate."""

    def __init__(self) -> None:
        self.gate, self.sizes = Gate(), list[int]()

    def read_online(self, rows: Sequence[Any]) -> list[OnlineVector]:
        self.sizes.append(len(rows))
        self.gate.pass_through()
        return [OnlineVector({"shop_returned_1d": 5.0}, (), {}) for _ in rows]


class Slow:
    """A package behind a gate."""

    def __init__(self, package: Package, version: str) -> None:
        self.package, self.version, self.gate = package, version, Gate()
        self.inputs, self.rule = package.inputs, package.rule

    def predict(self, rows: Sequence[Any], vectors: Sequence[Any]) -> list[float]:
        self.gate.pass_through()
        return self.package.predict(rows, vectors)


class World:
    """An engine over a real journal and two real packages."""

    def __init__(self, folder: Path, package: Package, deadline: float = 30.0) -> None:
        self.store = Store()
        self.champion, self.previous = Slow(package, "2"), Slow(package, "1")
        self.models = Models(Serving(champion=self.champion, previous=self.previous))  # type: ignore[arg-type]
        self.journal = Journal(folder / "journal.db")
        self.shadow = Shadow(self.journal, Metrics())
        self.features = Gate()
        toy = replace(TOY, add_request_features=self.add_features)
        answering = Answering(toy, self.store, self.models, Metrics(), self.shadow)
        self.engine = Engine(answering, self.journal, deadline)

    def run(self, scene: Callable[[], Any]) -> Any:
        async def play() -> Any:
            self.engine.start()
            try:
                return await scene()
            finally:
                await self.engine.stop()

        try:
            return asyncio.run(play())
        finally:
            for gate in (self.store.gate, self.champion.gate, self.previous.gate, self.features):
                gate.open.set()
            self.journal.close()

    def add_features(self, rows: Any) -> Any:
        self.features.pass_through()
        return TOY.add_request_features(rows)

    async def ask(self, name: str = "o1", rows: int = 1) -> Answered:
        row = {"order_id": name, "shop": "north", "amount": 5.0, "ordered_at": NOON, "decided_at": NOON}
        return await self.engine.ask([row] * rows, [b"{}"] * rows)


def told(made: Answered) -> tuple[str, str]:
    return made.bodies[0]["served_by"], made.bodies[0]["reason"]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return load_package(write_package(tmp_path_factory.mktemp("package") / "1", TOY), "1")


def test_what_waits_is_answered_together(tmp_path: Path, package: Package) -> None:
    """Requests that come while a group is answered are the next one; each gets its own answer."""
    world = World(tmp_path, package)

    async def scene() -> list[Answered]:
        world.store.gate.open.clear()
        first = asyncio.create_task(world.ask("first"))
        await asyncio.to_thread(world.store.gate.reached.wait, 20)
        rest = [asyncio.create_task(world.ask(f"o{i}", 1 + i % 2)) for i in range(10)]
        await asyncio.sleep(0)
        world.store.gate.open.set()
        return list(await asyncio.gather(first, *rest))

    first, *rest = world.run(scene)
    assert world.store.sizes == [1, 15]
    assert [[body["order_id"] for body in made.bodies] for made in rest] == [
        [f"o{i}"] * (1 + i % 2) for i in range(10)
    ]
    assert told(first) == ("champion", "ok")
    assert len(world.journal.read_predictions(ALWAYS)) == 16


@pytest.mark.parametrize(
    ("hung", "expected"),
    [
        ("champion", ("previous", "champion_late")),
        ("store", ("rule", "features_unavailable")),
    ],
)
def test_what_hangs_is_gone_on_without(
    tmp_path: Path, package: Package, hung: str, expected: tuple[str, str]
) -> None:
    """The request that met it is answered after the deadline, the next ones at once."""
    world = World(tmp_path, package, deadline=0.5)
    gate: Gate = getattr(world, hung).gate

    async def scene() -> list[Answered]:
        gate.open.clear()
        met = await world.ask()
        gate.reached.clear()
        after = [await world.ask() for _ in range(3)]
        assert not gate.reached.is_set()
        return [met, *after]

    assert [told(made) for made in world.run(scene)] == [expected] * 4
    assert len(world.journal.read_predictions(ALWAYS)) == 4


def test_two_rungs_that_hang_leave_the_rule(tmp_path: Path, package: Package) -> None:
    """Each has its own deadline; the same request falls past both."""
    world = World(tmp_path, package, deadline=0.5)

    async def scene() -> Answered:
        world.champion.gate.open.clear()
        world.previous.gate.open.clear()
        return await world.ask()

    assert told(world.run(scene)) == ("rule", "champion_late")


def test_more_than_can_be_answered_is_shed_then_refused(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a full queue the rule answers at once, with its rate; behind a fuller one, nobody."""
    monkeypatch.setattr(module, "SHED", 20)
    monkeypatch.setattr(module, "REFUSE", 40)
    world = World(tmp_path, package)

    async def scene() -> list[Any]:
        world.store.gate.open.clear()
        held = [asyncio.create_task(world.ask(rows=21))]
        await asyncio.to_thread(world.store.gate.reached.wait, 20)
        shed = await world.ask()
        held.append(asyncio.create_task(world.ask(rows=1)))
        world.engine._waiting += 20  # as many that wait elsewhere
        with pytest.raises(Overloaded):
            await world.ask()
        world.engine._waiting -= 20
        world.store.gate.open.set()
        return [shed, *await asyncio.gather(*held)]

    shed, first, second = world.run(scene)
    assert told(shed) == told(second) == ("rule", "overloaded")
    assert shed.bodies[0]["probability"] == 0.25
    assert (told(first), len(first.bodies)) == (("champion", "ok"), 21)
    assert world.engine.waiting == 0
    assert world.journal.read_dead_letters(ALWAYS).is_empty()


def test_a_row_that_a_model_cannot_take_does_not_hold_up_others(tmp_path: Path, package: Package) -> None:
    """It alone goes to the next rung."""
    world = World(tmp_path, package)
    predict = world.champion.predict

    def choosy(rows: Sequence[Any], vectors: Sequence[Any]) -> list[float]:
        if any(row["amount"] == 7.0 for row in rows):
            raise ValueError("not this one")
        return predict(rows, vectors)

    world.champion.predict = choosy  # type: ignore[method-assign]
    rows = [
        {"order_id": f"o{i}", "shop": "north", "amount": 5.0 + i, "ordered_at": NOON, "decided_at": NOON}
        for i in range(4)
    ]

    async def scene() -> Answered:
        return await world.engine.ask(rows, [b"{}"] * 4)

    served = [body["served_by"] for body in world.run(scene).bodies]
    assert served == ["champion", "champion", "previous", "champion"]


def test_a_client_that_went_away_is_no_trouble(tmp_path: Path, package: Package) -> None:
    """Its answer is journalled all the same, and the next one is answered."""
    world = World(tmp_path, package)

    async def scene() -> Answered:
        world.store.gate.open.clear()
        task = asyncio.create_task(world.ask("gone"))
        await asyncio.to_thread(world.store.gate.reached.wait, 20)
        task.cancel()
        world.store.gate.open.set()
        return await world.ask("stays")

    assert told(world.run(scene)) == ("champion", "ok")
    period = Period(NOON - timedelta(days=1), NOON + timedelta(days=1))
    # Within a millisecond their ids are in no order.
    assert sorted(world.journal.read_predictions(period)["entity"]) == ["gone", "stays"]


def test_models_are_asked_again_when_what_hung_has_ended(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many threads that hang leave the rule; it leaves again with them, though nothing hangs anew."""
    monkeypatch.setattr(module, "MAX_HUNG", 1)
    world = World(tmp_path, package, deadline=0.2)

    async def scene() -> tuple[Answered, Answered]:
        for slow in (world.champion, world.previous):
            slow.gate.open.clear()
        await world.ask()
        during = await world.ask()
        for slow in (world.champion, world.previous):
            slow.gate.open.set()
        async with asyncio.timeout(60):
            after = await world.ask()
            while told(after) == ("rule", "overloaded"):
                after = await world.ask()
        return during, after

    during, after = world.run(scene)
    assert told(during) == ("rule", "overloaded")
    assert told(after) == ("rule", "champion_late")  # the circuits still rest


def test_the_time_that_a_group_waited_is_not_held_against_what_it_calls(
    tmp_path: Path, package: Package
) -> None:
    """The deadline of a group that was put back begins when it is answered again."""
    world = World(tmp_path, package, deadline=1.0)
    row = {"order_id": "o1", "shop": "north", "amount": 5.0, "ordered_at": NOON, "decided_at": NOON}

    async def scene() -> Answered:
        world.store.gate.open.clear()
        answer: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        world.engine._queue.put(Group([Asked([row], [b"{}"], answer)], since=-1e9))
        await asyncio.to_thread(world.store.gate.reached.wait, 20)
        await asyncio.sleep(0.3)  # the watch looks every tenth of a second
        world.store.gate.open.set()
        return await answer

    assert told(world.run(scene)) == ("champion", "ok")


def test_a_thread_that_is_given_up_as_it_finishes_takes_nothing_more(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever lost the claim to its group ends: nothing watches it any more."""
    world = World(tmp_path, package, deadline=0.2)
    circuits, ended = world.engine._answering.circuits, list[bool]()
    give_up = circuits.give_up

    def finish_meanwhile(thread: int) -> str | None:
        name = give_up(thread)
        world.store.gate.open.set()
        worker = world.engine._workers[0]
        worker.join(5)
        ended.append(not worker.is_alive())
        return name

    monkeypatch.setattr(circuits, "give_up", finish_meanwhile)

    async def scene() -> Answered:
        world.store.gate.open.clear()
        return await world.ask()

    assert told(world.run(scene)) == ("rule", "features_unavailable")
    assert ended == [True]


def test_the_challenger_scores_only_what_was_journalled(tmp_path: Path, package: Package) -> None:
    """A group that was given up is answered anew: its first answers are nobody's."""
    world = World(tmp_path, package, deadline=0.5)
    world.models.serving = replace(world.models.serving, challenger=Slow(package, "3"))  # type: ignore[arg-type]

    async def scene() -> list[Answered]:
        worker = world.engine._workers[0]
        world.champion.gate.open.clear()
        met = await world.ask()
        world.champion.gate.open.set()
        await asyncio.to_thread(worker.join, 20)
        after = await world.ask()
        await asyncio.to_thread(world.shadow.stop)
        return [met, after]

    answered = [body["prediction_id"] for made in world.run(scene) for body in made.bodies]
    assert sorted(world.journal.read_shadows(ALWAYS)["prediction_id"]) == sorted(answered)
    assert len(answered) == 2


def test_the_rule_goes_on_without_request_features_that_hang(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that asks no model is watched too: one call that hangs does not end the shedding."""
    monkeypatch.setattr(module, "SHED", -1)
    world = World(tmp_path, package, deadline=0.5)

    async def scene() -> list[Answered]:
        world.features.open.clear()
        async with asyncio.timeout(30):
            return [await world.ask() for _ in range(2)]

    assert [told(made) for made in world.run(scene)] == [("rule", "overloaded")] * 2
