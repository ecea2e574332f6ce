"""When windows become an incident, and when it is over."""

from datetime import UTC, datetime, timedelta

import pytest

from flows.policy.incident import JudgedWindow, find_incidents

WEEK = timedelta(days=7)
START = datetime(2013, 1, 1, tzinfo=UTC)


def judge(weeks, version="1", since=0):
    """One window a letter: d(rift), q(uality), b(oth), . well, ? could not tell."""
    breaches = {"d": ("drift",), "q": ("quality",), "b": ("quality", "drift"), ".": (), "?": ()}
    return [
        JudgedWindow(
            f"w{since + n}-v{version}", version, START + (since + n) * WEEK, breaches[c], (), c != "?"
        )
        for n, c in enumerate(weeks)
    ]


def draw(weeks):
    """Return the incidents as opening window, closing window or None."""
    found = find_incidents("toy", judge(weeks))
    return [(i.opened.key[1:-3], i.cleared.key[1:-3] if i.cleared else None) for i in found]


@pytest.mark.parametrize(
    ("weeks", "incidents"),
    [
        ("", []),
        ("....", []),
        ("d", []),  # one odd week is none
        ("dd", [("1", None)]),
        ("ddddd", [("1", None)]),  # one incident, however long
        ("dd..", [("1", "3")]),
        ("dd.d.d", [("1", None)]),  # a good week between bad ones is no all-clear
        ("dd..dd..", [("1", "3"), ("5", "7")]),
        ("dd??", [("1", None)]),  # who cannot tell does not clear
        ("dd??.", [("1", "4")]),
        ("dq", []),  # two signals once each are not one twice
        ("d.d", [("2", None)]),
    ],
)
def test_an_incident_opens_and_ends_by_the_triggers_rule(weeks, incidents):
    """Two of the last three windows and the latest open it; only well windows end it."""
    assert draw(weeks) == incidents


def test_signals_that_join_make_no_second_incident():
    """What fires while it is open belongs to it."""
    (incident,) = find_incidents("toy", judge("ddbb"))
    assert incident.signals == ("drift", "quality")
    assert incident.id == "toy/w1-v1"


def test_a_new_champion_clears_the_incident_of_the_old_one():
    """Its own windows are well: the retrain has helped."""
    windows = [*judge("ddd"), *judge(".", "2", since=3)]
    (incident,) = find_incidents("toy", windows)
    assert incident.cleared is not None
    assert incident.cleared.version == "2"


def test_the_order_in_which_windows_are_read_does_not_matter():
    """The same windows are the same incidents, whichever run judged them first."""
    windows = judge("dd..dd")
    assert find_incidents("toy", windows[::-1]) == find_incidents("toy", windows)
