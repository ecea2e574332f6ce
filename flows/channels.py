"""The ways out for messages about incidents: the run itself, a Prefect block, an Alertmanager."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from feature_repo.errors import NotificationFailed
from feature_repo.settings import Settings

RUN = "run"  # the channel that is always there: log and artifact of the run
OPENED, CLEARED = "opened", "cleared"
LASTS = timedelta(days=400)  # an incident stands in the Alertmanager until it is cleared
NOTICED = timedelta(minutes=2)  # longer than an Alertmanager waits before it tells of an alert

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Message:
    """What is said about an incident: that it opened or was cleared, in words, with links by name.

    over    it was cleared before it could be told
    opened  when the channel last took that it opened, if it did
    """

    incident: str
    kind: str
    problem: str
    subject: str
    body: str
    since: datetime
    links: Mapping[str, str]
    severity: str = "ticket"
    over: bool = False
    opened: datetime | None = None


Send = Callable[[Message], None]


@dataclass(frozen=True, slots=True)
class Channel:
    """A way out. One that `forgets` is told by each run what is open: an Alertmanager keeps it in memory."""

    send: Send
    forgets: bool = False


def build_channels(settings: Settings) -> dict[str, Channel]:
    """Return the ways out that the settings name, and the run itself, by name."""
    channels, url = {RUN: Channel(send_to_run)}, settings.alertmanager_url
    if settings.notify_block:
        channels[settings.notify_block] = Channel(lambda told: send_by_block(settings.notify_block, told))
    if settings.notify_alertmanager:
        channels["alertmanager"] = Channel(lambda told: send_to_alertmanager(url, told), forgets=True)
    return channels


def send_by_block(block: str, message: Message) -> None:
    """Hand a message to a Prefect notification block. Raises NotificationFailed if it is not taken."""
    from prefect.blocks.core import Block

    try:
        notifier: Any = Block.load(block)
        with notifier.raise_on_failure():  # Apprise's would only log it
            notifier.notify(message.body, subject=message.subject)
    except Exception as error:  # every kind of block has its own
        raise _failed(message, f"block {block}", error, "Look at the block in the Prefect UI.") from error


def send_to_alertmanager(url: str, message: Message, noticed: timedelta = NOTICED) -> None:
    """Raise or resolve the incident's alert. Raises NotificationFailed if it is not taken.

    An Alertmanager that was started anew knows no alert, and tells of no end of what it does not know. There
    the alert is raised once more, to end by itself once it was noticed.
    """
    import httpx

    now = datetime.now(UTC)
    try:
        with httpx.Client(base_url=url, timeout=10) as client:
            ends = now + (noticed if message.over else LASTS)
            if message.kind == CLEARED:
                chosen = _choose_end(client, message, now, noticed)
                if chosen is None:
                    return
                ends = chosen
            alert = _write_alert(message, now, ends)
            client.post("/api/v2/alerts", json=[alert]).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise _failed(message, f"Alertmanager at {url}", error, "Look whether it runs.") from error


def _choose_end(client: Any, message: Message, now: datetime, noticed: timedelta) -> datetime | None:
    """Return when the alert is to end, or None if it has ended, or does so by itself."""
    wanted = {"filter": f'incident="{message.incident}"'}
    known = client.get("/api/v2/alerts", params=wanted).raise_for_status().json()
    if known:
        left = datetime.fromisoformat(known[0]["endsAt"]) - now
        return None if left <= noticed else now
    started = client.get("/api/v2/status").raise_for_status().json()["uptime"]
    lost = datetime.fromisoformat(started) > (message.opened or now)
    return now + noticed if lost else None


def _write_alert(message: Message, now: datetime, ends: datetime) -> dict[str, Any]:
    return {
        "labels": {
            "alertname": "PerennialIncident",
            "problem": message.problem,
            "incident": message.incident,  # what Alertmanager groups by: one incident, one message
            "severity": message.severity,
        },
        "annotations": {"summary": message.subject, "description": message.body},
        "generatorURL": message.links.get("Prefect run", ""),
        "startsAt": (now - timedelta(seconds=1)).isoformat(),
        "endsAt": ends.isoformat(),
    }


def send_to_run(message: Message) -> None:
    """Show a message in the run's log, and beside the run. Raises NotificationFailed if it is not taken."""
    from flows.summary import publish

    logger.warning("%s (%s)", message.subject, message.incident)
    try:
        publish("incident", f"# {message.subject}\n\n{message.body}", f"Incident {message.incident}")
    except Exception as error:  # Prefect's client has many
        raise _failed(message, "the run's artifact", error, "Look at the Prefect server.") from error


def _failed(message: Message, subject: str, error: Exception, look: str) -> NotificationFailed:
    return NotificationFailed(
        f"message about {message.incident} through {subject}",
        got=f"{type(error).__name__}: {str(error)[:300]}",
        expected="that it is taken",
        next_step=f"{look} The next run of the monitor sends it again.",
    )
