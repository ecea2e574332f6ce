"""A model that came inside the service's image: it serves until a registry says otherwise."""

import json
import shutil
from pathlib import Path

from services.live import REMEMBERED, read_remembered
from services.package import NEEDED, hash_package, is_intact, write_manifest

__all__ = ["name_version", "seed_model"]


def name_version(package: Path) -> str:
    """Return what a package without a number is called: by what it holds, so that no two share a name."""
    return f"baked-{hash_package(package)[:12]}"


def seed_model(package: Path, models: Path, version: str, *, registry: bool) -> bool:
    """Make a package what served last in the folder of models; return whether it is now. Safe to repeat.

    registry   whether there is one to follow. What was served from it last is then newer than the image, and
               stays; without one, a new image is how a new model comes.
    """
    if not (package / NEEDED[0]).is_file():
        return False
    remembered = models / REMEMBERED
    known = read_remembered(models)
    if registry and known.get("champion"):
        return False
    _copy(package, models / version)
    if known.get("champion") != version:
        known = {"champion": version, "before": known.get("champion"), "previous": known.get("champion")}
        part = remembered.with_name(f".{REMEMBERED}.seed")
        part.write_text(json.dumps(known))
        part.replace(remembered)
    return True


def _copy(package: Path, folder: Path) -> None:
    if is_intact(folder) and hash_package(folder) == hash_package(package):
        return
    part = folder.with_name(f".{folder.name}.seed")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(package, part)
    write_manifest(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)
