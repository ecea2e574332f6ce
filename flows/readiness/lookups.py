"""Looks that many questions share: a test that passed, a run, a deployment, a rule, a metric, an artifact.

A look that cannot be taken, because somebody does not answer say, holds nothing: it says why.
"""

from collections.abc import Callable
from dataclasses import dataclass

from feature_repo.errors import PerennialError
from flows.policy.readiness import Finding
from flows.readiness.records import ROOT, TestRecord
from flows.readiness.sources import Sources

Look = Callable[[Sources], Finding]
START = "Start the stack with `perennial up`."


@dataclass(frozen=True)
class Question:
    """A test of the rubric, or a line of the checklist, and what is looked up for it.

    automated   what must hold for a whole point: it runs by itself, and ran
    documented  what is enough for half a point: it was done, and the result is written down
    """

    text: str
    automated: tuple[Look, ...]
    documented: tuple[Look, ...] = ()


def take(look: Look, sources: Sources) -> Finding:
    """Return what a look finds; one that fails finds nothing, and says why."""
    import httpx
    import polars as pl

    malformed = (ValueError, KeyError, TypeError, IndexError, AttributeError, pl.exceptions.PolarsError)
    try:
        return look(sources)
    except httpx.HTTPStatusError as error:
        told = f"{error.request.url} answered {error.response.status_code}"
        return Finding(False, told, "", "It is not there yet, or that server is in trouble: open it and see.")
    except httpx.HTTPError as error:
        return Finding(False, f"{error.request.url} does not answer", "", START)
    except PerennialError as error:
        return Finding(False, f"{error.subject}: {error.got}", "", error.next_step)
    except (OSError, *malformed) as error:
        return Finding(
            False,
            f"cannot be read ({type(error).__name__}: {error})",
            "",
            f"Look at {sources.settings.home / 'logs'}.",
        )


@dataclass(frozen=True)
class TestsPassed:
    """Look whether tests passed on today's code; a name may be a file, a test, or all its parameters."""

    __test__ = False

    names: tuple[str, ...]

    def __call__(self, sources: Sources) -> Finding:
        """Return what became of them."""
        files = list(dict.fromkeys(name.partition("::")[0] for name in self.names))
        again = f"Run .venv/bin/python -m pytest {' '.join(files)}"
        found = {name: _match(sources.tests, name) for name in self.names}
        if lacking := [name for name in self.names if not found[name]]:
            told = lacking[0] + (f" and {len(lacking) - 1} more" if lacking[1:] else "")
            return Finding(False, f"no record of {told}", "", again)
        records = [record for name in self.names for record in found[name]]
        if bad := [one for one in records if one.outcome != "passed"]:
            return Finding(False, f"{bad[0].test} {bad[0].outcome} at {bad[0].at}", "", again)
        oldest = min(records, key=lambda one: one.at)
        told = f"{_count(records)} passed on commit {oldest.commit[:10]} at {oldest.at}"
        if any(one.code != sources.code for one in records):
            return Finding(False, f"{told}; the code has changed since", "", again)
        return Finding(True, told, " ".join(str(ROOT / file) for file in files))


def passed(*names: str) -> TestsPassed:
    """Look whether these tests passed on today's code."""
    return TestsPassed(names)


def _match(tests: dict[str, TestRecord], name: str) -> list[TestRecord]:
    return [one for test, one in tests.items() if test == name or test.startswith((f"{name}[", f"{name}::"))]


def _count(found: list[TestRecord]) -> str:
    return found[0].test.partition("::")[2] if len(found) == 1 else f"{len(found)} tests"


def ran(*flows: str, next_step: str = "") -> Look:
    """Look for a completed run of one of the flows."""

    def look(sources: Sources) -> Finding:
        found = [run for run in sources.runs if run["flow"] in flows]
        if not found:
            advice = next_step or f"Run {flows[0]} in the Prefect UI: {sources.settings.prefect_url}"
            return Finding(False, f"no completed run of {' or '.join(flows)}", "", advice)
        newest = found[0]
        place = f"{sources.settings.prefect_url}/runs/flow-run/{newest['id']}"
        return Finding(True, f"{newest['flow']} completed at {newest['end_time'][:19]}", place)

    return look


def deployed(name: str, *, scheduled: bool = False) -> Look:
    """Look whether Prefect holds the deployment, not paused and, if wanted, with an active schedule."""

    def look(sources: Sources) -> Finding:
        one = sources.deployments.get(name)
        if one is None or one["paused"]:
            why = "is paused" if one else "is not there"
            return Finding(False, f"deployment {name} {why}", "", START)
        schedules = [told["schedule"].get("cron") for told in one["schedules"] if told["active"]]
        if scheduled and not schedules:
            advice = "Switch one on in the Prefect UI, or set PERENNIAL_SCHEDULES=true."
            return Finding(False, f"deployment {name} has no active schedule", "", advice)
        place = f"{sources.settings.prefect_url}/deployments/deployment/{one['id']}"
        return Finding(
            True, f"deployment {name}" + (f", schedule {schedules[0]}" if schedules else ""), place
        )

    return look


def automation(beginning: str) -> Look:
    """Look whether Prefect holds an enabled automation whose name begins so."""

    def look(sources: Sources) -> Finding:
        found = {name: one for name, one in sources.automations.items() if name.startswith(beginning)}
        live = {name: one for name, one in found.items() if one["enabled"]}
        if not live:
            return Finding(False, f"no enabled automation {beginning}", "", START)
        name, one = next(iter(live.items()))
        place = f"{sources.settings.prefect_url}/automations/automation/{one['id']}"
        return Finding(True, f"automation {name!r}", place)

    return look


def alerted(*names: str) -> Look:
    """Look whether Prometheus holds the alert rules now, and can evaluate them."""

    def look(sources: Sources) -> Finding:
        place = f"{sources.settings.prometheus_url}/rules"
        bad = [name for name in names if sources.rules.get(name) in (None, "err")]
        if bad:
            return Finding(False, f"not loaded, or broken: {', '.join(bad)}", "", f"Look at {place}")
        return Finding(True, f"rules {', '.join(names)} are loaded", place)

    return look


def counted(name: str, *, data: bool = False, positive: bool = False) -> Look:
    """Look for a metric of the service, or of data and model as the reports serve them."""

    def look(sources: Sources) -> Finding:
        url = sources.settings.reports_url if data else sources.settings.service_url
        value = (sources.data_metrics if data else sources.service_metrics).get(name)
        if value is None or (positive and value <= 0):
            found = f"{name} is {'absent' if value is None else value} at {url}/metrics"
            return Finding(False, found, "", "Send requests, or run the daily loop.")
        return Finding(True, f"{name} {value:g}", f"{url}/metrics")

    return look


def tagged(key: str, want: str = "") -> Look:
    """Look for a tag of the champion."""

    def look(sources: Sources) -> Finding:
        version, value = sources.champion, sources.versions[sources.champion].get(key, "")
        if not value or (want and value != want):
            found = f"version {version} has {key} {value or 'not set'}"
            return Finding(False, found, "", f"Train again; wanted: {want or 'a value'}")
        return Finding(True, f"version {version}: {key} {value[:60]}", sources.name_version(version))

    return look


def kept(path: str) -> Look:
    """Look for an artifact of the champion's run."""

    def look(sources: Sources) -> Finding:
        place = sources.name_artifact(sources.champion, path)
        return Finding(bool(sources.fetch(place).strip()), f"{path} of version {sources.champion}", place)

    return look


def gate_held(*words: str) -> Look:
    """Look whether the champion's gate card has such checks, and all of them held."""

    def look(sources: Sources) -> Finding:
        version = sources.champion
        checks = [c for c in sources.read_gate(version)["checks"] if any(w in c["name"] for w in words)]
        bad = [c["name"] for c in checks if not c["passed"]]
        if not checks or bad:
            found = f"version {version}: {', '.join(bad) or 'no check of ' + words[0]}"
            return Finding(False, found, "", "Read its gate card: gate.md of its MLflow run.")
        told = checks[0]["name"] if len(checks) == 1 else f"{len(checks)} checks ({words[0]} ...)"
        return Finding(
            True, f"gate of version {version}: {told} held", sources.name_artifact(version, "gate.md")
        )

    return look
