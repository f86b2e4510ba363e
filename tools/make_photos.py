"""Make photographs like Food-101's for benchmarks: JPEGs of quality 90 (4:2:0) with a longest side of 512 px.

python tools/make_photos.py OUT [--classes 20] [--per-class 100] [--size 512] [--sources DIR:DIR]

The photographs are random windows of large ones, which are the JPEGs over 300 kB below the folders --sources. By
default these are the folders in which Debian's packages mate-backgrounds, gnome-backgrounds and
plasma-workspace-wallpapers install pictures. All photographs of a class are windows of the same large one, so that a
model can tell the classes apart.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from PIL import Image

SOURCES = "/usr/share/backgrounds:/usr/share/wallpapers"
SHAPES = [(1, 1)] * 5 + [(1, 0.75)] * 3 + [(0.75, 1), (1, 0.666)]  # Food-101's mixture: width and height


def find_sources(folders: str) -> list[Path]:
    """Return the JPEGs over 300 kB below `folders`, which are separated by colons, sorted by path."""
    found = {path for folder in folders.split(":") for path in Path(folder).rglob("*.jp*g")}
    return sorted(path for path in found if path.stat().st_size > 300_000)


def make_photos(out: Path, classes: int, per_class: int, size: int = 512, folders: str = SOURCES) -> int:
    """Write photographs to `out`/class_NNN/NNNN.jpg. Return their number, 0 if there are no large JPEGs in `folders`.

    `size`: the longest side, px. The same arguments give the same files.
    """
    Image.MAX_IMAGE_PIXELS = None
    sources = find_sources(folders)
    draw = random.Random(0)
    for number in range(classes if sources else 0):
        folder = out / f"class_{number:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        source = Image.open(sources[number % len(sources)]).convert("RGB")
        for photo in range(per_class):
            width, height = (int(size * side) for side in draw.choice(SHAPES))
            zoom = draw.uniform(1.0, max(min(source.width / width, source.height / height) * 0.9, 1.0))
            box_width, box_height = min(int(width * zoom), source.width), min(int(height * zoom), source.height)
            left = draw.randint(0, source.width - box_width)
            top = draw.randint(0, source.height - box_height)
            box = (left, top, left + box_width, top + box_height)
            window = source.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=3)
            window.save(folder / f"{photo:04d}.jpg", quality=90)
    return classes * per_class if sources else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--size", type=int, default=512, help="longest side, px")
    parser.add_argument("--sources", default=SOURCES, help="folders with large JPEGs, separated by colons")
    given = parser.parse_args()
    made = make_photos(given.out, given.classes, given.per_class, given.size, given.sources)
    if not made:
        sys.exit(f"no JPEG over 300 kB below {given.sources}: apt-get install mate-backgrounds gnome-backgrounds")
    print(f"{made} photographs in {given.out}")
