"""Makes the pictures of the documents from those that the browser tests kept.

Run as `python -m tests.browser.screens`, after `make test` or `pytest -m browser`.
"""

import sys
from pathlib import Path

from PIL import Image

from feature_repo.settings import load_settings
from tests.docs_reading import DOCS, ROOT, list_links

SHOWN = ROOT / "infra" / "docs" / "screens"
WIDTH = 1000  # pixels: text stays readable, a picture stays small
COLOURS = (256, 64)
LIMIT = 200_000  # bytes


def write_picture(kept: Path, shown: Path) -> int:
    """Write the picture smaller and in few colours; return its bytes."""
    with Image.open(kept) as picture:
        height = round(picture.height * WIDTH / picture.width)
        small = picture.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
    for colours in COLOURS:
        small.quantize(colours, dither=Image.Dither.NONE).save(shown, optimize=True)
        if shown.stat().st_size < LIMIT:
            break
    return shown.stat().st_size


def main() -> int:
    """Renew every picture that a document shows; return 1 if one of them was not taken."""
    folder = load_settings().home / "screens"
    names = sorted({Path(link).name for page in DOCS for link in list_links(page) if link.endswith(".png")})
    lost = [name for name in names if not (folder / name).is_file()]
    SHOWN.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name not in lost:
            print(f"{write_picture(folder / name, SHOWN / name):>8,} bytes  {SHOWN / name}")
    for name in lost:
        print(f"{folder / name}: not there; run the browser tests first", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
