"""Messages about incidents: one when it opens, one when all is well again, each with reasons and links.

What to say follows from the verdicts in the lake, and what was said is kept beside them, so that a killed
run is made good by the next one. A message is recorded after it was taken: killed in between, it is sent
once more under the same incident id. At least once, then, and told apart by the id. Each channel has an
order of its own: one that fails keeps no other one waiting.
"""

import fcntl
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from feature_repo.errors import NotificationFailed
from feature_repo.lake import Lake, write_atomically
from flows.channels import CLEARED, OPENED, RUN, Channel, Message
from flows.policy.incident import EARLY_SIGNS, Incident, JudgedWindow, find_all_incidents
from flows.policy.trigger import DAY, WEEK, name_length
from flows.verdicts import INSTANT, read_requests
from flows.verdicts import TABLE as VERDICTS

TABLE = "messages"
METRICS = Path("metrics") / "incidents.prom"
DONE = "done"  # no channel: all that there were took the message
SEVERITIES = {WEEK: "ticket", DAY: "info"}  # as the alerts of the rules have it
REASONS = 12  # in a message; all of them are in the verdict

logger = logging.getLogger(__name__)

Said = dict[tuple[str, str, str], datetime]  # incident, kind, channel: when
Link = Callable[[JudgedWindow], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Told:
    """What one look at the verdicts led to: messages now done, and why channels lack others."""

    sent: tuple[Message, ...] = ()
    failed: tuple[str, ...] = ()
    open: tuple[str, ...] = ()


def tell_incidents(
    lake: Lake, problem: str, channels: Mapping[str, Channel], link: Link, folder: Path
) -> Told:
    """Send what the verdicts give cause for and was not sent over each channel yet, the run first.

    A message is done once every channel took it. A channel that refuses one gets no later one, so that no
    all-clear comes before what it clears; the next call goes on where it stopped. The others go on now.
    """
    with _alone(folder):
        windows, said = read_windows(lake), _read_said(lake)
        incidents = find_all_incidents(problem, windows)
        messages = list_messages(lake, problem, incidents, windows, said, link)
        standing = [_open(lake, problem, i, link) for i in incidents if i.cleared is None]
        failed: dict[str, str] = {}
        for name in sorted(channels, key=lambda name: name != RUN):
            try:
                _send(lake, name, channels[name], messages, standing, said)
            except NotificationFailed as error:
                failed[name] = str(error)
                logger.error("%s", error)
        sent = _finish(lake, messages, channels, said)
        _write_metrics(folder / METRICS, problem, incidents, windows, {n: n in failed for n in channels})
    return Told(sent, tuple(failed.values()), tuple(message.incident for message in standing))


def read_windows(lake: Lake) -> list[JudgedWindow]:
    """Return every verdict on a week or a day in the lake, as far as incidents ask of it."""
    table = lake.read(VERDICTS)
    if not table.width:
        return []
    return [_read_week(row) if kind == WEEK else _read_day(row) for kind, row in _name_kinds(table) if kind]


def _name_kinds(table: pl.DataFrame) -> Iterator[tuple[str, dict[str, Any]]]:
    for row in table.iter_rows(named=True):
        yield name_length(row["window_until"] - row["window_since"]), row


def _read_week(row: Mapping[str, Any]) -> JudgedWindow:
    """A week counts by what asks for a retrain; with its labels it could tell."""
    breaches, reasons = tuple(json.loads(row["breaches"])), tuple(json.loads(row["reasons"]))
    told = row["quality_state"] != "unknown"
    return JudgedWindow(row["key"], row["model_version"], row["window_until"], breaches, reasons, told)


def _read_day(row: Mapping[str, Any]) -> JudgedWindow:
    """A day counts by its early signs; if its inputs were compared it could tell."""
    signals = json.loads(row.get("signals") or "[]")
    odd = [one for one in signals if one["state"] == "alarm" and one["name"] in EARLY_SIGNS]
    alarms = tuple(one["name"] for one in odd)
    why = tuple(f"{one['name']}: {one['reason']}" for one in odd)
    told = any(one["name"] == "inputs" and one["state"] != "unknown" for one in signals)
    reasons = (*why, *json.loads(row["reasons"]))
    return JudgedWindow(row["key"], row["model_version"], row["window_until"], alarms, reasons, told, DAY)


def list_messages(
    lake: Lake,
    problem: str,
    incidents: Sequence[Incident],
    windows: Sequence[JudgedWindow],
    said: Said,
    link: Link,
) -> list[Message]:
    """Return the messages that are not done, in the order in which to send them."""
    known = {incident.id for incident in incidents}
    kinds = {f"{problem}/{window.key}": window.kind for window in windows}
    messages = []
    for gone in sorted({i for i, kind, _ in said if kind == OPENED and i not in known}):
        if windows and (gone, CLEARED, DONE) not in said and gone.startswith(f"{problem}/"):
            latest = replace(max(windows, key=lambda w: w.until), kind=kinds.get(gone, WEEK))
            messages.append(_withdraw(problem, gone, latest, link))
    for incident in incidents:
        if (incident.id, OPENED, DONE) not in said:
            messages.append(_open(lake, problem, incident, link))
        if incident.cleared is not None and (incident.id, CLEARED, DONE) not in said:
            messages.append(_clear(problem, incident, incident.cleared, link))
    return messages


def _send(
    lake: Lake,
    name: str,
    channel: Channel,
    messages: Sequence[Message],
    standing: Sequence[Message],
    said: Said,
) -> None:
    """Send one channel what it lacks, in order; and what is open again, if it forgets."""
    fresh = set()
    for message in messages:
        mark, opened = (message.incident, message.kind, name), said.get((message.incident, OPENED, name))
        # The end of what it was never told of is nothing to a channel.
        if mark not in said and (message.kind == OPENED or opened):
            channel.send(replace(message, opened=opened))
            said[mark] = _record(lake, *mark)
            fresh.add(message.incident)
    for message in standing if channel.forgets else ():
        mark = (message.incident, OPENED, name)
        if mark in said and message.incident not in fresh:
            channel.send(message)
            said[mark] = _record(lake, *mark)


def _finish(
    lake: Lake, messages: Sequence[Message], channels: Mapping[str, Channel], said: Said
) -> tuple[Message, ...]:
    """Mark the messages that every channel took, and return them; the end waits for the beginning."""
    done, waiting = [], set()
    for message in messages:
        lacking = [
            name
            for name in channels
            if (message.incident, message.kind, name) not in said
            and (message.kind == OPENED or (message.incident, OPENED, name) in said)
        ]
        if lacking or message.incident in waiting:
            waiting.add(message.incident)
            continue
        mark = (message.incident, message.kind, DONE)
        said[mark] = _record(lake, *mark)
        done.append(message)
    return tuple(done)


def _open(lake: Lake, problem: str, incident: Incident, link: Link) -> Message:
    window, signals = incident.opened, ", ".join(incident.signals)
    asked = window.key in read_requests(lake, window.version)
    verdict = "a retrain was asked for" if asked else "no retrain was asked for"
    if window.kind == DAY:
        verdict = "an early sign of one day, on which no retrain is decided"
    subject = f"{problem}: {signals} of model v{window.version}; {verdict}"
    message = _write(problem, incident.id, OPENED, subject, incident.reasons, window, link)
    return replace(message, over=incident.cleared is not None)


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
    body, severity = "\n".join((*lines, f"Incident: {incident}")), SEVERITIES[window.kind]
    return Message(incident, kind, problem, subject, body, window.until, links, severity)


def _read_said(lake: Lake) -> Said:
    table = lake.read(TABLE)
    if not table.width:
        return {}
    names = ("incident", "kind", "channel", "sent_at")
    return {(incident, kind, channel): at for incident, kind, channel, at in table.select(names).iter_rows()}


def _record(lake: Lake, incident: str, kind: str, channel: str) -> datetime:
    now = datetime.now(UTC)
    row = {
        "id": f"{incident}/{kind}/{channel}",
        "incident": incident,
        "kind": kind,
        "channel": channel,
        "sent_at": now,
    }
    frame = pl.DataFrame([row], schema_overrides={"sent_at": INSTANT})
    lake.replace_where(TABLE, frame, "id", str(row["id"]))
    return now


def _write_metrics(
    path: Path,
    problem: str,
    incidents: Sequence[Incident],
    windows: Sequence[JudgedWindow],
    failing: Mapping[str, bool],
) -> None:
    """Tell what is open by kind of window and signal, and which channels fail; 0 where it was once 1."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    into = CollectorRegistry()
    told = "1 while an incident of such windows with this signal is open."
    opened = Gauge("perennial_incident_open", told, ("problem", "window", "signal"), registry=into)
    for kind, signal in {(w.kind, signal) for w in windows for signal in w.breaches}:
        opened.labels(problem, kind, signal).set(0)
    for incident in incidents:
        for signal in incident.signals if incident.cleared is None else ():
            opened.labels(problem, incident.opened.kind, signal).set(1)
    told = "1 while a message about an incident waits for this channel, which fails."
    waits = Gauge("perennial_notifications_failing", told, ("problem", "channel"), registry=into)
    for channel, fails in failing.items():
        waits.labels(problem, channel).set(fails)
    write_atomically(path, generate_latest(into).decode())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one run at a time tell what there is to tell: two would say it twice."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "notify.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # falls with the process
        yield
