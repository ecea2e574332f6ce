"""Dead letters: listed safely, sent again after a fix, and marked once, however often it is run."""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from feature_repo.errors import LetterRefused
from flows.cli.app import app
from services.dead_letters import find_path, is_cut, replay_letters
from services.journal import DeadLetter, Journal, LetterFilter
from services.schemas import EXAMPLE, EXAMPLE_FEEDBACK

AT = "2013-03-01T12:00:00.000000Z"
GOOD = json.dumps(EXAMPLE)
HOSTILE = "[bold]x[/] \x1b[2J\x07 \u202e"


class FakeService:
    """Answers as the service does; `flags` are what it says of each input."""

    def __init__(self):
        self.got, self.flags, self.status = [], [], 200
        self.kill = None  # a process that dies once its second request is answered

    def send(self, path, body):
        self.got.append((path, body.decode()))
        if self.status != 200:
            return self.status, b'{"error": {"field": "journal"}}'
        if path == "/feedback":
            return 202, b'{"accepted": 1, "outcome_ids": [7]}'
        items = json.loads(body)
        name = f"p{len(self.got)}"
        one = {"prediction_id": name, "flags": self.flags}
        told = {"predictions": [one for _ in items]} if isinstance(items, list) else one
        return 200, json.dumps(told).encode()


@pytest.fixture
def service():
    return FakeService()


@pytest.fixture
def address(service):
    """The service, over HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if service.kill and len(service.got) == 1:
                os.kill(service.kill(), signal.SIGKILL)
            status, content = service.send(self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "journal" / "journal.db") as opened:
        yield opened


def letter(kind="unseen", request=GOOD, reason="carrier unseen: ??"):
    return DeadLetter(kind, reason, request, "3", AT)


def refuse(path, body):
    raise ValueError("distance: got nothing, expected a value")


def accept(path, body):
    json.loads(body)


def replay(journal, service, tmp_path, ids=(1,), check=accept):
    return list(replay_letters(journal, ids, tmp_path / "replay.lock", check, service.send))


def run(tmp_path, *words, port=1):
    result = CliRunner().invoke(
        app, ["--home", str(tmp_path), "dead-letters", *words], env={"PERENNIAL_SERVICE_PORT": str(port)}
    )
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_replayed_letter_names_its_prediction_and_is_not_sent_again(journal, service, tmp_path):
    """The mark holds the new id and when; a second run changes nothing."""
    journal.append([], [letter()])
    [told] = replay(journal, service, tmp_path)
    assert (told.status, told.answered) == ("answered", ("p1",))
    [kept] = journal.find_dead_letters(LetterFilter())
    assert json.loads(kept.answered) == ["p1"]
    assert kept.replayed_at
    [again] = replay(journal, service, tmp_path)
    assert (again.status, again.answered) == ("replayed before", ("p1",))
    assert len(service.got) == 1


def test_predictions_of_replayed_letters_are_known(journal, service, tmp_path):
    """Nobody acted on them, so that no outcome is held against them."""
    journal.append([], [letter(), letter()])
    assert journal.list_replayed() == []
    replay(journal, service, tmp_path)
    assert journal.list_replayed() == ["p1"]


def test_one_that_is_malformed_still_is_told_and_not_sent(journal, service, tmp_path):
    """The service would keep another letter of it: the same check runs before."""
    journal.append([], [letter("malformed", "{}", "/predict 422 distance: got nothing")])
    [told] = replay(journal, service, tmp_path, check=refuse)
    assert (told.status, told.done) == ("still refused", False)
    assert "distance" in told.why
    assert service.got == []
    assert journal.find_dead_letters(LetterFilter(waiting=True))


def test_one_that_the_running_service_refuses_still_waits(journal, service, tmp_path):
    """The fix is here and not there yet."""
    journal.append([], [letter()])
    service.status = 422
    assert [one.status for one in replay(journal, service, tmp_path)] == ["still refused"]
    service.status = 503
    assert [one.status for one in replay(journal, service, tmp_path)] == ["not answered"]
    assert journal.find_dead_letters(LetterFilter(waiting=True))


def test_an_answer_that_is_flagged_again_says_so(journal, service, tmp_path):
    """It is answered, and what the model still does not know is named."""
    journal.append([], [letter()])
    service.flags = [{"feature": "carrier", "kind": "unseen", "got": "??"}]
    [told] = replay(journal, service, tmp_path)
    assert (told.status, told.why) == ("still flagged", "carrier unseen")


def test_a_list_gets_all_its_ids_and_feedback_goes_where_it_came_from(journal, service, tmp_path):
    """A refused list is sent whole; what was told to /feedback is told to it again."""
    feedback = letter("malformed", json.dumps(EXAMPLE_FEEDBACK), "/feedback 422 outcome: got nothing")
    journal.append([], [letter("malformed", f"[{GOOD}, {GOOD}]", "/predict 422 items"), feedback])
    told = replay(journal, service, tmp_path, ids=(1, 2))
    assert [one.answered for one in told] == [("p1", "p1"), ("7",)]
    assert [path for path, _ in service.got] == ["/predict", "/feedback"]


CUT = {
    "the beginning of a long one": ("malformed", '{"a": "' + "x" * 993, "/predict 400 body", True),
    "one nested too deep": ("malformed", "[" * 1_000, "/predict 400 body", True),
    "too large to be read": ("malformed", "", "/predict 413 body", True),
    "a short one": ("malformed", "{", "/predict 400 body", False),
    "a whole one of that length": ("malformed", json.dumps("x" * 998), "/predict 422 body", False),
    "a long one that was answered": ("unseen", "x" * 5_000, "carrier", False),
}


@pytest.mark.parametrize("case", CUT)
def test_one_that_was_cut_is_told_and_not_sent(journal, service, tmp_path, case):
    """Only its beginning was kept."""
    kind, request, reason, cut = CUT[case]
    journal.append([], [letter(kind, request, reason)])
    [kept] = journal.find_dead_letters(LetterFilter())
    assert is_cut(kept) == cut
    [told] = replay(journal, service, tmp_path, check=refuse)
    assert told.status == ("cut" if cut else "still refused")
    assert service.got == []


def test_a_reason_of_hostile_words_does_not_choose_the_path(journal):
    """Requests go to the two paths that take them, whatever a letter says."""
    for reason in ("http://elsewhere/ 422", "/live 422 x", HOSTILE, ""):
        journal.append([], [letter("malformed", "{}", reason)])
    assert {find_path(one) for one in journal.find_dead_letters(LetterFilter())} == {"/predict"}


def test_an_id_that_is_not_kept_is_told(journal, service, tmp_path):
    """The oldest letters are dropped."""
    with pytest.raises(LetterRefused):
        replay(journal, service, tmp_path, ids=(9,))


def test_a_replay_that_is_killed_is_run_again(journal, service, address, tmp_path):
    """Killed between an answer and its mark: each letter ends with one mark, and those before stay."""
    journal.append([], [letter() for _ in range(4)])
    command = [sys.executable, "-m", "flows.cli", "--home", str(tmp_path), "dead-letters", "replay"]
    environment = {**os.environ, "PERENNIAL_SERVICE_PORT": str(address)}
    child = []
    service.kill = lambda: child[0].pid
    with subprocess.Popen([*command, "1", "2", "3", "4"], env=environment) as killed:
        child.append(killed)
    assert killed.returncode == -signal.SIGKILL
    marks = [one.answered for one in journal.find_dead_letters(LetterFilter())]
    assert marks == ['["p1"]', None, None, None]
    service.kill = None
    ended = subprocess.run(
        [*command, "--kind", "unseen"], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert [one.answered for one in journal.find_dead_letters(LetterFilter())] == [
        *('["p1"]', '["p3"]', '["p4"]', '["p5"]')
    ]


def test_two_replays_at_once_send_each_letter_once(journal, service, address, tmp_path):
    """They take turns; the second finds the marks of the first."""
    journal.append([], [letter() for _ in range(3)])
    command = [sys.executable, "-m", "flows.cli", "--home", str(tmp_path), "dead-letters", "replay"]
    environment = {**os.environ, "PERENNIAL_SERVICE_PORT": str(address)}
    both = [subprocess.Popen([*command, "--kind", "unseen"], env=environment) for _ in range(2)]
    assert [child.wait() for child in both] == [0, 0]
    assert len(service.got) == 3


def test_what_a_letter_says_does_nothing_to_the_terminal(journal, tmp_path):
    """Markup and control characters of a hostile request are shown as text."""
    journal.append([], [letter("malformed", HOSTILE, f"/predict 400 {HOSTILE}")])
    for words in (("list",), ("sample",), ("list", "--json"), ("show", "1"), ("replay", "1")):
        output = run(tmp_path, *words).output
        assert not {"\x1b", "\x07", "\u202e"} & set(output)
    assert "[bold]x[/]" in run(tmp_path, "list").output.replace("\n", "")


def test_letters_are_listed_sampled_counted_and_shown(journal, tmp_path):
    """By kind, since an instant, at most so many; and as JSON for programs."""
    journal.append([], [letter(), letter("malformed", "{", "/predict 400 body"), letter()])
    journal.mark_replayed(1, '["p1"]')
    listed = json.loads(run(tmp_path, "list", "--kind", "unseen", "--json").output)
    assert [(one["id"], one["answered"]) for one in listed] == [(1, ["p1"]), (3, None)]
    assert [one["id"] for one in json.loads(run(tmp_path, "list", "--limit", "1", "--json").output)] == [3]
    assert json.loads(run(tmp_path, "list", "--since", "2013-03-02", "--json").output) == []
    assert len(json.loads(run(tmp_path, "sample", "--limit", "2", "--json").output)) == 2
    counted = json.loads(run(tmp_path, "count", "--json").output)
    assert [tuple(one.values()) for one in counted] == [
        ("2013-03-01", "malformed", 1, 0),
        ("2013-03-01", "unseen", 2, 1),
    ]
    shown = json.loads(run(tmp_path, "show", "2").output)
    assert (shown["request"], shown["path"], shown["cut"]) == ("{", "/predict", False)


def test_a_service_that_is_down_is_told(journal, tmp_path):
    """Nothing is marked, and the next step is named."""
    journal.append([], [letter()])
    result = run(tmp_path, "replay", "1")
    assert result.exit_code == 1
    assert journal.find_dead_letters(LetterFilter(waiting=True))


def test_replaying_nothing_in_particular_is_refused(tmp_path):
    """Neither ids nor a kind."""
    assert run(tmp_path, "replay").exit_code == 2
