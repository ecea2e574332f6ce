"""One Prefect test server for the whole session: starting it takes longer than most tests."""

import os
from collections.abc import Iterator

import pytest

from flows.local.stack_services import TELEMETRY_OFF

os.environ.update(TELEMETRY_OFF)  # before any of the libraries that would read it is imported


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server of its own, on a database of its own, that flows and clients find by themselves."""
    from prefect.settings import (
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_LOGGING_TO_API_ENABLED,
        PREFECT_SERVER_ANALYTICS_ENABLED,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    quiet = {
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,  # each run would wait a second for its thread
        PREFECT_LOGGING_TO_API_ENABLED: False,
        PREFECT_SERVER_ANALYTICS_ENABLED: False,
    }
    with temporary_settings(quiet), prefect_test_harness(server_startup_timeout=120):
        yield
