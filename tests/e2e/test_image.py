"""The service's image, built from scratch and run: its model baked in, or pulled from a registry by alias."""

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from feature_repo.contract import Period
from feature_repo.problem import PROBLEM
from feature_repo.settings import Settings
from services.journal import Journal
from services.models import Registry
from tests import image
from tests.image_home import ask, fill_store, make_home
from tests.packages import write_package

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1_500), pytest.mark.filterwarnings("default")]

ALWAYS = Period(datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
LOCK = image.PROJECT / "requirements-service.lock"


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    """Say what to install where an image cannot be built."""
    lacking = image.find_lacking()
    if lacking:
        pytest.fail(f"building an image needs Debian's packages: apt-get install {' '.join(lacking)}")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model version's folder."""
    return write_package(tmp_path_factory.mktemp("model") / "package", PROBLEM)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the flight's features online."""
    home = tmp_path_factory.mktemp("filled")
    fill_store(home)
    return home


@pytest.fixture(scope="module")
def plain() -> str:
    """An image without a model."""
    image.build_base()
    return image.build_image("localhost/perennial-test:plain")


@pytest.fixture(scope="module")
def baked(plain: str, package: Path) -> str:
    """An image with a model in it; all but the model is the plain image's."""
    return image.build_image("localhost/perennial-test:baked", package, "7")


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server, and where it answers."""
    from flows.local.stack import running_stack
    from flows.local.stack_services import build_services

    settings = Settings(home=tmp_path / "stack", mlflow_port=image.find_free_port())
    only = [service for service in build_services(settings) if service.name == "mlflow"]
    with running_stack(settings, services=only):
        yield settings.mlflow_url


def await_champion(url: str, version: str) -> None:
    """Ask until the champion of that version answers."""
    until = time.monotonic() + 60
    while (told := ask(url))["served_by"] != "champion" and time.monotonic() < until:
        time.sleep(0.2)
    assert (told["served_by"], told["model_version"], told["reason"]) == ("champion", version, "ok")


def test_a_baked_model_answers_from_a_container_that_can_write_to_its_home_alone(
    baked: str, filled: Path, tmp_path: Path
) -> None:
    """No registry, no root, no root file system to write to; and what was answered is in the journal."""
    home = tmp_path / "home"
    with image.running(baked, make_home(home, filled), tmp_path / "log") as container:
        told = ask(container.url)
        status = Path(f"/proc/{container.pid}/status").read_text()
        mounts = Path(f"/proc/{container.pid}/mountinfo").read_text()
        metrics = httpx.get(f"{container.url}/metrics").text
        alive = httpx.get(f"{container.url}/livez").status_code
    assert (told["served_by"], told["model_version"], told["reason"]) == ("champion", "7", "ok")
    assert re.search(r"^Uid:\t10001\t10001\t10001\t10001$", status, re.MULTILINE)
    assert [line.split()[5].split(",")[0] for line in mounts.splitlines() if line.split()[4] == "/"] == ["ro"]
    assert "perennial_requests_total{" in metrics
    assert alive == 200
    kept = Journal(home / "journal" / "journal.db").read_predictions(ALWAYS)
    assert kept["prediction_id"].to_list() == [told["prediction_id"]]


def test_an_image_without_a_model_pulls_it_by_alias(
    plain: str, package: Path, filled: Path, mlflow: str, tmp_path: Path
) -> None:
    """The registry's champion serves; once verified, it serves without the registry."""
    from mlflow import MlflowClient

    client = MlflowClient(mlflow, mlflow)
    run = client.create_run(client.create_experiment("image")).info.run_id
    registry = Registry(mlflow, PROBLEM.name)
    version = registry.register(package, run, {})
    registry.set_alias("champion", version)
    home = make_home(tmp_path / "home", filled)
    with image.running(plain, home, tmp_path / "log", PERENNIAL_MLFLOW_SERVER=mlflow) as container:
        await_champion(container.url, str(version))
    with image.running(
        plain, home, tmp_path / "log", PERENNIAL_MLFLOW_SERVER="http://127.0.0.1:1"
    ) as container:
        await_champion(container.url, str(version))


def test_the_bill_of_materials_is_what_is_in_the_image(plain: str) -> None:
    """Every pinned package and every Debian package is in it, and nothing that only built the image."""
    with image.mounted(plain) as root:
        bom = json.loads((root / "opt/perennial/sbom.cdx.json").read_text())
        [libraries] = (root / "opt/perennial/lib").glob("python3.*/site-packages")
        installed = {path.name.split("-")[0].lower() for path in libraries.glob("*.dist-info")}
        debian = re.findall(r"^Package: (.+)$", (root / "var/lib/dpkg/status").read_text(), re.MULTILINE)
    pinned = dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", LOCK.read_text(), re.MULTILINE))
    told = {(c["name"].lower(), c["version"]) for c in bom["components"] if c["purl"].startswith("pkg:pypi/")}
    assert {(re.sub(r"[-_.]+", "-", name), version) for name, version in told} == set(pinned.items())
    assert {c["name"] for c in bom["components"] if c["purl"].startswith("pkg:deb/")} == set(debian)
    assert not installed & {
        "prefect",
        "great_expectations",
        "feast",
        "evidently",
        "mlflow",
        "pip",
        "cyclonedx_bom",
    }
