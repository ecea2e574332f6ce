"""What the local stack is made of: Prefect and MLflow servers, runner, service, reports, Evidently UI."""

import sys
from pathlib import Path

from feature_repo.settings import PREFIX, Settings, to_environment
from flows.local.children import Service

PROJECT = Path(__file__).resolve().parents[2]
WORKSPACE = "evidently"  # folder of Evidently's workspace, beside the reports

TELEMETRY_OFF = {
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "1",
    "FEAST_USAGE": "False",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


def build_environment(settings: Settings) -> dict[str, str]:
    """Return what every process that talks to the stack needs in its environment."""
    home = settings.home
    return {
        **to_environment(settings),
        **TELEMETRY_OFF,
        "BENTOML_HOME": str(home / "bentoml"),
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        "MPLBACKEND": "Agg",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin take a busy core from others
        "PREFECT_API_URL": f"{settings.prefect_url}/api",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # the shortest; the zombie automation waits for two
        "PREFECT_HOME": str(home / "prefect"),
        "PYTHONDONTWRITEBYTECODE": "",  # a flow's process that compiles its imports anew needs a minute
        "PYTHONUNBUFFERED": "1",
    }


def build_services(settings: Settings) -> list[Service]:
    """Return the processes of the stack."""
    mlflow = () if settings.mlflow_server else (_mlflow,)  # there is one elsewhere
    evidently = (_evidently,) if settings.evidently_port else ()
    return [make(settings) for make in (_prefect, *mlflow, _runner, _prediction, _reports, *evidently)]


def _prefect(settings: Settings) -> Service:
    url = settings.prefect_url
    database = settings.home / "prefect" / "prefect.db"
    options = ("--host", settings.host, "--port", str(settings.prefect_port))
    return Service(
        name="prefect",
        command=(sys.executable, "-m", "prefect", "server", "start", *options),
        host=settings.host,
        port=settings.prefect_port,
        setting=PREFIX + "PREFECT_PORT",
        health=f"{url}/api/ready",
        url=url,
        environment={
            **build_environment(settings),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
            "PREFECT_SERVER_UI_API_URL": f"{url}/api",
        },
    )


def _mlflow(settings: Settings) -> Service:
    home = settings.home / "mlflow"
    options = {
        "--host": settings.host,
        "--port": str(settings.mlflow_port),
        "--workers": "1",
        "--backend-store-uri": f"sqlite:///{home / 'mlflow.db'}",
        "--artifacts-destination": str(home / "artifacts"),
    }
    return Service(
        name="mlflow",
        command=(
            sys.executable,
            "-m",
            "mlflow",
            "server",
            *(word for pair in options.items() for word in pair),
        ),
        host=settings.host,
        port=settings.mlflow_port,
        setting=PREFIX + "MLFLOW_PORT",
        health=f"{settings.mlflow_url}/health",
        url=settings.mlflow_url,
        # Job execution alone is 13 processes and 2.5 GB, for features that nothing here uses.
        # Workers and keeper ask for the aliases many times a second: a line each would be 100 MB a day.
        environment={
            **build_environment(settings),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_UVICORN_OPTS": "--no-access-log",
        },
    )


def _runner(settings: Settings) -> Service:
    url = f"http://{settings.host}:{settings.runner_port}"
    return Service(
        name="runner",
        command=(sys.executable, "-m", "flows.deployments"),
        host=settings.host,
        port=settings.runner_port,
        setting=PREFIX + "RUNNER_PORT",
        health=f"{url}/health",
        url=url,
        environment={
            **build_environment(settings),
            "PREFECT_RUNNER_SERVER_HOST": settings.host,
            "PREFECT_RUNNER_SERVER_PORT": str(settings.runner_port),
        },
        after=() if settings.mlflow_server else ("mlflow",),
        needs=("prefect",),  # a runner that outlives its server no longer hears of cancelled runs
    )


def _prediction(settings: Settings) -> Service:
    options = {
        "--host": settings.host,
        "--port": str(settings.service_port),
        "--working-dir": str(PROJECT),
    }
    words = (word for pair in options.items() for word in pair)
    return Service(
        name="service",
        command=(sys.executable, "-m", "bentoml", "serve", "services.prediction:PredictionService", *words),
        host=settings.host,
        port=settings.service_port,
        setting=PREFIX + "SERVICE_PORT",
        health=f"{settings.service_url}/readyz",
        url=settings.service_url,
        # One row at a time leaves nothing to share out: more threads a worker only get in each other's way.
        environment={**build_environment(settings), "OMP_NUM_THREADS": "1"},
        grace=15.0,
    )


def _reports(settings: Settings) -> Service:
    return Service(
        name="reports",
        command=(sys.executable, "-m", "flows.reports"),
        host=settings.host,
        port=settings.reports_port,
        setting=PREFIX + "REPORTS_PORT",
        health=settings.reports_url,
        url=settings.reports_url,
        environment=build_environment(settings),
    )


def _evidently(settings: Settings) -> Service:
    options = {
        "--host": settings.host,
        "--port": str(settings.evidently_port),
        "--workspace": str(settings.home / "reports" / WORKSPACE),
    }
    words = (word for pair in options.items() for word in pair)
    return Service(
        name="evidently",
        command=(sys.executable, "-m", "evidently.cli", "ui", *words),
        host=settings.host,
        port=settings.evidently_port,
        setting=PREFIX + "EVIDENTLY_PORT",
        health=f"{settings.evidently_url}/api/version",
        url=settings.evidently_url,
        environment=build_environment(settings),
        # Slow to start and needed by nobody but readers: it neither holds up the others nor ends them.
        after=("runner", "service", "reports"),
        background=True,
    )
