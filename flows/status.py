"""What runs, what serves and why, how fresh everything is, what was judged, what fires and what waits.

Asked of those who answer within moments: the service, /metrics, Prometheus, and files of the home. No lake is
opened, so that it can be asked every few seconds.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from feature_repo.settings import Settings
from flows.local.children import fetch
from flows.local.stack import Stack, check_health, read_live, read_stack

PATIENCE = 2.0  # seconds
LANDED = "perennial_data_until_timestamp_seconds"
BUILT = "perennial_features_until_timestamp_seconds"
JUDGED = "perennial_verdict_info"
UNTIL = "perennial_verdict_until_timestamp_seconds"
BREACH = "perennial_breach"
OURS = "ChampionMissing"  # a rule that no other Prometheus on this machine knows
QUEUES = {
    "waiting for an answer": "perennial_waiting_rows",
    "waiting for the journal's disk": "perennial_journal_waiting_rows",
    "not asked of the challenger, so far": "perennial_shadow_dropped_total",
}


@dataclass(frozen=True, slots=True)
class Serving:
    """What answers: the version, since when, why it does, and what stands beside it."""

    champion: str | None
    previous: str | None
    challenger: str | None
    since: str
    why: str


@dataclass(frozen=True, slots=True)
class Age:
    """Up to when a table is there, and how far that lies behind the newest of all, in logical time."""

    table: str
    kind: str  # "data" or "features"
    until: str
    behind_hours: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The newest verdict on a week or a day of answers."""

    window: str
    version: str
    until: str
    quality: str
    breaches: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that fires now."""

    name: str
    severity: str
    since: str
    what: str


@dataclass(frozen=True, slots=True)
class Status:
    """All of it. `alerts` is None where no Prometheus answers; `queues` holds what could be asked."""

    home: str
    stack: Stack | None
    health: Mapping[str, bool]
    live: Mapping[str, Any] | None
    serving: Serving | None
    ages: tuple[Age, ...]
    verdicts: tuple[Verdict, ...]
    alerts: tuple[Alert, ...] | None
    queues: Mapping[str, int]

    @property
    def running(self) -> bool:
        """Whether there is a stack at work."""
        return self.stack is not None and self.stack.running

    @property
    def good(self) -> bool:
        """Whether all that somebody waits for answers."""
        return self.stack is not None and all(
            self.health[one.name] for one in self.stack.services if not one.background
        )


def read_status(settings: Settings) -> Status:
    """Ask everybody once."""
    from flows.local.watched_stack import attach_monitoring

    stack = read_stack(settings.home)
    stack = attach_monitoring(settings, stack) if stack else None
    if stack is None or not stack.running:
        health = check_health(stack) if stack else {}
        return Status(str(settings.home), stack, health, None, None, (), (), None, {})
    live = read_live(settings)
    data = read_samples(fetch(f"{settings.reports_url}/metrics", PATIENCE))
    return Status(
        home=str(settings.home),
        stack=stack,
        health=check_health(stack),
        live=live,
        serving=read_serving(settings, live) if live else None,
        ages=list_ages(data),
        verdicts=list_verdicts(data),
        alerts=read_alerts(settings),
        queues=count_queues(settings),
    )


def read_serving(settings: Settings, live: Mapping[str, Any]) -> Serving:
    """Return what the service says that it serves, and why, as the record of moves has it."""
    from flows.releasing.release_state import ReleaseState

    champion, why = live.get("champion"), str(live.get("reason", ""))
    known = (settings.home / "releases").is_dir()  # asking makes it, and a look changes nothing
    moves = ReleaseState(settings.home).moves() if known else []
    moves = [one for one in moves if one.alias == "champion"]
    if champion and moves and str(moves[-1].after) == str(champion):
        last = moves[-1]
        why = f"{last.reason} ({last.how}, by {last.who}, at {last.at[:19]})"
    elif champion and why == "ok":
        why = "the alias champion names it"
    return Serving(
        champion=str(champion) if champion else None,
        previous=str(live["previous"]) if live.get("previous") else None,
        challenger=str(live["challenger"]) if live.get("challenger") else None,
        since=str(live.get("champion_since") or live.get("since", "")),
        why=why,
    )


Samples = list[tuple[str, dict[str, str], float]]


def read_samples(text: bytes | None) -> Samples:
    """Return the samples of a page of metrics: name, labels, value; none if there is no page."""
    from prometheus_client.parser import text_string_to_metric_families

    families = text_string_to_metric_families((text or b"").decode())
    return [(s.name, dict(s.labels), s.value) for family in families for s in family.samples]


def list_ages(data: Samples) -> tuple[Age, ...]:
    """Return how far each table has come, raw ones first, and how far behind the newest raw one that is."""
    found = [
        (labels["table"], "data" if name == LANDED else "features", value)
        for name, labels, value in data
        if name in (LANDED, BUILT)
    ]
    newest = max((value for _, kind, value in found if kind == "data"), default=0.0)
    return tuple(
        Age(table, kind, _tell(value), round(max(newest - value, 0.0) / 3_600, 1))
        for table, kind, value in sorted(found, key=lambda one: (one[1], one[0]))
    )


def list_verdicts(data: Samples) -> tuple[Verdict, ...]:
    """Return the newest verdict of each length of window."""
    until = {labels["window"]: value for name, labels, value in data if name == UNTIL}
    breaches: dict[str, list[str]] = {}
    for name, labels, value in data:
        if name == BREACH and value:
            breaches.setdefault(labels["window"], []).append(labels["signal"])
    return tuple(
        Verdict(
            labels["window"],
            labels["version"],
            _tell(until.get(labels["window"], 0.0)),
            labels["quality_state"],
            tuple(breaches.get(labels["window"], ())),
        )
        for name, labels, _ in data
        if name == JUDGED
    )


def read_alerts(settings: Settings) -> tuple[Alert, ...] | None:
    """Return what fires in Prometheus; None if none answers, or one that knows nothing of our rules."""
    known = fetch(f"{settings.prometheus_url}/api/v1/rules?type=alert", PATIENCE)
    answer = fetch(f"{settings.prometheus_url}/api/v1/alerts", PATIENCE)
    if known is None or answer is None:
        return None
    if OURS not in {rule["name"] for group in json.loads(known)["data"]["groups"] for rule in group["rules"]}:
        return None
    return tuple(
        Alert(
            one["labels"]["alertname"],
            one["labels"].get("severity", ""),
            one["activeAt"][:19],
            one["annotations"].get("summary", ""),
        )
        for one in json.loads(answer)["data"]["alerts"]
        if one["state"] == "firing"
    )


def count_queues(settings: Settings) -> dict[str, int]:
    """Return what waits: in the service, and as dead letters that nobody sent again."""
    from services.journal_sqlite import SqliteTables

    samples = read_samples(fetch(f"{settings.service_url}/metrics", PATIENCE))
    found = {
        words: int(sum(value for name, _, value in samples if name == metric))
        for words, metric in QUEUES.items()
        if samples
    }
    letters = SqliteTables(settings.home / "journal" / "journal.db").count_dead_letters()
    found["dead letters that wait"] = sum(count - replayed for _, _, count, replayed in letters)
    return found


def describe(status: Status) -> dict[str, Any]:
    """Return the status as plain values, for programs."""
    services = status.stack.services if status.stack else ()
    return {
        "home": status.home,
        "phase": status.stack.phase if status.stack else "never started",
        "services": {
            one.name: {
                "state": one.state,
                "answers": status.health[one.name],
                "url": one.url,
                "pid": one.pid,
                "restarts": one.restarts,
                "log": str(one.log),
            }
            for one in services
        },
        "live": status.live,
        "serving": asdict(status.serving) if status.serving else None,
        "freshness": [asdict(one) for one in status.ages],
        "verdicts": [asdict(one) for one in status.verdicts],
        "alerts": None if status.alerts is None else [asdict(one) for one in status.alerts],
        "queues": dict(status.queues),
    }


def _tell(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
