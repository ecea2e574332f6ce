"""What is asked of the registry four times a second: over one connection, and with every trouble told."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from services.registry_reader import RegistryReader


class Fake(BaseHTTPRequestHandler):
    """As much of MLflow as is asked; every connection counts."""

    protocol_version = "HTTP/1.1"
    answer: tuple[int, bytes] = (200, b"{}")
    connections = 0
    hang_up = False
    asked: ClassVar[list[str]] = []

    def setup(self):
        super().setup()
        Fake.connections += 1

    def do_GET(self):
        status, body = Fake.answer
        Fake.asked.append(self.path)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = Fake.hang_up

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def serving(status, body, *, hang_up=False):
    Fake.answer = (status, body if isinstance(body, bytes) else json.dumps(body).encode())
    Fake.connections, Fake.hang_up, Fake.asked = 0, hang_up, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    reader = RegistryReader(f"http://127.0.0.1:{server.server_port}", "toy returns", timeout=5)
    try:
        yield reader
    finally:
        reader.close()
        server.shutdown()
        server.server_close()


MODEL = {"registered_model": {"aliases": [{"alias": "champion", "version": "2"}]}}


def test_aliases_are_read_over_one_connection():
    """A poll costs one small request."""
    with serving(200, MODEL) as reader:
        assert [reader.aliases() for _ in range(3)] == [{"champion": 2}] * 3
        assert Fake.connections == 1
        assert Fake.asked[0].endswith("/registered-models/get?name=toy+returns")


def test_a_connection_that_was_closed_meanwhile_is_opened_anew():
    """A server may hang up on who asks seldom; that is no trouble."""
    with serving(200, MODEL, hang_up=True) as reader:
        assert [reader.aliases() for _ in range(3)] == [{"champion": 2}] * 3


def test_a_tag_of_a_version_is_read():
    """Or None, if it has none of that name."""
    with serving(200, {"model_version": {"tags": [{"key": "a", "value": "1"}]}}) as reader:
        assert (reader.version_tag(2, "a"), reader.version_tag(2, "b")) == ("1", None)


def test_what_is_not_there_is_nothing():
    """A model that nobody registered yet has no aliases, a deleted version no tags."""
    with serving(404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}) as reader:
        assert (reader.aliases(), reader.version_tag(1, "a")) == ({}, None)


@pytest.mark.parametrize(
    "answer", [(500, b"oh"), (404, b"<html>"), (200, b"not json"), (200, b"[]"), (200, b"{}")]
)
def test_any_other_answer_is_trouble(answer):
    """It must never read as if no alias were set."""
    with serving(*answer) as reader, pytest.raises(OSError, match="HTTP"):
        reader.aliases()


def test_nobody_there_is_trouble_too():
    """Told as what it is."""
    with serving(200, MODEL) as reader:
        pass
    with pytest.raises(OSError, match=r"refused|\[Errno"):
        reader.aliases()


@pytest.mark.parametrize(
    ("url", "readable"),
    [
        ("http://127.0.0.1:5000", True),
        ("https://mlflow.example", False),
        ("http://user:word@127.0.0.1:5000", False),
        ("sqlite:///mlflow.db", False),
    ],
)
def test_only_a_plain_address_is_read_so(url, readable, monkeypatch):
    """What needs certificates or credentials is the client's."""
    for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_AUTH"):
        monkeypatch.delenv(name, raising=False)
    assert RegistryReader.can_read(url) == readable
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    assert not RegistryReader.can_read(url)
