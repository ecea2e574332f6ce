"""Settings: read once, at an entry point, into a frozen object that refuses unknown keys.

Every key can be set in the environment as PERENNIAL_<KEY>. Nothing reads the environment at import.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from feature_repo.errors import SettingsError

PREFIX = "PERENNIAL_"


class Settings(BaseSettings):
    """All that a user may set without touching code."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    home: Path = Field(Path("var"), description="Folder that everything that runs writes under.")
    host: str = Field("127.0.0.1", description="Address that the local stack binds to.")
    prefect_port: int = Field(4200, ge=1, le=65535)
    mlflow_port: int = Field(5000, ge=1, le=65535)
    service_port: int = Field(3000, ge=1, le=65535)
    runner_port: int = Field(8080, ge=1, le=65535)
    reports_port: int = Field(8090, ge=1, le=65535)
    evidently_port: int = Field(8091, ge=0, le=65535, description="Port of the Evidently UI; 0: none.")
    prometheus_port: int = Field(9090, ge=1, le=65535)
    alertmanager_port: int = Field(9093, ge=1, le=65535)
    balancer_port: int = Field(3100, ge=1, le=65535, description="The replicas take the ports after it.")
    balancer_stats_port: int = Field(3199, ge=1, le=65535)
    alert_webhook: str = Field(
        "", description="URL that Alertmanager posts alerts to; empty: the reports' own page of alerts."
    )
    service_workers: int = Field(2, ge=1, le=64)
    mlflow_server: str = Field("", description="URL of an MLflow server elsewhere; empty: the local stack's.")
    poll_seconds: float = Field(0.25, gt=0, le=60, description="How often a worker asks for aliases.")
    answer_seconds: float = Field(
        2.0, gt=0, le=60, description="How long store or model may take before a request goes on without."
    )
    recheck_days: int = Field(3, ge=0, description="Landed days that daily-loop asks the source about again.")
    schedules: bool = Field(True, description="Whether scheduled flows run by themselves.")
    monitoring: Literal["on", "off", "auto"] = Field(
        "auto",
        description="Whether `up` starts Prometheus and Alertmanager, and a promotion needs them; "
        "auto: starts them where they are installed, and needs them once they were started.",
    )
    required_monitors: str = Field(
        "reference,schedule,scrape,rules,route,notify",
        description="Monitors without which nothing is promoted; scrape, rules, route as `monitoring` says.",
    )
    notify_block: str = Field(
        "", description="Prefect notification block that incidents are sent to, as type/name; empty: none."
    )
    notify_alertmanager: bool = Field(False, description="Whether incidents go to the Alertmanager too.")
    source: str = Field("", description="Folder or URL of CSV/Parquet files; empty: bundled data.")

    @property
    def mlflow_url(self) -> str:
        """Where the MLflow server answers."""
        return self.mlflow_server or f"http://{self.host}:{self.mlflow_port}"

    @property
    def prefect_url(self) -> str:
        """Where the Prefect server of the local stack answers."""
        return f"http://{self.host}:{self.prefect_port}"

    @property
    def service_url(self) -> str:
        """Where the prediction service of the local stack answers."""
        return f"http://{self.host}:{self.service_port}"

    @property
    def reports_url(self) -> str:
        """Where the reports of the local stack are read."""
        return f"http://{self.host}:{self.reports_port}"

    @property
    def evidently_url(self) -> str:
        """Where the Evidently UI answers; empty if the stack starts none."""
        return f"http://{self.host}:{self.evidently_port}" if self.evidently_port else ""

    @property
    def prometheus_url(self) -> str:
        """Where the local Prometheus answers, if it was started."""
        return f"http://{self.host}:{self.prometheus_port}"

    @property
    def alertmanager_url(self) -> str:
        """Where the local Alertmanager answers, if it was started."""
        return f"http://{self.host}:{self.alertmanager_port}"


def load_settings(**given: object) -> Settings:
    """Read the environment once; `given` wins over it.

    Raises SettingsError if a key is unknown or a value is out of range.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for key in os.environ:
        if key.startswith(PREFIX) and key not in known:
            raise SettingsError(
                key,
                got="a setting of that name",
                expected=f"one of {', '.join(sorted(known))}",
                next_step="Correct the name or unset it.",
            )
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        key = PREFIX + str(first["loc"][0]).upper()
        raise SettingsError(
            key, got=repr(first["input"]), expected=first["msg"], next_step="Set it to a valid value."
        ) from None
    return settings.model_copy(update={"home": settings.home.expanduser().resolve()})


def to_environment(settings: Settings) -> dict[str, str]:
    """Return the settings as environment variables, for a child process."""
    return {PREFIX + name.upper(): str(getattr(settings, name)) for name in Settings.model_fields}
