"""The service's promises over HTTP, on the toy problem with real model packages."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import httpx
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from feature_repo.contract import Period
from feature_repo.errors import StoreUnavailable
from feature_repo.store import OnlineVector
from services.app import build_app
from services.intake import MAX_BODY
from services.journal import Journal, Outcome
from services.live import LiveModels
from services.metrics import Metrics
from services.wire import Wire
from tests.packages import FakeRegistry, break_self_test, write_package
from tests.toy import TOY

ALWAYS = Period(datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
ORDER = {"order_id": "o1", "shop": "north", "amount": 5.0, "ordered_at": "2024-01-05T10:30:00Z"}


class Order(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An order of the toy problem."""

    order_id: str
    shop: str
    amount: Annotated[float, msgspec.Meta(ge=0)]
    ordered_at: Annotated[datetime, msgspec.Meta(tz=True)]


class Settled(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What became of an order."""

    order_id: str
    returned: bool
    observed_at: Annotated[datetime, msgspec.Meta(tz=True)]


def to_row(order: Order) -> dict[str, Any]:
    at = order.ordered_at.astimezone(UTC)
    fields = {"order_id": order.order_id, "shop": order.shop, "amount": order.amount}
    return {**fields, "ordered_at": at, "decided_at": at}


WIRE = Wire(
    request=Order,
    feedback=Settled,
    to_row=to_row,
    to_outcome=lambda s: Outcome(s.order_id, None, float(s.returned), "settled", s.observed_at),
    example=ORDER,
    example_feedback={"order_id": "o1", "returned": True, "observed_at": "2024-01-08T10:30:00Z"},
)


class FakeStore:
    """A feature store in memory, whose values are as old as the test wants."""

    def __init__(self) -> None:
        self.age: timedelta | None = timedelta(hours=1)
        self.error: Exception | None = None

    def read_online(self, rows):
        if self.error:
            raise self.error
        name = "shop_returned_1d"
        if self.age is None:
            return [OnlineVector({name: None}, (name,), {}) for _ in rows]
        if self.age > timedelta(hours=6):
            return [OnlineVector({name: None}, (), {name: self.age.total_seconds()}) for _ in rows]
        return [OnlineVector({name: 5.0}, (), {}) for _ in rows]


class Client:
    """Calls an app in this process, one request after the other."""

    def __init__(self, app) -> None:
        self.app, self._runner = app, asyncio.Runner()
        transport = httpx.ASGITransport(app=app)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://app", follow_redirects=True)

    def __enter__(self):
        self._life = self.app.router.lifespan_context(self.app)
        self._runner.run(self._life.__aenter__())
        return self

    def __exit__(self, *error):
        self._runner.run(self._client.aclose())
        self._runner.run(self._life.__aexit__(None, None, None))
        self._runner.close()

    def get(self, path):
        return self._runner.run(self._client.get(path))

    def post(self, path, **body):
        return self._runner.run(self._client.post(path, **body))


class World:
    """An app over real packages, a real journal and fakes for the rest."""

    def __init__(self, folder, packages) -> None:
        self.store, self.registry = FakeStore(), FakeRegistry()
        for package in packages:
            self.registry.register(package, "run", {})
        self.counts = CollectorRegistry()
        metrics = Metrics(self.counts)
        self.path = folder / "journal" / "journal.db"
        self.journal = Journal(self.path)
        self.models = LiveModels(self.registry, folder / "models", 60, metrics)
        app = build_app(TOY, self.store, self.models, self.journal, WIRE, metrics, on_stop=self.journal.close)
        self.client = Client(app)

    def serve(self, **aliases):
        self.registry.named = aliases
        self.models.poll()

    def ask(self, **changes):
        answer = self.client.post("/predict", json={**ORDER, **changes})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def count(self, name, **labels):
        return self.counts.get_sample_value(f"perennial_{name}_total", labels) or 0


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    good = [write_package(folder / str(seed), TOY, seed) for seed in (1, 2)]
    return [*good, break_self_test(write_package(folder / "3", TOY, 3))]


@contextmanager
def open_world(folder, packages) -> Iterator[World]:
    world = World(folder, packages)
    with world.client:
        yield world


@pytest.fixture
def world(tmp_path, packages):
    with open_world(tmp_path, packages) as opened:
        yield opened


def told(answer):
    return answer["served_by"], answer["reason"], answer["model_version"]


def test_before_any_model_the_prior_answers(world):
    """A service that has never seen a model still answers, and says from what."""
    answer = world.ask()
    assert told(answer) == ("prior", "no_champion", None)
    assert answer["probability"] == TOY.prior


def test_the_champion_answers(world):
    """An answer names its version, and what it was about."""
    world.serve(champion=1)
    answer = world.ask()
    assert told(answer) == ("champion", "ok", "1")
    assert answer["flags"] == []
    assert (answer["order_id"], answer["requested_at"]) == ("o1", "2024-01-05T10:30:00Z")
    assert 0 <= answer["probability"] <= 1


def test_an_answer_is_in_the_journal_before_it_leaves(world):
    """With the exact values used, so that it can be computed again to the same score."""
    world.serve(champion=1)
    answer = world.ask()
    [row] = Journal(world.path).read_predictions(ALWAYS).to_dicts()
    assert (row["prediction_id"], row["entity"]) == (answer["prediction_id"], "o1")
    features = msgspec.json.decode(row["features"])
    assert sorted(features) == sorted(TOY.feature_names)
    assert world.models.serving.champion.predict([features]) == [answer["probability"]]


def test_a_list_is_answered_in_its_order(world):
    """One list in, one list out, and ids that sort in that order or later."""
    world.serve(champion=1)
    orders = [{**ORDER, "order_id": f"o{i}", "amount": float(i)} for i in range(10)]
    answers = world.client.post("/predict", json=orders).json()["predictions"]
    assert [answer["order_id"] for answer in answers] == [f"o{i}" for i in range(10)]
    assert len({answer["prediction_id"] for answer in answers}) == 10


def test_a_moved_alias_changes_who_answers(world):
    """And moving it back brings the old one back."""
    for champion, previous in ((1, 2), (2, 1), (1, 2)):
        world.serve(champion=champion, previous=previous)
        assert world.ask()["model_version"] == str(champion)


def test_a_refused_champion_leaves_the_one_before(world):
    """The version that served goes on; /live and the metrics say what was refused."""
    world.serve(champion=1)
    world.serve(champion=3)
    assert told(world.ask()) == ("previous", "champion_refused", "1")
    assert "3" in world.client.get("/live").json()["refused"]
    assert world.count("refused_versions") == 1


@pytest.mark.parametrize("gone", ["missing", "expired", "store"])
def test_without_features_the_rule_answers(world, gone):
    """Missing, expired, or a store that fails: never a model on inputs that it was not made for."""
    world.serve(champion=1)
    world.store.age = {"missing": None, "expired": timedelta(hours=7), "store": timedelta(0)}[gone]
    if gone == "store":
        world.store.error = StoreUnavailable("store", got="nothing", expected="it", next_step="Start it.")
    answer = world.ask()
    assert told(answer) == ("rule", "features_unavailable", "1")
    assert answer["probability"] == 0.375  # the rule's rate of the hour 10
    kind = "expired" if gone == "expired" else "missing"
    assert [(f["feature"], f["kind"]) for f in answer["flags"]] == [("shop_returned_1d", kind)]
    assert (world.client.get("/live").json()["store"]["trouble"] is None) == (gone != "store")


def test_whatever_a_store_raises_is_answered(world):
    """An error of no known kind is no reason not to answer."""
    world.serve(champion=1)
    world.store.error = ZeroDivisionError("surprise")
    assert world.ask()["served_by"] == "rule"
    world.store.error = None
    assert world.ask()["served_by"] == "champion"


def test_inputs_that_the_model_does_not_know_are_never_silent(world):
    """Flagged in the answer, counted, and written to the dead letters."""
    world.serve(champion=1)
    answer = world.ask(shop="moon", amount=1e6)
    kinds = {flag["feature"]: (flag["kind"], flag["got"]) for flag in answer["flags"]}
    assert kinds == {"shop": ("unseen", "moon"), "amount": ("out_of_range", 1e6)}
    [letter] = Journal(world.path).read_dead_letters(ALWAYS).to_dicts()
    assert (letter["kind"], letter["model_version"]) == ("unseen", "1")
    assert world.count("flags", feature="shop", kind="unseen") == 1


WRONG = {
    "missing field": (422, {k: v for k, v in ORDER.items() if k != "shop"}, "shop"),
    "text for a number": (422, {**ORDER, "amount": "much"}, "amount"),
    "unknown field": (422, {**ORDER, "colour": "red"}, "colour"),
    "no zone": (422, {**ORDER, "ordered_at": "2024-01-05T10:30:00"}, "ordered_at"),
    "empty list": (422, [], "items"),
    "1,001 items": (422, [ORDER] * 1_001, "items"),
    "no json": (400, b"{", "body"),
    "too large": (413, b" " * (MAX_BODY + 1), "body"),
}


@pytest.mark.parametrize("route", ["/predict"])
@pytest.mark.parametrize("case", WRONG)
def test_a_malformed_request_is_told_what_is_wrong(world, case, route):
    """Field, value, expectation and next step; kept as a dead letter, cut to size."""
    status, content, field = WRONG[case]
    body = content if isinstance(content, bytes) else msgspec.json.encode(content)
    answer = world.client.post(route, content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["field"]) == (status, field)
    assert set(error) == {"field", "got", "expected", "next_step"}
    world.journal.check()
    [letter] = Journal(world.path).read_dead_letters(ALWAYS).to_dicts()
    assert letter["kind"] == "malformed"
    assert len(letter["request"]) <= 1_000
    assert Journal(world.path).read_predictions(ALWAYS).is_empty()


def test_a_thousand_items_are_answered(world):
    """The largest list allowed."""
    world.serve(champion=1)
    answers = world.client.post("/predict", json=[ORDER] * 1_000).json()["predictions"]
    assert len(answers) == 1_000
    assert len(Journal(world.path).read_predictions(ALWAYS)) == 1_000


def test_a_journal_that_cannot_write_stops_the_answers(world):
    """No answer leaves that nobody could ever check: 503, when to come back, and counted."""
    world.path.mkdir(parents=True)
    answer = world.client.post("/predict", json=ORDER)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["field"] == "journal"
    assert world.count("journal_failures", what="/predict") == 1
    world.path.rmdir()
    assert world.ask()["served_by"] == "prior"


def test_feedback_is_kept(world):
    """One outcome or a list of them; 202 with their ids."""
    outcome = {"order_id": "o1", "returned": True, "observed_at": "2024-01-08T10:30:00Z"}
    answer = world.client.post("/feedback", json=[outcome, {**outcome, "order_id": "o2"}])
    assert (answer.status_code, answer.json()["accepted"]) == (202, 2)
    rows = Journal(world.path).read_outcomes(ALWAYS)
    assert rows["outcome_id"].to_list() == answer.json()["outcome_ids"]
    assert rows["entity"].to_list() == ["o1", "o2"]


def test_request_features_that_fail_take_only_their_own_row_down(tmp_path, packages, monkeypatch):
    """A row that the problem's own function cannot take is answered without a model."""
    compute, bad = TOY.add_request_features, 13.0

    def fragile(frame):
        if bad in frame["amount"]:
            raise ValueError("bad")
        return compute(frame)

    monkeypatch.setitem(TOY.__dict__, "add_request_features", fragile)
    with open_world(tmp_path, packages) as world:
        world.serve(champion=1)
        orders = [ORDER, {**ORDER, "amount": bad}]
        answers = world.client.post("/predict", json=orders).json()["predictions"]
    assert [told(answer)[:2] for answer in answers] == [
        ("champion", "ok"),
        ("rule", "request_features_failed"),
    ]


def test_live_says_what_serves(world):
    """Process, versions, since when, how much it answered, and when the registry was last heard."""
    world.serve(champion=2, previous=1)
    world.ask()
    live = world.client.get("/live").json()
    assert (live["champion"], live["previous"], live["served"]) == ("2", "1", {"champion": 1})
    assert live["registry"]["last_contact"]
    assert live["pid"]


def test_the_page_and_the_document_describe_the_request(world):
    """/ leads to a page that works without any network, and the document has the struct's fields."""
    page = world.client.get("/")
    assert page.url.path == "/docs"
    assert "://" not in page.text
    document = world.client.get("/openapi.json").json()
    assert set(document["components"]["schemas"]["Order"]["properties"]) == set(ORDER)


def test_other_paths_and_methods_are_told_so(world):
    """Even a wrong turn names what was expected."""
    lost = world.client.get("/nowhere")
    assert (lost.status_code, lost.json()["error"]["field"]) == (404, "path")
    wrong = world.client.get("/predict")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


def test_a_store_that_was_replaced_is_opened_anew(tmp_path):
    """A file under an open store that is gone, or another one, is noticed at the next read."""
    from services.prediction import ReopeningStore

    opened: list[FakeStore] = []

    def open_store():
        opened.append(FakeStore())
        return opened[-1]

    definitions, values = tmp_path / "registry.db", tmp_path / "online.db"
    store = ReopeningStore(open_store, definitions, values)
    with pytest.raises(StoreUnavailable):
        store.read_online([{}])
    definitions.write_text("1")
    values.write_text("1")
    store.read_online([{}])
    store.read_online([{}])
    assert len(opened) == 1
    values.rename(tmp_path / "old.db")
    with pytest.raises(StoreUnavailable):
        store.read_online([{}])
    values.write_text("2")
    store.read_online([{}])
    assert len(opened) == 2


def test_a_challenger_is_scored_and_not_heard(world):
    """Its scores of the same answers are in the journal by their ids; the champion's leave."""
    world.serve(champion=1, challenger=2)
    answers = [world.ask(order_id=f"o{i}", amount=float(i)) for i in range(5)]
    assert {answer["model_version"] for answer in answers} == {"1"}
    assert world.client.get("/live").json()["challenger"] == "2"
    world.client.app.prediction.shadow.stop()
    scored = {row["prediction_id"]: row for row in world.journal.read_shadows(ALWAYS).to_dicts()}
    assert scored.keys() == {answer["prediction_id"] for answer in answers}
    assert {row["model_version"] for row in scored.values()} == {"2"}
    rows = world.journal.read_predictions(ALWAYS).to_dicts()
    challenger = world.models.serving.challenger
    for row in rows:
        expected = challenger.predict([msgspec.json.decode(row["features"])])
        assert [scored[row["prediction_id"]]["score"]] == expected
    assert world.count("shadow_scores") == 5


def test_a_challenger_that_fails_is_noticed_by_nobody_but_the_metrics(world):
    """The champion's answers go on."""
    world.serve(champion=1, challenger=2)
    challenger = world.models.serving.challenger
    object.__setattr__(challenger, "compiled", None)
    object.__setattr__(challenger, "estimator", None)
    assert told(world.ask()) == ("champion", "ok", "1")
    world.client.app.prediction.shadow.stop()
    assert world.count("shadow_dropped", why="failed") == 1
