"""What is asked of the registry four times a second: over one connection, and with every trouble told."""

import json
import threading
import time
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
    pause = 0.0  # seconds after each byte
    asked: ClassVar[list[str]] = []
    pages: ClassVar[dict[str, bytes]] = {}
    gone: ClassVar[threading.Event] = threading.Event()

    def setup(self):
        super().setup()
        Fake.connections += 1

    def do_GET(self):
        status, body = (200, Fake.pages[self.path]) if self.path in Fake.pages else Fake.answer
        Fake.asked.append(self.path)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            if Fake.pause:
                self.drip(body)
            else:
                self.wfile.write(body)
        except OSError:  # whoever asked has gone
            Fake.gone.set()
        self.close_connection = Fake.hang_up

    def drip(self, body):
        for i in range(len(body)):
            self.wfile.write(body[i : i + 1])
            time.sleep(Fake.pause)

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def serving(status, body, *, hang_up=False, pause=0.0, timeout=5):
    Fake.answer = (status, body if isinstance(body, bytes) else json.dumps(body).encode())
    Fake.connections, Fake.hang_up, Fake.asked, Fake.pages = 0, hang_up, [], {}
    Fake.pause = pause
    Fake.gone.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    reader = RegistryReader(f"http://127.0.0.1:{server.server_port}", "toy returns", timeout=timeout)
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


ROOT = "/api/2.0/mlflow-artifacts/artifacts"
DOWNLOAD = "/api/2.0/mlflow/model-versions/get-download-uri?name=toy+returns&version=3"


def place(uri, *files, **more):
    """The pages of a version's files: where they lie, and what lies there."""
    listed = [{"path": name, "is_dir": "." not in name} for name in files]
    known = {DOWNLOAD: {"artifact_uri": uri}, f"{ROOT}?path=1%2Fm%2Fartifacts": {"files": listed}, **more}
    Fake.pages = {path: v if isinstance(v, bytes) else json.dumps(v).encode() for path, v in known.items()}


def test_a_versions_files_come_whole(tmp_path):
    """Folders too, and names that an address cannot hold as they are."""
    inside = {"files": [{"path": "b c%.bin", "is_dir": False}]}
    more = {
        f"{ROOT}?path=1%2Fm%2Fartifacts%2Fsub": inside,
        f"{ROOT}/1/m/artifacts/a.json": b"{}",
        f"{ROOT}/1/m/artifacts/sub/b%20c%25.bin": b"\x00\xff",
    }
    with serving(404, b"") as reader:
        place("mlflow-artifacts:/1/m/artifacts", "a.json", "sub", **more)
        assert reader.download(3, tmp_path / "came")
    assert (tmp_path / "came" / "a.json").read_bytes() == b"{}"
    assert (tmp_path / "came" / "sub" / "b c%.bin").read_bytes() == b"\x00\xff"


@pytest.mark.parametrize("uri", ["s3://bucket/1", "mlflow-artifacts://elsewhere:5000/1", "file:///etc", ""])
def test_what_lies_elsewhere_is_the_clients(tmp_path, uri):
    """Nothing is fetched, and the client does it."""
    with serving(404, b"") as reader:
        place(uri)
        assert not reader.download(3, tmp_path / "came")
    assert not (tmp_path / "came").exists()


@pytest.mark.parametrize("name", ["../a.json", "/etc/a.json", "sub/a.json", "..", ".", "", "a.json/.."])
def test_no_file_comes_outside_of_its_folder(tmp_path, name):
    """Whoever answers for MLflow does not choose where we write, nor makes us go round in circles."""
    climbing = {"files": [{"path": name, "is_dir": True}, {"path": "a.json", "is_dir": False}]}
    with serving(200, climbing) as reader:
        place("mlflow-artifacts:/1/m/artifacts", name)
        with pytest.raises(OSError, match="a file named"):
            reader.download(3, tmp_path / "came")
    assert list(tmp_path.rglob("*.json")) == []


def test_a_file_that_does_not_come_is_trouble(tmp_path):
    """Half a version is none."""
    with serving(503, b"busy") as reader:
        place("mlflow-artifacts:/1/m/artifacts", "a.json")
        with pytest.raises(OSError, match="HTTP 503"):
            reader.download(3, tmp_path / "came")


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


def test_an_answer_without_end_is_trouble():
    """It is not read into memory, and the next question is asked anew."""
    with serving(200, b" " * 50_000_000 + json.dumps(MODEL).encode()) as reader:
        with pytest.raises(OSError, match="1,000,000 bytes"):
            reader.aliases()
        assert Fake.gone.wait(60)
        Fake.answer = (200, json.dumps(MODEL).encode())
        assert reader.aliases() == {"champion": 2}


def test_an_answer_that_drips_is_trouble():
    """Each byte comes in time, and the whole does not; the next question is asked anew."""
    with serving(200, b" " * 60 + json.dumps(MODEL).encode(), pause=0.05, timeout=0.5) as reader:
        with pytest.raises(TimeoutError):
            reader.aliases()
        assert Fake.gone.wait(60)
        Fake.pause = 0.0
        assert reader.aliases() == {"champion": 2}


def test_one_slow_answer_leaves_the_next_its_time():
    """The limit is of each question."""
    with serving(200, b'{"registered_model": {}}', pause=0.1, timeout=4) as reader:
        assert [reader.aliases() for _ in range(2)] == [{}, {}]
        assert Fake.connections == 1


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
