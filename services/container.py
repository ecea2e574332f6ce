"""The first process of the service's image: puts the baked model in place and becomes the server.

python -m services.container [MODEL_FOLDER]; MODEL_VERSION is the number that the folder has in the registry.
"""

import os
import sys
from pathlib import Path

from feature_repo.settings import Settings, load_settings
from services.baked import name_version, seed_model


def main(arguments: list[str]) -> None:
    """Seed, then serve; does not return."""
    settings = load_settings()
    if arguments:
        package = Path(arguments[0])
        version = os.environ.get("MODEL_VERSION") or name_version(package)
        seed_model(package, settings.home / "models", version, registry=bool(settings.mlflow_server))
    command = build_command(settings)
    # The server takes this process's place, so that it is the one that the container's signals reach.
    os.execv(command[0], command)  # noqa: S606 - there is no shell to go through


def build_command(settings: Settings) -> list[str]:
    """Return the command that serves."""
    serve = [sys.executable, "-m", "bentoml", "serve", "services.prediction:PredictionService"]
    folder = str(Path(__file__).resolve().parent.parent)
    where = ["--host", settings.host, "--port", str(settings.service_port), "--working-dir", folder]
    return [*serve, *where]


if __name__ == "__main__":
    main(sys.argv[1:])
