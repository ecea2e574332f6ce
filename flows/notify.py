"""Messages about incidents: one when it opens, one when all is well again, each with reasons and links.

What to say follows from the verdicts in the lake, and what was said is kept beside them, so that a killed
run is made good by the next one. A message is recorded after it was taken: killed in between, it is sent
once more under the same incident id. At least once, then, and told apart by the id.
"""

import fcntl
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from feature_repo.errors import NotificationFailed
from feature_repo.lake import Lake, write_atomically
from feature_repo.settings import Settings
from flows.policy.incident import Incident, JudgedWindow, find_incidents
from flows.verdicts import INSTANT, read_requests
from flows.verdicts import TABLE as VERDICTS

TABLE = "messages"
METRICS = Path("metrics") / "incidents.prom"
RUN = "run"  # the channel that is always there: log and artifact of the run
OPENED, CLEARED = "opened", "cleared"
LASTS = timedelta(days=400)  # an incident stands in the Alertmanager until it is cleared
REASONS = 12  # in a message; all of them are in the verdict

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Message:
    """What is said about an incident: that it opened or was cleared, in words, with links by name."""

    incident: str
    kind: str
    problem: str
    subject: str
    body: str
    since: datetime
    links: Mapping[str, str]


Send = Callable[[Message], None]
Link = Callable[[JudgedWindow], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Told:
    """What one look at the verdicts led to: messages now done, and why others are not."""

    sent: tuple[Message, ...] = ()
    failed: tuple[str, ...] = ()
    open: tuple[str, ...] = ()


def tell_incidents(lake: Lake, problem: str, channels: Mapping[str, Send], link: Link, folder: Path) -> Told:
    """Send what the verdicts in the lake give cause for and was not yet sent over each channel.

    A message is done once every channel took it. Until then later ones wait, so that no all-clear comes
    before what it clears; the next call goes on with the channels that lack it.
    """
    with _alone(folder):
        windows = read_windows(lake)
        incidents = find_incidents(problem, windows)
        said = _read_said(lake)
        sent, failed = [], []
        for message in list_messages(lake, problem, incidents, windows, said, link):
            try:
                _send(lake, message, channels, said)
            except NotificationFailed as error:
                failed.append(str(error))
                logger.error("%s", error)
                break
            sent.append(message)
        open_now = tuple(incident.id for incident in incidents if incident.cleared is None)
        _write_metrics(folder / METRICS, problem, len(open_now), len(failed))
    return Told(tuple(sent), tuple(failed), open_now)


def read_windows(lake: Lake) -> list[JudgedWindow]:
    """Return every verdict in the lake as far as incidents ask of it."""
    table = lake.read(VERDICTS)
    if not table.width:
        return []
    names = ("key", "model_version", "window_until", "breaches", "reasons", "quality_state")
    return [
        JudgedWindow(key, version, until, tuple(json.loads(b)), tuple(json.loads(r)), state != "unknown")
        for key, version, until, b, r, state in table.select(names).iter_rows()
    ]


def list_messages(
    lake: Lake,
    problem: str,
    incidents: Sequence[Incident],
    windows: Sequence[JudgedWindow],
    said: set[tuple[str, str, str]],
    link: Link,
) -> list[Message]:
    """Return the messages that are not done, in the order in which to send them."""
    known = {incident.id for incident in incidents}
    messages = []
    for gone in sorted({i for i, kind, _ in said if kind == OPENED and i not in known}):
        if (gone, CLEARED, RUN) not in said and gone.startswith(f"{problem}/"):
            latest = max(windows, key=lambda w: w.until)
            messages.append(_withdraw(problem, gone, latest, link))
    for incident in incidents:
        if (incident.id, OPENED, RUN) not in said:
            messages.append(_open(lake, problem, incident, link))
        if incident.cleared is not None and (incident.id, CLEARED, RUN) not in said:
            messages.append(_clear(problem, incident, incident.cleared, link))
    return messages


def build_channels(settings: Settings) -> dict[str, Send]:
    """Return the ways out that the settings name, and the run itself, by name."""
    channels: dict[str, Send] = {}
    if settings.notify_block:
        channels[settings.notify_block] = lambda message: send_by_block(settings.notify_block, message)
    if settings.notify_alertmanager:
        channels["alertmanager"] = lambda message: send_to_alertmanager(settings.alertmanager_url, message)
    return {**channels, RUN: send_to_run}


def send_by_block(block: str, message: Message) -> None:
    """Hand a message to a Prefect notification block. Raises NotificationFailed if it is not taken."""
    from prefect.blocks.core import Block

    try:
        notifier: Any = Block.load(block)
        with notifier.raise_on_failure():  # Apprise's would only log it
            notifier.notify(message.body, subject=message.subject)
    except Exception as error:  # every kind of block has its own
        raise _failed(message, f"block {block}", error, "Look at the block in the Prefect UI.") from error


def send_to_alertmanager(url: str, message: Message) -> None:
    """Raise or resolve the incident's alert. Raises NotificationFailed if it is not taken."""
    import httpx

    now = datetime.now(UTC)
    alert = {
        "labels": {
            "alertname": "PerennialIncident",
            "problem": message.problem,
            "incident": message.incident,  # what Alertmanager groups by: one incident, one message
            "severity": "ticket",  # as the rules' own alerts of the model have it
        },
        "annotations": {"summary": message.subject, "description": message.body},
        "generatorURL": message.links.get("Prefect run", ""),
        "startsAt": (now - timedelta(seconds=1)).isoformat(),
        "endsAt": (now + LASTS if message.kind == OPENED else now).isoformat(),
    }
    try:
        httpx.post(f"{url}/api/v2/alerts", json=[alert], timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        raise _failed(message, f"Alertmanager at {url}", error, "Look whether it runs.") from error


def send_to_run(message: Message) -> None:
    """Show a message beside the run, and in its log."""
    from flows.summary import publish

    logger.warning("%s (%s)", message.subject, message.incident)
    publish("incident", f"# {message.subject}\n\n{message.body}", f"Incident {message.incident}")


def _send(
    lake: Lake, message: Message, channels: Mapping[str, Send], said: set[tuple[str, str, str]]
) -> None:
    # The run comes last: its row says that the message is done.
    for channel in sorted(channels, key=lambda name: name == RUN):
        mark = (message.incident, message.kind, channel)
        if mark not in said:
            channels[channel](message)
            _record(lake, *mark)
            said.add(mark)


def _open(lake: Lake, problem: str, incident: Incident, link: Link) -> Message:
    window, signals = incident.opened, ", ".join(incident.signals)
    asked = window.key in read_requests(lake, window.version)
    verdict = "a retrain was asked for" if asked else "no retrain was asked for"
    subject = f"{problem}: {signals} of model v{window.version}; {verdict}"
    return _write(problem, incident.id, OPENED, subject, incident.reasons, window, link)


def _clear(problem: str, incident: Incident, window: JudgedWindow, link: Link) -> Message:
    subject = f"{problem}: all clear, {', '.join(incident.signals)} well again"
    told = f"open since {incident.opened.until:%Y-%m-%d}, {incident.windows} windows"
    reasons = (f"{told}; model v{incident.opened.version} then, v{window.version} now", *window.reasons)
    return _write(problem, incident.id, CLEARED, subject, reasons, window, link)


def _withdraw(problem: str, incident: str, window: JudgedWindow, link: Link) -> Message:
    subject = f"{problem}: all clear, the windows were judged anew"
    reasons = ("with what is known now these windows are no incident, or one that opened elsewhere",)
    return _write(problem, incident, CLEARED, subject, reasons, window, link)


def _write(
    problem: str,
    incident: str,
    kind: str,
    subject: str,
    reasons: Sequence[str],
    window: JudgedWindow,
    link: Link,
) -> Message:
    links = link(window)
    lines = [f"Window until {window.until:%Y-%m-%d %H:%M} UTC", *(f"- {r}" for r in reasons[:REASONS])]
    if len(reasons) > REASONS:
        lines.append(f"- and {len(reasons) - REASONS} more, in the verdict")
    lines += [f"{name}: {url}" for name, url in links.items() if url]
    body = "\n".join((*lines, f"Incident: {incident}"))
    return Message(incident, kind, problem, subject, body, window.until, links)


def _read_said(lake: Lake) -> set[tuple[str, str, str]]:
    table = lake.read(TABLE)
    return set(table.select("incident", "kind", "channel").iter_rows()) if table.width else set()


def _record(lake: Lake, incident: str, kind: str, channel: str) -> None:
    row = {
        "id": f"{incident}/{kind}/{channel}",
        "incident": incident,
        "kind": kind,
        "channel": channel,
        "sent_at": datetime.now(UTC),
    }
    frame = pl.DataFrame([row], schema_overrides={"sent_at": INSTANT})
    lake.replace_where(TABLE, frame, "id", str(row["id"]))


def _write_metrics(path: Path, problem: str, opened: int, failed: int) -> None:
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    into = CollectorRegistry()
    for name, told, value in (
        ("perennial_incidents_open", "1 while an incident is open.", opened),
        ("perennial_notifications_failing", "1 while a message waits for a channel that fails.", failed),
    ):
        Gauge(name, told, ("problem",), registry=into).labels(problem).set(value)
    write_atomically(path, generate_latest(into).decode())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one run at a time tell what there is to tell: two would say it twice."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "notify.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # falls with the process
        yield


def _failed(message: Message, subject: str, error: Exception, look: str) -> NotificationFailed:
    return NotificationFailed(
        f"message about {message.incident} through {subject}",
        got=f"{type(error).__name__}: {str(error)[:300]}",
        expected="that it is taken",
        next_step=f"{look} The next run of the monitor sends it again.",
    )
