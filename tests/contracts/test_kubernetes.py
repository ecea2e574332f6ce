"""The Kubernetes manifests: valid by the published schemas, and true to the service that they run.

KServe publishes no schema through a package registry: of its InferenceService, the part that is a pod's
specification is held against Kubernetes' own.
"""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from feature_repo.settings import load_settings
from services.container import build_command
from services.metrics import Metrics

FOLDER = Path(__file__).parent.parent.parent / "infra" / "k8s"
CONTAINERFILE = FOLDER.parent / "Containerfile"
OLDEST = "1.30"  # of Kubernetes that the manifests are for
KSERVE_ONLY = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"}


def read(name: str) -> dict[str, Any]:
    """Return one manifest."""
    manifest: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return manifest


RESOURCES = read("kustomization.yaml")["resources"]


def versions() -> list[str]:
    """Return every version of Kubernetes to hold the manifests against."""
    import kubernetes_validate

    known = {".".join(version.split(".")[:2]) for version in kubernetes_validate.utils.all_versions()}
    return sorted((v for v in known if to_number(v) >= to_number(OLDEST)), key=to_number)


def to_number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def check(manifest: dict[str, Any], version: str) -> None:
    """Hold a manifest against its schema; an unknown field is an error."""
    import kubernetes_validate

    kubernetes_validate.validate(manifest, version, strict=True)


def read_pod() -> dict[str, Any]:
    """Return the pod's specification of the Deployment."""
    spec: dict[str, Any] = read("deployment.yaml")["spec"]["template"]["spec"]
    return spec


def read_kserve_pod() -> dict[str, Any]:
    """Return what is a pod's specification in the InferenceService."""
    predictor = read("kserve.yaml")["spec"]["predictor"]
    return {key: value for key, value in predictor.items() if key not in KSERVE_ONLY}


@pytest.mark.parametrize("name", RESOURCES)
def test_a_manifest_is_valid_in_every_version(name):
    """By the schemas that Kubernetes publishes, with no field that they do not know."""
    assert len(versions()) >= 3
    for version in versions():
        check(read(name), version)


def test_the_pod_of_the_inference_service_is_valid_in_every_version():
    """It is a pod, whatever KServe adds around it."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": read_kserve_pod()}
    for version in versions():
        check(pod, version)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda spec: spec.update(replica=3),
        lambda spec: spec["template"]["spec"]["containers"][0]["ports"][0].update(containerPort="http"),
        lambda spec: spec.pop("selector"),
    ],
)
def test_a_manifest_with_a_mistake_is_refused(spoil):
    """A misspelt field, a wrong type, a field that is missing."""
    import kubernetes_validate

    manifest = copy.deepcopy(read("deployment.yaml"))
    spoil(manifest["spec"])
    with pytest.raises(kubernetes_validate.ValidationError):
        check(manifest, OLDEST)


def test_all_of_them_mean_the_same_pods():
    """Service, budget, policy and spread select the labels that the Deployment gives."""
    deployment = read("deployment.yaml")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert read("service.yaml")["spec"]["selector"] == labels
    assert read("pdb.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert read("networkpolicy.yaml")["spec"]["podSelector"]["matchLabels"] == labels
    for spread in read_pod()["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"] == labels
    target = read("hpa.yaml")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", read("deployment.yaml")["metadata"]["name"])


def test_ports_and_probes_are_the_containers():
    """Every port is named, and the name is the container's."""
    [container] = read_pod()["containers"]
    [port] = container["ports"]
    assert {one["targetPort"] for one in read("service.yaml")["spec"]["ports"]} == {port["name"]}
    [rule] = read("networkpolicy.yaml")["spec"]["ingress"]
    assert [one["port"] for one in rule["ports"]] == [port["name"]]
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")]
    assert [probe["path"] for probe in probes] == ["/readyz", "/readyz", "/livez"]
    assert {probe["port"] for probe in probes} == {port["name"]}


@pytest.mark.parametrize("read_one", [read_pod, read_kserve_pod])
def test_the_pod_is_what_the_image_is(read_one, monkeypatch):
    """Its user, port, address, home and settings; and all that is written to is a volume."""
    pod = read_one()
    [container] = pod["containers"]
    text = CONTAINERFILE.read_text()
    user = re.search(r"^USER (\d+):(\d+)$", text, re.MULTILINE)
    assert user
    context = pod["securityContext"]
    assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user.groups()
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    volumes = re.search(r"^VOLUME (\[.*\])$", text, re.MULTILINE)
    assert volumes
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == set(
        yaml.safe_load(volumes.group(1))
    )
    given = dict(re.findall(r"(PERENNIAL_\w+)=(\S+)", text))
    given |= {one["name"]: one["value"] for one in container["env"]}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.mlflow_url == "http://mlflow:5000"
    command = build_command(settings)
    assert command[command.index("--host") + 1] == "0.0.0.0"
    assert command[command.index("--port") + 1] == str(container["ports"][0]["containerPort"])
    # A Service named perennial-... would otherwise put settings into the environment that nobody knows.
    assert pod["enableServiceLinks"] is False


def test_the_inference_service_runs_the_same_container():
    """One image and one way to run it, with or without KServe."""
    [ours], [theirs] = read_pod()["containers"], read_kserve_pod()["containers"]
    [pinned] = read("kustomization.yaml")["images"]
    assert theirs["image"] == f"{ours['image']}:{pinned['newTag']}"
    assert (ours["image"], theirs["name"]) == (pinned["name"], "kserve-container")
    assert {**ours, "name": "", "image": ""} == {**theirs, "name": "", "image": ""}


def test_a_stop_has_time_to_drain():
    """The grace covers what the balancers take to notice and what the longest answer takes."""
    pod = read_pod()
    pause = float(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= pause + 30


def test_the_autoscalers_metric_is_one_that_the_service_serves():
    """The adapter's rule makes it from a series that /metrics has, with the labels that the rule names."""
    [rule] = read("adapter-rule.yaml")["rules"]["custom"]
    named = [
        one["pods"]["metric"]["name"] for one in read("hpa.yaml")["spec"]["metrics"] if one["type"] == "Pods"
    ]
    assert named == [rule["name"]["as"]]
    registry = CollectorRegistry()
    Metrics(registry).requests.labels("/predict", "200").inc()
    series = re.match(r"(\w+)\{(route=\"[^\"]+\")", rule["seriesQuery"])
    assert series
    assert f"{series.group(1)}{{{series.group(2)}" in generate_latest(registry).decode()
    assert series.group(2) in rule["metricsQuery"]
