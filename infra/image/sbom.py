"""Adds the base's Debian packages to a CycloneDX bill of materials: python3 sbom.py BOM > NEW_BOM."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def list_packages() -> list[dict[str, Any]]:
    """Return what dpkg has installed, as components; nothing on a base without dpkg."""
    form = "${db:Status-Abbrev}\t${binary:Package}\t${Version}\t${Architecture}\n"
    try:
        told = subprocess.run(["dpkg-query", "-W", "-f", form], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        return []
    rows = [line.split("\t") for line in told.stdout.splitlines()]
    return [_describe(name.partition(":")[0], *rest) for status, name, *rest in rows if status[:2] == "ii"]


def _describe(name: str, version: str, architecture: str) -> dict[str, Any]:
    purl = f"pkg:deb/debian/{name}@{version.replace('+', '%2B').replace(':', '%3A')}?arch={architecture}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main(path: Path) -> None:
    """Print the bill of materials with the base's packages in it."""
    bom = json.loads(path.read_text())
    bom["components"] = [*bom.get("components", []), *list_packages()]
    json.dump(bom, sys.stdout, indent=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
