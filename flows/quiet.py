"""Keeps the libraries beneath to themselves: what they log and warn of is in var/logs and in the UIs.

Called before any of them is imported; what they say of themselves is nothing that a person at a terminal can
act on. `--traceback` leaves all of it on.
"""

import logging
import os
import sys
import warnings

# The story is told by progress and answers; each tool's own words are in its log and UI.
QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_CLI_COLORS": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TQDM_DISABLE": "1",
}
LOUD = ("alembic", "evidently", "feast", "great_expectations", "httpx", "matplotlib", "mlflow", "sqlalchemy")


def silence() -> None:
    """Silence what is about to be imported in this process; a setting of the user's own wins."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
