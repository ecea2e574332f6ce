"""Retention: small files become large ones, and files that no needed version uses are deleted.

A table version is needed if a snapshot names it that a registered model, or a run that is not deleted in
MLflow, was trained on; if features were put online from it in the last `keep_days`, so that answers of
that time replay; and if it is the newest. Whatever cannot be asked counts as needed.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from feature_repo.errors import NotEnoughData, PerennialError, RegistryUnavailable
from feature_repo.lake import Lake
from feature_repo.materializations import Materialization, Materializations
from flows.project import Project

KEEP_DAYS = 90
GRACE_HOURS = 24  # files and snapshots younger than this may be in use by something that is not logged yet
PAGE = 1_000
TAG = "perennial.snapshot"
UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "ENDPOINT_NOT_FOUND")


@dataclass(frozen=True)
class TableUpkeep:
    """What became of one table: its files on disk and how many of its versions stay readable.

    bytes_freed   negative if a compaction wrote more than could be deleted, as needed versions hold the rest
    """

    table: str
    compacted: bool
    files_before: int
    files_after: int
    bytes_freed: int
    versions_kept: int


@dataclass(frozen=True)
class Upkeep:
    """What became of the lake; `not_vacuumed` says why nothing was deleted, or is empty."""

    tables: tuple[TableUpkeep, ...]
    snapshots_kept: int
    snapshots_dropped: int
    not_vacuumed: str = ""


def keep_lake(
    project: Project,
    find_named: Callable[[Project], set[str]],
    keep_days: int = KEEP_DAYS,
    grace_hours: int = GRACE_HOURS,
) -> Upkeep:
    """Compact every table of many files, then delete what nothing needs. Safe to kill and to repeat.

    find_named   the snapshot ids that models and runs name; if it raises, nothing is deleted
    grace_hours  0 only if nothing else reads or writes the lake

    Raises LakeBusy if somebody writes.
    """
    lake = project.lake
    with lake.writer("upkeep"):
        before = {table: lake.measure(table) for table in lake.tables()}
        compacted = {table: lake.compact(table) for table in before}
        # After the compaction: its own commits are the newest versions then.
        needed: dict[str, set[int]] | None = None
        dropped, why = 0, ""
        try:
            named = find_named(project)
        except PerennialError as error:
            why = f"nothing was deleted: {error}"
        else:
            needed, dropped = _find_needed(project, named, keep_days, grace_hours)
            for table in before:
                lake.vacuum(table, needed[table], grace_hours)
        told = [
            _tell(lake, table, before[table], compacted[table], needed[table] if needed is not None else None)
            for table in before
        ]
    return Upkeep(tuple(told), len(lake.snapshots()), dropped, why)


def find_named_snapshots(project: Project) -> set[str]:
    """Return the snapshots that registered versions, and runs that are not deleted, name.

    Raises RegistryUnavailable.
    """
    url = project.settings.mlflow_url
    check_answers(url)
    return read_version_snapshots(project) | read_run_snapshots(url)


def read_version_snapshots(project: Project) -> set[str]:
    """Return the snapshots that registered versions name: in a tag, or else in their contract."""
    named = set()
    for version, tags in project.registry.versions().items():
        contract = project.package(version) / "contract.json" if TAG not in tags else None
        named.add(tags[TAG] if contract is None else json.loads(contract.read_text())["snapshot"])
    return named


def read_run_snapshots(url: str) -> set[str]:
    """Return the snapshots that an MLflow's runs name, if the run is not deleted."""
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    named: set[str | None] = set()
    client, token = MlflowClient(url, url), None
    try:
        experiments = [e.experiment_id for e in client.search_experiments(view_type=ViewType.ALL)]
        while True:
            page = client.search_runs(
                experiments, run_view_type=ViewType.ACTIVE_ONLY, max_results=PAGE, page_token=token
            )
            named |= {run.data.tags.get(TAG) for run in page}
            token = page.token
            if not token:
                break
    except Exception as error:  # requests, urllib3, SQLAlchemy and MLflow each have their own
        raise _unreachable(url, f"{type(error).__name__}: {str(error)[:300]}") from error
    return {snapshot for snapshot in named if snapshot}


def read_run_tags(url: str, run_id: str) -> dict[str, str]:
    """Return the tags of an MLflow run. Raises RegistryUnavailable."""
    from mlflow import MlflowClient

    check_answers(url)
    try:
        return dict(MlflowClient(url, url).get_run(run_id).data.tags)
    except Exception as error:
        if getattr(error, "error_code", "") in UNKNOWN:
            raise NotEnoughData(
                f"run {run_id!r}",
                got="no such run",
                expected=f"the id of a training run in MLflow at {url}",
                next_step="Ids are in the MLflow UI, and `perennial trace` names the run behind an answer.",
            ) from None
        raise _unreachable(url, f"{type(error).__name__}: {str(error)[:300]}") from error


def check_answers(url: str) -> None:
    """Return if an MLflow server answers. Raises RegistryUnavailable; its client would try for minutes."""
    import httpx

    if not url.startswith("http"):
        return
    try:
        httpx.get(f"{url}/health", timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        raise _unreachable(url, f"{type(error).__name__}: {error}") from error


def pick_writes(
    log: Sequence[Materialization], keep_since: datetime, ttl: timedelta
) -> list[Materialization]:
    """Return the writes from which answers given after an instant of wall-clock time took their features."""
    recent = [w for w in log if (w.ended_at or w.started_at) >= keep_since]
    before = [w for w in log if (w.ended_at or w.started_at) < keep_since]
    recent = before[-1:] + recent
    if not recent:
        return []
    # Rows that were still fresh when the first of these was written may come from earlier ones.
    oldest = min(w.since or w.until for w in recent) - ttl
    return [w for w in before[:-1] if w.until >= oldest] + recent


def _find_needed(
    project: Project, named: Collection[str], keep_days: int, grace_hours: int
) -> tuple[dict[str, set[int]], int]:
    """Return the versions to keep by table, and how many snapshots were dropped."""
    lake, now = project.lake, datetime.now(UTC)
    needed: dict[str, set[int]] = defaultdict(set)
    dropped = 0
    for snapshot_id, taken_at in lake.snapshots().items():
        # A young snapshot may be one of a training that has not logged its run yet.
        if snapshot_id in named or taken_at > now - timedelta(hours=grace_hours):
            for table, version in lake.load_snapshot(snapshot_id).versions.items():
                needed[table].add(version)
        else:
            lake.drop_snapshot(snapshot_id)
            dropped += 1
    log = Materializations(project.settings.home / "feast").read()
    ttl = max(table.ttl for table in project.problem.feature_tables)
    for write in pick_writes(log, now - timedelta(days=keep_days), ttl):
        for table, version in write.snapshot.versions.items():
            needed[table].add(version)
    # What the features of those answers were computed from, so that they can be traced to their rows.
    since = (now - timedelta(days=keep_days)).timestamp() * 1_000
    for features in project.problem.feature_tables:
        for commit in lake.history(features.name):
            if "perennial.versions" in commit and commit["timestamp"] >= since:
                for name, version in json.loads(commit["perennial.versions"]).items():
                    needed[name].add(version)
    return needed, dropped


def _tell(
    lake: Lake, table: str, before: tuple[int, int], compacted: bool, needed: set[int] | None
) -> TableUpkeep:
    files, size = lake.measure(table)
    newest = lake.version(table)
    kept = newest + 1 if needed is None else len({v for v in needed if v >= 0} | {newest})
    return TableUpkeep(table, compacted, before[0], files, before[1] - size, kept)


def _unreachable(url: str, got: str) -> RegistryUnavailable:
    return RegistryUnavailable(
        f"MLflow at {url}", got=got, expected="an answer", next_step="Look whether the MLflow server runs."
    )
