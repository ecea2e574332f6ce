"""Circuits: what fails again and again, or hangs, is left alone, and tried again after a while."""

import threading

import pytest

from services.breaker import FAILURES, LONGEST_REST, REST_AFTER_LATE, REST_SECONDS, Circuits, Resting


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def broken() -> None:
    raise ValueError("broken")


def fail(circuits: Circuits, times: int = FAILURES) -> None:
    for _ in range(times):
        with pytest.raises(ValueError, match="broken"):
            circuits.call("one", broken)


def test_after_some_failures_in_a_row_nothing_is_called() -> None:
    """A success in between starts the count anew; others go on."""
    circuits = Circuits(Clock())
    fail(circuits, FAILURES - 1)
    assert circuits.call("one", lambda: 5) == 5
    fail(circuits)
    with pytest.raises(Resting, match="failed"):
        circuits.call("one", lambda: 5)
    assert circuits.call("two", lambda: 6) == 6
    assert circuits.read_open() == {"one": "failed"}


def test_after_its_rest_one_call_decides() -> None:
    """While it runs the others rest; if it goes well all may call again."""
    clock = Clock()
    circuits = Circuits(clock)
    fail(circuits)
    clock.now = REST_SECONDS

    def trial() -> int:
        with pytest.raises(Resting):
            circuits.call("one", lambda: 0)
        return 5

    assert circuits.call("one", trial) == 5
    assert circuits.read_open() == {}
    fail(circuits)
    clock.now += REST_SECONDS
    fail(circuits, 1)
    with pytest.raises(Resting):
        circuits.call("one", lambda: 5)


def test_what_hangs_is_left_alone_from_outside() -> None:
    """Its circuit opens while the call is under way, longer each time; its late end changes nothing."""
    clock = Clock()
    circuits = Circuits(clock)
    rest = REST_AFTER_LATE
    for _ in range(10):
        begun, go_on = threading.Event(), threading.Event()

        def hang(begun: threading.Event = begun, go_on: threading.Event = go_on) -> None:
            begun.set()
            assert go_on.wait(20)

        thread = threading.Thread(target=lambda hang=hang: circuits.call("one", hang))
        thread.start()
        assert begun.wait(20)
        assert circuits.give_up(thread.ident or 0) == "one"
        go_on.set()
        thread.join()
        assert circuits.read_open() == {"one": "late"}
        clock.now += rest / 2
        with pytest.raises(Resting, match="late"):
            circuits.call("one", lambda: 5)
        clock.now += rest / 2
        rest = min(2 * rest, LONGEST_REST)
    assert circuits.call("one", lambda: 5) == 5
    assert circuits.give_up(threading.get_ident()) is None


def test_what_is_left_out_is_not_called() -> None:
    """Rows that hang in a circuit already go on without it, whatever its state."""
    with pytest.raises(Resting, match="late"):
        Circuits().call("one", lambda: 5, without={"one"})
