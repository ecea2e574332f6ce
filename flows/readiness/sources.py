"""Where evidence is looked up: test records, the registry, MLflow, Prefect, the lake, /metrics, Prometheus.

Each is asked once, when first needed, and what does not answer raises: the look then has nothing to show.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from feature_repo.errors import NotEnoughData
from feature_repo.settings import Settings
from flows.project import Project
from flows.readiness.records import FILE, ROOT, TestRecord, hash_code, read_records

if TYPE_CHECKING:
    import polars as pl

    from flows.feature_report import FeatureReport

PATIENCE = 5.0  # seconds
RUNS = 200  # the newest flow runs that are looked at


@dataclass(frozen=True)
class Sources:
    """What can be asked about one project on one home."""

    project: Project

    @property
    def settings(self) -> Settings:
        """Where everything is."""
        return self.project.settings

    @cached_property
    def code(self) -> str:
        """The hash of the code as it is now."""
        return hash_code()

    @cached_property
    def tests(self) -> dict[str, TestRecord]:
        """The newest record of each test: of this home, and of where the tests write by themselves."""
        return read_records([self.settings.home / FILE, ROOT / "var" / FILE])

    @cached_property
    def aliases(self) -> dict[str, int]:
        """Which version each alias names."""
        from flows.retention import check_answers

        check_answers(self.settings.mlflow_url)  # its own client would try for minutes
        return self.project.registry.aliases()

    @cached_property
    def champion(self) -> int:
        """The version that serves. Raises NotEnoughData if there is none."""
        if "champion" not in self.aliases:
            raise NotEnoughData(
                "registry", got="no champion", expected="a model that serves", next_step="Train one."
            )
        return self.aliases["champion"]

    @cached_property
    def versions(self) -> dict[int, dict[str, str]]:
        """Every version's tags."""
        _ = self.aliases
        return self.project.registry.versions()

    @cached_property
    def contract(self) -> dict[str, Any]:
        """The champion's input contract."""
        told: dict[str, Any] = json.loads((self.package / "contract.json").read_text())
        return told

    @cached_property
    def package(self) -> Any:
        """The folder of the champion's package."""
        _ = self.aliases
        return self.project.package(self.champion)

    @cached_property
    def features(self) -> "list[FeatureReport]":
        """What `perennial features` tells of each feature."""
        from flows.feature_report import report_features

        return report_features(self.project)[0]

    @cached_property
    def runs(self) -> list[dict[str, Any]]:
        """The newest flow runs that completed, newest first, each with its flow's name."""
        wanted = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}, "sort": "END_TIME_DESC"}
        flows = {one["id"]: one["name"] for one in self.ask_prefect("flows/filter", {"limit": RUNS})}
        found = self.ask_prefect("flow_runs/filter", {**wanted, "limit": RUNS})
        return [{**one, "flow": flows.get(one["flow_id"], "")} for one in found]

    @cached_property
    def deployments(self) -> dict[str, dict[str, Any]]:
        """The deployments, by name."""
        return {one["name"]: one for one in self.ask_prefect("deployments/filter", {"limit": RUNS})}

    @cached_property
    def automations(self) -> dict[str, dict[str, Any]]:
        """The automations, by name."""
        return {one["name"]: one for one in self.ask_prefect("automations/filter", {"limit": RUNS})}

    @cached_property
    def rules(self) -> dict[str, str]:
        """The alert rules that Prometheus holds now: name to health."""
        told = json.loads(self.fetch(f"{self.settings.prometheus_url}/api/v1/rules?type=alert"))
        rules = [rule for group in told["data"]["groups"] for rule in group["rules"]]
        return {rule["name"]: rule["health"] for rule in rules}

    @cached_property
    def service_metrics(self) -> dict[str, float]:
        """What the service serves at /metrics: each name's samples, added up."""
        return _read_metrics(self.fetch(f"{self.settings.service_url}/metrics"))

    @cached_property
    def data_metrics(self) -> dict[str, float]:
        """What the reports serve at /metrics: each name's samples, added up."""
        return _read_metrics(self.fetch(f"{self.settings.reports_url}/metrics"))

    @cached_property
    def manifests(self) -> "pl.DataFrame":
        """What became of each batch."""
        from flows.manifests import read_manifests

        return read_manifests(self.project.lake)

    def table(self, name: str) -> "pl.DataFrame":
        """Return a table of the lake; empty if there is none."""
        import polars as pl

        return self.project.lake.read(name) if self.project.lake.has(name) else pl.DataFrame()

    def find_run(self, version: int) -> str:
        """Return the MLflow run that made a version."""
        name = self.project.problem.name
        place = f"{self.settings.mlflow_url}/api/2.0/mlflow/model-versions/get"
        told = json.loads(self.fetch(f"{place}?name={name}&version={version}"))
        return str(told["model_version"]["run_id"])

    def name_artifact(self, version: int, path: str) -> str:
        """Return the address at which an artifact of a version's run is read."""
        run = self.find_run(version)
        return f"{self.settings.mlflow_url}/get-artifact?path={path}&run_uuid={run}"

    def name_version(self, version: int) -> str:
        """Return the address of a version in the MLflow UI."""
        return f"{self.settings.mlflow_url}/#/models/{self.project.problem.name}/versions/{version}"

    def read_gate(self, version: int) -> dict[str, Any]:
        """Return a version's gate card: whether it passed, and every check."""
        told: dict[str, Any] = json.loads(self.fetch(self.name_artifact(version, "gate.json")))
        return told

    def fetch(self, url: str) -> str:
        """Return what an address answers. Raises httpx.HTTPError."""
        import httpx

        return httpx.get(url, timeout=PATIENCE).raise_for_status().text

    def ask_prefect(self, path: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what the Prefect server finds. Raises httpx.HTTPError."""
        import httpx

        answer = httpx.post(f"{self.settings.prefect_url}/api/{path}", json=wanted, timeout=PATIENCE)
        return list(answer.raise_for_status().json())


def _read_metrics(text: str) -> dict[str, float]:
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found
