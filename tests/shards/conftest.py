"""A small source with everything in it that real folders have."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def photo(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """RGB, smooth noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def grow(source: Path, count: int = 5, seed: int = 500) -> list[str]:
    """Add photographs to `dog`, and a class that comes before the others."""
    (source / "ant").mkdir(exist_ok=True)
    paths = [f"{name}/{seed + number}.jpg" for name in ("ant", "dog") for number in range(count)]
    for number, path in enumerate(paths):
        photo(seed + number, (80, 60)).save(source / path, quality=90)
    return paths


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two classes of 12; in `cat/` a PNG named .jpg, EXIF, grey, CMYK, progressive, broken and foreign files."""
    root = tmp_path / "mixed"
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for number in range(12):
            photo(100 * label + number).save(root / name / f"{number:02d}.jpg", quality=90)
    cat = root / "cat"
    photo(0).save(cat / "00.jpg", "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(1).save(cat / "01.jpg", exif=exif)
    photo(2).convert("L").save(cat / "02.jpg")
    photo(3).convert("CMYK").save(cat / "03.jpg")
    photo(4).save(cat / "04.jpg", progressive=True)
    photo(5).save(cat / "a b.v2.webp")
    photo(6).save(cat / "05.png")
    (cat / "broken.jpg").write_bytes((cat / "06.jpg").read_bytes()[:400])
    (cat / "empty.jpg").touch()
    (cat / "notes.txt").write_text("not a photograph")
    return root


@pytest.fixture
def folder_of() -> Callable[[Path], dict[str, bytes]]:
    """Every file in a folder, by name."""
    return lambda folder: {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.fixture
def decoded() -> Callable[[bytes | memoryview], np.ndarray]:
    return lambda jpeg: np.asarray(Image.open(io.BytesIO(bytes(jpeg))).convert("RGB")).astype(int)
