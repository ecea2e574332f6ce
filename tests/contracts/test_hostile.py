"""The service under requests that mean no good: in short what `make prove AREA=serving` does."""

import pytest

from services.schemas import EXAMPLE, EXAMPLE_FEEDBACK
from tests.hostile.app import serve_app
from tests.hostile.attacks import Attack, make_attacks
from tests.hostile.sending import Heard, attack_server, find_problem
from tests.hostile.spec import run_schemathesis

ATTACKS = 2_000
PREDICT = Attack("fields", "POST", "/predict", b"")


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with serve_app(tmp_path_factory.mktemp("service")) as opened:
        yield opened


def test_every_hostile_request_is_answered_or_refused_by_name(port):
    """No 5xx, no hang, no silence: an answer says who answered, a refusal what to change."""
    examples = {"/predict": EXAMPLE, "/feedback": EXAMPLE_FEEDBACK}
    tally = attack_server(port, make_attacks(examples), ATTACKS)
    assert not tally.problems, tally.told
    assert tally.sent == ATTACKS
    assert min(tally.statuses[status] for status in (200, 202, 400, 404, 405, 422)) > 0, tally.statuses


@pytest.mark.slow
def test_the_openapi_document_is_kept(port):
    """Whatever Schemathesis makes of the document, statuses, types and shapes are those it promises."""
    sent, broken = run_schemathesis(f"http://127.0.0.1:{port}", examples=10)
    assert not broken, broken
    assert sent > 100


@pytest.mark.parametrize(
    ("heard", "problem"),
    [
        (Heard(-1), "hang"),
        (Heard(0), "no answer"),
        (Heard(500, b"Internal Server Error"), "5xx"),
        (Heard(405, b"Method Not Allowed"), "405 that names nothing"),
        (Heard(422, b'{"error":{"field":"","got":1,"expected":"x"}}'), "422 that names nothing"),
        (Heard(200, b"{}"), "answer of nobody"),
        (Heard(200, b"ok"), "answer that is no JSON"),
        (Heard(200, b'{"served_by":"rule"}'), ""),
        (Heard(422, b'{"error":{"field":"dest","got":null,"expected":"text"}}'), ""),
    ],
)
def test_what_is_wrong_with_an_answer_is_told(heard, problem):
    """The judge of the attacks lets none of these pass, and the good ones do."""
    assert find_problem(PREDICT, heard) == problem
