"""Quality of data over time: kept, told to Prometheus, drawn, listed."""

import asyncio
import dataclasses
from collections.abc import Callable

import httpx
import polars as pl
import pytest
from prometheus_client.parser import text_string_to_metric_families

from feature_repo.contract import Delivery, Period
from flows.data_quality import list_alerts, plot_quality, read_newest, read_quality, write_metrics
from flows.ingest import ingest_period
from flows.manifests import read_manifests
from flows.project import Project
from flows.reports import build_app

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture
def project(make_toy: Callable[..., Project], toy_day: Callable[[int], Period]) -> Project:
    """Return three landed days, of whose last the orders stopped, and one row of the second is out."""
    toy = make_toy(days=5)

    def fetch(table: str, period: Period) -> Delivery:
        told = toy.fetch(table, period)
        if table != "orders":
            return told
        bad = pl.col("order_id") == told.frame["order_id"].min()
        frame = told.frame.with_columns(amount=pl.when(bad).then(pl.lit(-1.0)).otherwise("amount"))
        frames = {toy_day(1).since: frame, toy_day(2).since: told.frame.clear()}
        return dataclasses.replace(told, frame=frames.get(period.since, told.frame))

    project = dataclasses.replace(toy, fetch=fetch)
    for n in range(3):
        ingest_period(project, toy_day(n))
    return project


def get(project: Project, path: str) -> httpx.Response:
    """Ask the reports server of the project's home."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(build_app(project.settings.home))
        async with httpx.AsyncClient(transport=transport, base_url="http://reports") as client:
            return await client.get(path)

    return asyncio.run(ask())


def test_measures_of_every_landed_batch_are_kept_in_order(project: Project) -> None:
    """Two landed batches give two rows of each measure, oldest first."""
    rows = read_quality(project.lake, "orders").filter(measure="rows")
    seen = read_manifests(project.lake).filter(table="orders", status="landed").sort("since")["seen"]
    assert rows["value"].to_list() == [float(n) for n in seen]
    shares = read_quality(project.lake, "orders").filter(measure="quarantined_share")["value"].to_list()
    assert shares == [0.0, 1 / seen[1]]


def test_metrics_tell_the_newest_landed_batch_and_that_the_last_one_stopped(project: Project) -> None:
    """Prometheus gets counts as of the newest landed batch, and a flag for the one that did not land."""
    text = write_metrics(project).read_text()
    samples = {
        (s.name, tuple(s.labels.values())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }
    assert samples["perennial_data_stopped", ("orders",)] == 1
    assert samples["perennial_data_stopped", ("returns",)] == 0
    assert samples["perennial_quarantine_rows", ("orders",)] == 1
    newest = read_newest(read_manifests(project.lake), project.problem.raw[0])
    assert samples["perennial_data_measure", ("rows", "orders")] == newest["rows"] > 0


def test_stopped_batches_are_alerts_in_words(project: Project) -> None:
    """The list names table, batch and reason, newest first."""
    alerts = [a for a in list_alerts(read_manifests(project.lake)) if a.table == "orders"]
    assert alerts[0].status == "stopped"
    assert "rows" in alerts[0].words


def test_the_reports_server_shows_pages_and_metrics_and_nothing_else(project: Project) -> None:
    """Files under pages are served, metrics in Prometheus' format; the lake and parent folders are not."""
    write_metrics(project)
    picture = plot_quality(project, project.problem.raw[0])
    assert picture is not None
    assert get(project, "/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "perennial_data_measure" in get(project, "/metrics").text
    assert get(project, f"/{picture.as_posix()}").content.startswith(b"\x89PNG")
    page = next(path for path in (project.settings.home / "pages").rglob("*.html"))
    assert (
        "amount lies between 0 and 5000" in get(project, f"/{page.relative_to(project.settings.home)}").text
    )
    for path in ("/lake/orders", "/pages/../lake/_writer.lock", "/pages/%2e%2e/lake/_writer.lock"):
        assert get(project, path).status_code == 404
    assert str(page.name) in get(project, "/").text
