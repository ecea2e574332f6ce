"""Lineage events: valid OpenLineage, whole lines, and never in a flow's way."""

import json
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from feature_repo.contract import Period
from flows import lineage
from flows.ingest import ingest_period
from flows.lineage_events import Dataset, Emitter, Run, build_event, connect
from flows.manifests import STOPPED, Manifest
from flows.project import Project
from tests import toy

Make = Callable[..., Project]
RUN = "0190b6a1-0000-7000-8000-000000000000"


@pytest.fixture(autouse=True)
def no_outer_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What configures OpenLineage on this machine does not reach the tests."""
    for name in ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def landed(make_toy: Make, toy_day: Callable[[int], Period]) -> tuple[Project, list[Manifest]]:
    """Return a toy project with one day landed, and its manifests."""
    project = make_toy(days=5)
    return project, ingest_period(project, toy_day(3))


def read_events(project: Project) -> list[dict]:
    """Return the events on a home."""
    path = project.settings.home / "lineage" / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def rebuild(told: dict):
    """Return an event read from JSON as OpenLineage's own classes."""
    from openlineage.client import event_v2 as ol
    from openlineage.client import facet_v2 as facets
    from openlineage.client.generated.base import RunFacet

    def make(kind, values: dict):
        given = {k: v for k, v in values.items() if k not in {"_producer", "_schemaURL"}}
        if kind is facets.schema_dataset.SchemaDatasetFacet:
            given["fields"] = [facets.schema_dataset.SchemaDatasetFacetFields(**f) for f in given["fields"]]
        if kind is facets.data_quality_metrics_dataset.DataQualityMetricsDatasetFacet:
            column = facets.data_quality_metrics_dataset.ColumnMetrics
            given["columnMetrics"] = {name: column(**m) for name, m in given["columnMetrics"].items()}
        if kind is facets.tags_run.TagsRunFacet:
            given["tags"] = [facets.tags_run.TagsRunFacetFields(**tag) for tag in given["tags"]]
        if kind is RunFacet:
            return RunFacet(producer=values["_producer"]).with_additional_properties(**given)
        return kind(**given, producer=values["_producer"])

    kinds = {
        "tags": facets.tags_run.TagsRunFacet,
        "nominalTime": facets.nominal_time_run.NominalTimeRunFacet,
        "perennial": RunFacet,
        "errorMessage": facets.error_message_run.ErrorMessageRunFacet,
        "jobType": facets.job_type_job.JobTypeJobFacet,
        "version": facets.dataset_version_dataset.DatasetVersionDatasetFacet,
        "storage": facets.storage_dataset.StorageDatasetFacet,
        "schema": facets.schema_dataset.SchemaDatasetFacet,
        "dataQualityMetrics": facets.data_quality_metrics_dataset.DataQualityMetricsDatasetFacet,
        "inputStatistics": facets.input_statistics_input_dataset.InputStatisticsInputDatasetFacet,
        "outputStatistics": facets.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
    }

    def remake(values: dict):
        return {name: make(kinds[name], facet) for name, facet in values.items()}

    def dataset(kind, values: dict, own: str):
        made = {"facets": remake(values["facets"]), own: remake(values[own])}
        return kind(values["namespace"], values["name"], **made)

    return ol.RunEvent(
        eventType=ol.RunState(told["eventType"]),
        eventTime=told["eventTime"],
        run=ol.Run(told["run"]["runId"], remake(told["run"]["facets"])),
        job=ol.Job(told["job"]["namespace"], told["job"]["name"], remake(told["job"]["facets"])),
        inputs=[dataset(ol.InputDataset, d, "inputFacets") for d in told["inputs"]],
        outputs=[dataset(ol.OutputDataset, d, "outputFacets") for d in told["outputs"]],
        producer=told["producer"],
    )


def tell_everything(project: Project, manifests: list[Manifest]) -> None:
    """Tell of one run of every stage, a failed one included."""
    profile = {
        "rows": 100.0,
        "amount.null_share": 0.25,
        "amount.p50": 7.5,
        "shop.distinct": 4.0,
        "age_hours": 1.0,
    }
    told = replace(manifests[0], profile=json.dumps(profile), quarantined=2)
    lineage.emit_ingest(project, [told, replace(manifests[1], status=STOPPED, reasons="too few rows")])
    lineage.emit_features(project, manifests[0].period)
    lineage.emit_label(project, manifests[0].period)
    lineage.emit_monitor(project, 3, [manifests[0].period])
    snapshot = project.lake.snapshot(["orders", "returns"])
    with lineage.telling_training(project, snapshot, "0" * 64, "by hand") as run:
        run.outputs.append(lineage.read_model(project, 3))


def test_every_event_is_rebuilt_by_openlineages_own_classes(landed: tuple[Project, list[Manifest]]) -> None:
    """What is on disk, read into the standard's classes and written again, is the same text."""
    from openlineage.client.serde import Serde

    tell_everything(*landed)
    events = read_events(landed[0])
    assert len(events) == 12
    for event in events:
        assert json.loads(Serde.to_json(rebuild(event))) == event


def test_each_run_begins_and_ends(landed: tuple[Project, list[Manifest]]) -> None:
    """One START and one COMPLETE or FAIL under one run id; a stopped batch's run failed, and says why."""
    tell_everything(*landed)
    states: dict[str, list[str]] = {}
    for event in read_events(landed[0]):
        states.setdefault(event["run"]["runId"], []).append(event["eventType"])
    assert sorted(states.values()) == [["START", "COMPLETE"]] * 5 + [["START", "FAIL"]]
    failed = next(event for event in read_events(landed[0]) if event["eventType"] == "FAIL")
    assert failed["run"]["facets"]["errorMessage"]["message"] == "too few rows"
    assert failed["outputs"] == []


def test_an_ingest_names_batch_files_table_version_and_quality(
    landed: tuple[Project, list[Manifest]],
) -> None:
    """From the event alone one gets to the file's hash, the table's version and what was measured."""
    project, manifests = landed
    tell_everything(project, manifests)
    event = next(event for event in read_events(project) if event["eventType"] == "COMPLETE")
    orders, aside = event["outputs"]
    assert event["job"] == {**event["job"], "namespace": "perennial", "name": "toy-returns.ingest.orders"}
    assert event["run"]["facets"]["perennial"]["batchId"] == manifests[0].batch_id
    assert event["inputs"][0]["facets"]["version"]["datasetVersion"] == "0" * 64
    assert (orders["namespace"], orders["name"]) == ("file", str(project.lake.root / "orders"))
    assert orders["facets"]["version"]["datasetVersion"] == str(project.lake.version("orders"))
    assert {field["name"] for field in orders["facets"]["schema"]["fields"]} == set(toy.ORDERS.schema)
    quality = orders["facets"]["dataQualityMetrics"]
    assert quality["rowCount"] == 100
    assert quality["columnMetrics"]["amount"] == {"nullCount": 25, "quantiles": {"0.5": 7.5}}
    assert quality["columnMetrics"]["shop"]["distinctCount"] == 4
    assert aside["outputFacets"]["outputStatistics"]["rowCount"] == 2


def test_a_repeat_is_the_same_run_and_a_change_another(landed: tuple[Project, list[Manifest]]) -> None:
    """Told again after a kill, a run keeps its id; a batch that landed anew is a run of its own."""
    project, manifests = landed
    lineage.emit_ingest(project, [manifests[0], manifests[0], replace(manifests[0], revision=2)])
    first, _, again, _, other, _ = (event["run"]["runId"] for event in read_events(project))
    assert first == again != other


def test_a_training_that_fails_is_told_and_raises(landed: tuple[Project, list[Manifest]]) -> None:
    """The error goes on its way; the event names it."""
    project, _ = landed
    snapshot = project.lake.snapshot(["orders"])
    with (
        pytest.raises(ZeroDivisionError),
        lineage.telling_training(project, snapshot, "0" * 64, "by hand"),
    ):
        _ = 1 / 0
    started, failed = read_events(project)
    assert (started["eventType"], failed["eventType"]) == ("START", "FAIL")
    assert "ZeroDivisionError" in failed["run"]["facets"]["errorMessage"]["message"]


def test_what_cannot_be_told_is_counted_and_stops_nothing(landed: tuple[Project, list[Manifest]]) -> None:
    """A folder that cannot be made, and a manifest that cannot be read."""
    project, manifests = landed
    (project.settings.home / "lineage").write_text("in the way")
    lineage.emit_ingest(project, manifests)
    lineage.emit_ingest(project, [replace(manifests[0], files="no JSON")])
    assert lineage.open_emitter(project.settings.home).failures == len(manifests) + 1


def make_event(name: str = "job"):
    """Return a small event."""
    return build_event("COMPLETE", "toy", Run(name, RUN, inputs=[Dataset("file", "x" * 20_000)]))


def test_writers_at_once_leave_whole_lines(tmp_path: Path) -> None:
    """Flows run at the same time and share one file."""
    path = tmp_path / "events.jsonl"

    def write() -> None:
        emitter = Emitter(lambda: connect(path))
        for _ in range(25):
            emitter.send(lambda: [make_event()])

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [json.loads(line)["job"]["name"] for line in path.read_text().splitlines()] == ["toy.job"] * 100


def test_a_line_that_a_kill_cut_short_spoils_no_other(tmp_path: Path) -> None:
    """The next event begins a line of its own."""
    path = tmp_path / "events.jsonl"
    path.write_text('{"eventType": "STA')
    Emitter(lambda: connect(path)).send(lambda: [make_event()])
    cut, whole = path.read_text().splitlines()
    assert cut == '{"eventType": "STA'
    assert json.loads(whole)["eventType"] == "COMPLETE"


def test_openlineages_own_configuration_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an HTTP transport configured, events go there and not to the file."""
    came = []

    class Backend(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Backend) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        transport = {"type": "http", "url": f"http://127.0.0.1:{server.server_port}", "compression": None}
        (tmp_path / "elsewhere.yml").write_text(json.dumps({"transport": transport}))
        monkeypatch.setenv("OPENLINEAGE_CONFIG", str(tmp_path / "elsewhere.yml"))
        emitter = Emitter(lambda: connect(tmp_path / "events.jsonl"))
        emitter.send(lambda: [make_event("there")])
        emitter.close(20)
        server.shutdown()
    assert [event["job"]["name"] for event in came] == ["toy.there"]
    assert not (tmp_path / "events.jsonl").exists()
    assert emitter.failures == 0


def test_a_backend_that_is_down_is_counted_and_waited_for_briefly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens there; sending raises nothing."""
    transport = {"type": "http", "url": "http://127.0.0.1:9", "retry": {"total": 0}}
    (tmp_path / "elsewhere.yml").write_text(json.dumps({"transport": transport}))
    monkeypatch.setenv("OPENLINEAGE_CONFIG", str(tmp_path / "elsewhere.yml"))
    emitter = Emitter(lambda: connect(tmp_path / "events.jsonl"))
    emitter.send(lambda: [make_event(), make_event()])
    emitter.close(20)
    assert emitter.failures == 2


def test_only_one_module_knows_openlineage() -> None:
    """Each external tool has exactly one module that calls it."""
    knows = re.compile(r"^\s*(from|import) openlineage", re.MULTILINE)
    root = Path(__file__).parents[2]
    found = {
        path.name
        for folder in ("flows", "services", "expectations", "feature_repo")
        for path in (root / folder).rglob("*.py")
        if knows.search(path.read_text().replace("if TYPE_CHECKING:\n    from openlineage", ""))
    }
    assert found == {"lineage_events.py"}
