"""One message when an incident opens and one when all is well, through real blocks at a real webhook."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from feature_repo.errors import NotificationFailed
from feature_repo.lake import Lake
from flows.announce import REPORT_TAG, announce
from flows.channels import (
    CLEARED,
    OPENED,
    RUN,
    Channel,
    build_channels,
    send_by_block,
    send_to_alertmanager,
)
from flows.notify import tell_incidents
from flows.verdicts import record_request
from tests.incidents import START, WEEK, day_key_of, judge, judge_days, key_of, live, receiving, save_block
from tests.monitoring import FakeMonitoring, serving
from tests.packages import FakeRegistry


class World:
    """A lake of verdicts, and what was said of them."""

    def __init__(self, folder):
        self.folder, self.lake, self.said = folder, Lake(folder / "lake"), []

    def tell(self, **channels):
        """Look at the verdicts once."""
        into = {RUN: lambda message: None, **(channels or {"people": self.said.append})}
        ways = {name: Channel(send, forgets=name == "alertmanager") for name, send in into.items()}
        return tell_incidents(self.lake, "toy", ways, self.link, self.folder)

    def link(self, window):
        return {"Evidently report": f"http://reports/{window.key}", "Prefect run": ""}

    def kinds(self):
        """Return what was said: the week in which the incident opened, and the kind."""
        return [(message.incident[len("toy/") :], message.kind) for message in self.said]


@pytest.fixture
def world(tmp_path):
    """A world without verdicts."""
    return World(tmp_path)


def test_an_incident_is_told_once_and_its_end_once(world):
    """Week after week, with every run repeated: one message, one all-clear, then silence."""
    for weeks in ("", "d", "dd", "ddd", "ddd.", "ddd..", "ddd..."):
        judge(world.lake, weeks)
        for _ in range(2):
            world.tell()
    assert world.kinds() == [(key_of(1), OPENED), (key_of(1), CLEARED)]


def test_a_message_says_what_why_and_where(world):
    """Verdict, reasons and links; a link that leads nowhere is left out."""
    judge(world.lake, "dd")
    record_request(world.lake, key_of(1), "1", START + 2 * WEEK, {})
    world.tell()
    (message,) = world.said
    assert message.subject == "toy: drift of model v1; a retrain was asked for"
    assert "week 1 looked like d" in message.body
    assert f"Evidently report: http://reports/{key_of(1)}" in message.body
    assert f"Incident: toy/{key_of(1)}" in message.body
    assert "Prefect run" not in message.body


def test_a_channel_that_fails_is_tried_again_and_the_others_are_not(world):
    """What one channel took it does not get twice; the other one's all-clear waits behind its message."""
    calls = []

    def refuse(message):
        raise NotificationFailed("x", got="a refusal", expected="an answer", next_step="Look.")

    judge(world.lake, "dd..")
    told = world.tell(first=calls.append, second=refuse)
    assert (told.sent, len(told.failed), [m.kind for m in calls]) == ((), 1, [OPENED, CLEARED])
    failing = (world.folder / "metrics" / "incidents.prom").read_text()
    assert 'perennial_notifications_failing{channel="second",problem="toy"} 1.0' in failing
    assert 'perennial_notifications_failing{channel="first",problem="toy"} 0.0' in failing
    told = world.tell(first=calls.append, second=world.said.append)
    assert [m.kind for m in calls] == [OPENED, CLEARED]
    assert [m.kind for m in world.said] == [OPENED, CLEARED]
    assert (
        'failing{channel="second",problem="toy"} 0.0'
        in (world.folder / "metrics" / "incidents.prom").read_text()
    )


def test_channels_that_fail_silence_neither_the_others_nor_the_run(world):
    """A block that refuses everything: the next one and the run hear of it all the same."""
    run, second = [], []

    def refuse(message):
        raise NotificationFailed("x", got="a refusal", expected="an answer", next_step="Look.")

    judge(world.lake, "dd")
    told = world.tell(**{"first": refuse, "second": second.append, RUN: run.append})
    assert ([m.kind for m in run], [m.kind for m in second]) == ([OPENED], [OPENED])
    assert (told.sent, len(told.failed)) == ((), 1)
    judge(world.lake, "dd..")
    told = world.tell(**{"first": refuse, "second": second.append, RUN: run.append})
    assert ([m.kind for m in run], [m.kind for m in second]) == ([OPENED, CLEARED], [OPENED, CLEARED])


def test_the_all_clear_follows_to_a_channel_that_took_the_message_late(world):
    """What was not done stays open for it, in order, even if the incident is long over."""

    def refuse(message):
        raise NotificationFailed("x", got="a refusal", expected="an answer", next_step="Look.")

    judge(world.lake, "dd..")
    world.tell(people=refuse)
    world.tell(people=refuse)
    world.tell()
    world.tell()
    assert world.kinds() == [(key_of(1), OPENED), (key_of(1), CLEARED)]


@pytest.mark.parametrize("bad", ["d", "q"])
def test_days_between_bury_no_bad_week(world, bad):
    """Each day is judged before the week is: two bad weeks of three are an incident all the same."""
    live(world.lake, f"{bad}{bad}.", ".......")
    told = world.tell()
    assert [(m.incident, m.kind, m.severity) for m in told.sent] == [(f"toy/{key_of(1)}", OPENED, "ticket")]


def test_odd_days_open_no_incident_of_a_week_and_a_good_week_ends_none_of_a_day(world):
    """Two odd days of a well week: one early sign, over after two well days; nothing is said of the week."""
    for passed in range(1, 24):
        live(world.lake, "...", "..dd...", upto=passed)
        world.tell()
        if passed == 4:
            assert [m.kind for m in world.said] == [OPENED]
    kinds = [(m.incident, m.kind, m.severity) for m in world.said[:2]]
    first = f"toy/{day_key_of(2)}"
    assert kinds == [(first, OPENED, "info"), (first, CLEARED, "info")]
    assert {m.severity for m in world.said} == {"info"}
    assert [m.kind for m in world.said] == [OPENED, CLEARED] * 3


def test_a_stretch_of_odd_days_is_one_message_with_why_and_where(world):
    """One well day between does not end it; the message says what alarmed and leads to that day's report."""
    judge_days(world.lake, ".dd.d.ddd")
    world.tell()
    (message,) = world.said
    assert (
        message.subject == "toy: inputs of model v1; an early sign of one day, on which no retrain is decided"
    )
    assert "inputs: inputs of day 1" in message.body
    assert f"http://reports/{day_key_of(1)}" in message.body
    text = (world.folder / "metrics" / "incidents.prom").read_text()
    assert 'perennial_incident_open{problem="toy",signal="inputs",window="day"} 1.0' in text
    judge_days(world.lake, "..", since=9)
    world.tell()
    text = (world.folder / "metrics" / "incidents.prom").read_text()
    assert 'perennial_incident_open{problem="toy",signal="inputs",window="day"} 0.0' in text


def test_a_kill_before_a_message_was_recorded_repeats_it_under_the_same_id(world):
    """At least once, and told apart by the id; a kill before it was sent loses nothing."""

    def die(message):
        raise KeyboardInterrupt

    def send_and_die(message):
        world.said.append(message)
        raise KeyboardInterrupt

    judge(world.lake, "dd")
    for kill in (die, send_and_die):
        with pytest.raises(KeyboardInterrupt):
            world.tell(people=kill)
    world.tell()
    world.tell()
    assert world.kinds() == [(key_of(1), OPENED)] * 2


def test_an_incident_that_was_judged_away_is_cleared(world):
    """Who was told of it is told that it is none, once."""
    judge(world.lake, "dd")
    world.tell()
    judge(world.lake, "d.")
    world.tell()
    world.tell()
    assert world.kinds() == [(key_of(1), OPENED), (key_of(1), CLEARED)]
    assert "judged anew" in world.said[1].subject


def test_a_channel_added_later_is_not_told_of_the_past(world):
    """A block that is named for the first time hears of what happens from then on."""
    judge(world.lake, "dd..")
    world.tell(first=lambda message: None)
    judge(world.lake, "dd..dd")
    world.tell(late=world.said.append)
    assert world.kinds() == [(key_of(5), OPENED)]


def test_incidents_of_a_new_champion_are_its_own(world):
    """The old one's incident ends with the first well window of the new one."""
    judge(world.lake, "dd")
    world.tell()
    judge(world.lake, "...", version="2")
    told = world.tell()
    assert (world.kinds()[1:], told.open) == ([(key_of(1), CLEARED)], ())


def test_a_prefect_block_takes_messages_to_a_webhook(prefect_server, world):
    """Subject and body arrive; a webhook that refuses, or a block that is not there, is an error of ours."""
    judge(world.lake, "dd")
    with receiving() as (url, came), receiving(lambda: 500) as (bad, _):
        block = save_block("people", url)
        world.tell(people=lambda message: send_by_block(block, message))
        assert [told["subject"] for told in came] == ["toy: drift of model v1; no retrain was asked for"]
        assert f"Incident: toy/{key_of(1)}" in came[0]["body"]
        judge(world.lake, "dd..")
        world.tell()
        for name in (save_block("broken", bad), "custom-webhook/nobody"):
            with pytest.raises(NotificationFailed, match=name):
                send_by_block(name, world.said[0])


def test_the_alertmanager_hears_of_an_incident_and_of_its_end(world, make_toy):
    """The same labels each time; what is open is posted by each run; the end comes with the all-clear."""
    project = make_toy()
    fake = FakeMonitoring(1, 2)
    with serving(fake) as port:
        url = f"http://127.0.0.1:{port}"
        for weeks in ("dd", "ddd", "ddd.."):
            judge(world.lake, weeks)
            world.tell(alertmanager=lambda message: send_to_alertmanager(url, message))
        fake.down = True
        judge(world.lake, "ddd..dd")
        assert len(world.tell(alertmanager=lambda message: send_to_alertmanager(url, message)).failed) == 1
    opened, again, cleared = fake.posted
    assert opened["labels"] == again["labels"] == cleared["labels"]
    assert opened["labels"]["incident"] == f"toy/{key_of(1)}"
    now = datetime.now(UTC)
    assert datetime.fromisoformat(cleared["endsAt"]) <= now < datetime.fromisoformat(again["endsAt"])
    both = project.settings.model_copy(update={"notify_block": "slack/ops", "notify_alertmanager": True})
    assert list(build_channels(both)) == [RUN, "slack/ops", "alertmanager"]
    assert list(build_channels(project.settings)) == [RUN]


def test_an_incident_outlives_the_alertmanager_that_was_told_of_it(world):
    """One that was killed and started knows nothing: the next run tells it again, also of the end."""
    fake = FakeMonitoring(1, 2)
    with serving(fake) as port:

        def tell():
            world.tell(alertmanager=lambda m: send_to_alertmanager(f"http://127.0.0.1:{port}", m))

        judge(world.lake, "dd")
        tell()
        fake.restart()
        tell()
        assert [a["labels"]["incident"] for a in fake.list_alerts()] == [f"toy/{key_of(1)}"]
        fake.restart()
        judge(world.lake, "dd..")
        tell()
        # It has to be noticed before it ends: it is raised, to end by itself.
        (alert,) = fake.list_alerts()
        left = datetime.fromisoformat(alert["endsAt"]) - datetime.now(UTC)
        assert timedelta(0) < left < timedelta(minutes=3)
        tell()
        assert len(fake.posted) == 3


def test_an_incident_that_is_over_before_it_is_told_ends_by_itself(world):
    """Raised and resolved in one breath the Alertmanager would say neither."""
    fake = FakeMonitoring(1, 2)
    judge(world.lake, "dd..")
    with serving(fake) as port:
        world.tell(alertmanager=lambda m: send_to_alertmanager(f"http://127.0.0.1:{port}", m))
    (alert,) = fake.posted
    left = datetime.fromisoformat(alert["endsAt"]) - datetime.now(UTC)
    assert timedelta(0) < left < timedelta(minutes=3)


def test_a_run_links_the_report_and_shows_the_incident(prefect_server, make_toy):
    """Link artifact, message artifact and the version's tag; the block that is named gets the message too."""
    from prefect import flow
    from prefect.client.orchestration import get_client

    project = make_toy()
    registry = FakeRegistry()
    vars(project)["registry"] = registry
    judge(project.lake, "dd")

    with receiving() as (hook, came):
        named = project.settings.model_copy(update={"notify_block": save_block("in-a-run", hook)})
        telling = replace(project, settings=named)
        vars(telling)["registry"] = registry

        @flow
        def a_day():
            return announce(telling)

        (message,) = a_day().sent
        assert a_day().sent == ()
    assert [told["subject"] for told in came] == [message.subject]
    url = registry.tags[1, REPORT_TAG]
    assert url.startswith(f"{project.settings.evidently_url}/projects/")
    with get_client(sync_client=True) as client:
        artifacts = client.request("POST", "/artifacts/filter", json={}).json()
    links = [a for a in artifacts if a["key"] == f"report-{project.problem.name}"]
    assert len(links) == 2
    assert all(url in a["data"] for a in links)
    assert [message.subject in a["data"] for a in artifacts if a["key"] == "incident"] == [True]
    assert f"/models/{project.problem.name}/versions/1" in message.body
    assert "/runs/flow-run/" in message.body
    without = replace(project, settings=project.settings.model_copy(update={"evidently_port": 0}))
    vars(without)["registry"] = registry
    announce(without)
    assert registry.tags[1, REPORT_TAG] == f"{project.settings.reports_url}/reports/{key_of(1)}.html"
