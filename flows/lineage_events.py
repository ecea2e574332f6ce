"""Lineage events in the OpenLineage standard, and where they go. The only caller of OpenLineage.

Telling never breaks or holds up a flow: what fails is counted, and logged the first time; what goes over a
network goes from a thread.
"""

import atexit
import fcntl
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_repo.contract import Period

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import RunEvent

NAMESPACE = "perennial"  # of all jobs
PRODUCER = "urn:perennial"
MAX_WAITING = 1_000  # events that wait for a network
CLOSE_SECONDS = 5.0  # how long the end of a process waits for those

log = logging.getLogger("perennial.lineage")


@dataclass(frozen=True)
class Dataset:
    """One thing that a run read or wrote, named as OpenLineage's naming rules say.

    version  a lake table's version, a file's SHA-256, a model version
    rows     how many were read or written
    schema   column -> type
    profile  measure -> value, see `expectations.profile`
    is_table whether it is a table of the lake
    """

    namespace: str
    name: str
    version: str = ""
    rows: int | None = None
    schema: Mapping[str, str] = field(default_factory=dict)
    profile: Mapping[str, float] = field(default_factory=dict)
    is_table: bool = False


@dataclass
class Run:
    """One run of a job; what turns up while it runs is added to it. `facts` are ours, told as they are."""

    job: str
    id: str
    period: Period | None = None
    inputs: list[Dataset] = field(default_factory=list)
    outputs: list[Dataset] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


class Emitter:
    """Sends events to one place. `failures` counts those that are known not to have arrived."""

    def __init__(self, connect: "Callable[[], OpenLineageClient]") -> None:
        self.failures = 0
        self._connect = connect
        self._client: OpenLineageClient | None = None
        self._waiting: queue.Queue[RunEvent | None] | None = None

    def send(self, build: "Callable[[], Iterable[RunEvent]]") -> None:
        """Send the events that `build` returns. Never raises."""
        try:
            self._client = self._client or self._open()
            for event in build():
                if self._waiting is None:
                    self._client.emit(event)
                else:
                    self._waiting.put_nowait(event)
        except Exception as error:  # noqa: BLE001 - counted and logged: what it tells of must go on
            self._note(error)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Wait until what waits was sent, for so long at most."""
        if self._waiting is not None:
            self._waiting.put(None)
            self._thread.join(seconds)

    def _open(self) -> "OpenLineageClient":
        client = self._connect()
        if client.transport.kind not in {"file", "noop", "console"}:
            self._waiting = queue.Queue(MAX_WAITING)
            arguments = (client, self._waiting)
            self._thread = threading.Thread(target=self._drain, args=arguments, name="lineage", daemon=True)
            self._thread.start()
            atexit.register(self.close)
        return client

    def _drain(self, client: "OpenLineageClient", waiting: "queue.Queue[RunEvent | None]") -> None:
        while (event := waiting.get()) is not None:
            try:
                client.emit(event)
            except Exception as error:  # noqa: BLE001 - counted and logged, as in `send`
                self._note(error)

    def _note(self, error: Exception) -> None:
        self.failures += 1
        if self.failures == 1:
            log.warning("lineage is not told; further failures are only counted: %r", error)


def connect(path: Path) -> "OpenLineageClient":
    """Return a client that appends to the file, or goes where OpenLineage's own configuration says."""
    from openlineage.client import OpenLineageClient
    from openlineage.client.transport.file import FileConfig, FileTransport

    class SharedFileTransport(FileTransport):
        """Flows run in processes of their own: they take turns, and mend a line that a kill cut short."""

        def emit(self, event: Any) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if file.seek(0, 2):
                    file.seek(-1, 2)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
                        file.flush()
                super().emit(event)

    # A transport is given at first, since a client that finds none configured complains.
    client = OpenLineageClient(transport=SharedFileTransport(FileConfig(str(path), append=True)))
    return OpenLineageClient() if client.config.transport else client


def build_event(state: str, problem: str, run: Run, failure: str = "") -> "RunEvent":
    """Return the event of a run in OpenLineage's own terms; `state`: START, COMPLETE or FAIL."""
    from openlineage.client import event_v2 as ol
    from openlineage.client.facet_v2 import error_message_run, job_type_job, nominal_time_run
    from openlineage.client.generated.base import RunFacet

    facets: dict[str, Any] = {}
    if run.period:
        since, until = _iso(run.period.since), _iso(run.period.until)
        facets["nominalTime"] = nominal_time_run.NominalTimeRunFacet(since, until, producer=PRODUCER)
    if run.facts:
        facets["perennial"] = RunFacet(producer=PRODUCER).with_additional_properties(**run.facts)
    if failure:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(failure, "PYTHON", producer=PRODUCER)
    kind = job_type_job.JobTypeJobFacet("BATCH", "PERENNIAL", "TASK", producer=PRODUCER)
    return ol.RunEvent(
        eventType=ol.RunState[state],
        eventTime=_iso(datetime.now(UTC)),
        run=ol.Run(run.id, facets),
        job=ol.Job(NAMESPACE, f"{problem}.{run.job}", {"jobType": kind}),
        inputs=[_to_input(dataset) for dataset in run.inputs],
        outputs=[_to_output(dataset) for dataset in run.outputs],
        producer=PRODUCER,
    )


def _to_input(dataset: Dataset) -> Any:
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import input_statistics_input_dataset as statistics

    told = statistics.InputStatisticsInputDatasetFacet(rowCount=dataset.rows, producer=PRODUCER)
    rows: dict[str, Any] = {} if dataset.rows is None else {"inputStatistics": told}
    return InputDataset(dataset.namespace, dataset.name, facets=_facets(dataset), inputFacets=rows)


def _to_output(dataset: Dataset) -> Any:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    told = statistics.OutputStatisticsOutputDatasetFacet(rowCount=dataset.rows, producer=PRODUCER)
    rows: dict[str, Any] = {} if dataset.rows is None else {"outputStatistics": told}
    return OutputDataset(dataset.namespace, dataset.name, facets=_facets(dataset), outputFacets=rows)


def _facets(dataset: Dataset) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset, schema_dataset, storage_dataset

    facets: dict[str, Any] = {}
    if dataset.version:
        version = dataset_version_dataset.DatasetVersionDatasetFacet(dataset.version, producer=PRODUCER)
        facets["version"] = version
    if dataset.is_table:
        facets["storage"] = storage_dataset.StorageDatasetFacet("delta", "parquet", producer=PRODUCER)
    if dataset.schema:
        columns = [
            schema_dataset.SchemaDatasetFacetFields(name, kind) for name, kind in dataset.schema.items()
        ]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(columns, producer=PRODUCER)
    if dataset.profile:
        facets["dataQualityMetrics"] = _to_metrics(dataset.profile)
    return facets


def _to_metrics(profile: Mapping[str, float]) -> Any:
    from openlineage.client.facet_v2 import data_quality_metrics_dataset as quality

    rows = int(profile["rows"]) if "rows" in profile else None
    columns: dict[str, dict[str, Any]] = {}
    for measure, value in profile.items():
        column, _, what = measure.rpartition(".")
        told = columns.setdefault(column, {"quantiles": {}})
        if what == "null_share" and rows is not None:
            told["nullCount"] = round(value * rows)
        elif what == "distinct":
            told["distinctCount"] = int(value)
        elif what in {"min", "max"}:
            told[what] = value
        elif what[:1] == "p" and what[1:].isdigit():
            told["quantiles"][str(int(what[1:]) / 100)] = value
    columns.pop("", None)  # measures of the batch as a whole
    metrics = {column: quality.ColumnMetrics(**told) for column, told in columns.items()}
    return quality.DataQualityMetricsDatasetFacet(metrics, rowCount=rows, producer=PRODUCER)


def _iso(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
