"""How long answers take, read off the service: of those since a promotion, though it started anew."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from prometheus_client import CollectorRegistry

from feature_repo.settings import Settings
from flows.releasing.watching import STARTED, find_p95, read_latency
from services.metrics import Metrics

# 10,000 answers, nearly all within 5 ms; and 10,200 of a service that started later, most within 50 ms.
BEFORE = {"0.005": 9_500.0, "0.05": 9_900.0, "0.1": 9_990.0, "+Inf": 10_000.0}
ANEW = {"0.005": 9_600.0, "0.05": 10_047.0, "0.1": 10_190.0, "+Inf": 10_200.0}


class Server(HTTPServer):
    """Answers with the metrics of a service, at /metrics alone."""

    metrics: Metrics


class Handler(BaseHTTPRequestHandler):
    """What each request of it meets."""

    server: Server

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()
        self.wfile.write(self.server.metrics.render()[0])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    """Return a server of metrics that nothing was counted in yet."""
    with Server(("127.0.0.1", 0), Handler) as made:
        made.metrics = Metrics(CollectorRegistry())
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def observe(metrics: Metrics, seconds: float, times: int) -> None:
    for _ in range(times):
        metrics.seconds.observe(seconds)


def test_only_what_was_answered_in_between_counts(server: Server) -> None:
    """Read from the service's own metrics, twice."""
    settings = Settings(service_port=server.server_port)
    observe(server.metrics, 0.003, 5_000)
    before = read_latency(settings)
    assert find_p95(before, {}) == 5.0
    observe(server.metrics, 0.08, 99)
    assert find_p95(read_latency(settings), before) is None  # too few
    observe(server.metrics, 0.08, 1)
    assert find_p95(read_latency(settings), before) == 100.0


def test_a_service_that_started_since_has_nothing_to_subtract(server: Server) -> None:
    """All that it has counted was answered after the promotion, be it more than was counted before."""
    settings = Settings(service_port=server.server_port)
    observe(server.metrics, 0.003, 1_000)
    observe(server.metrics, 0.04, 10)
    before = read_latency(settings)
    server.metrics = Metrics(CollectorRegistry())
    observe(server.metrics, 0.003, 1_100)
    observe(server.metrics, 0.04, 50)
    assert find_p95(read_latency(settings), before) == 5.0


def test_counts_are_subtracted_by_when_the_counting_began() -> None:
    """The same start: what lies between. Another: all of it, though no count is lower than before."""
    assert find_p95({**ANEW, STARTED: 20.0}, {**BEFORE, STARTED: 10.0}) == 50.0
    assert find_p95({**ANEW, STARTED: 10.0}, {**BEFORE, STARTED: 10.0}) == 100.0


def test_counts_that_were_kept_without_a_start_go_on_working() -> None:
    """As long as no count is lower than before, which tells of a service that began to count anew."""
    assert find_p95({**ANEW, STARTED: 20.0}, BEFORE) == 100.0
    assert find_p95({**BEFORE, STARTED: 20.0}, ANEW) is None


def test_a_silent_service_has_no_latency() -> None:
    """Nobody listens: nothing is known, and nothing is subtracted later."""
    silent = read_latency(Settings(service_port=1))
    assert silent == {}
    assert find_p95(silent, {}) is None
    assert find_p95({**BEFORE, STARTED: 10.0}, silent) == 5.0
