"""`--source sample`: a small data set that is drawn by code, to try fasttrain without a download."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fasttrain.config.location import cache_root
from fasttrain.errors import of_os
from fasttrain.machine import sync_disks
from fasttrain.photos.dishes import DISHES, Brush, Colour
from fasttrain.photos.folder import list_tree
from fasttrain.photos.source import Listing, SourceOptions
from fasttrain.photos.tree import DiskTree

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

VERSION = 2
"""The version of the drawings. It is part of the folder's name, so that the cache never mixes two versions."""

_WIDTH = 256
_HEIGHTS = (192, 256, 320)
_FINE = 2  # dishes are drawn at twice the size and reduced, because the edges of Pillow's shapes are not smooth

_TABLES: list[Colour] = [(150, 105, 65), (90, 60, 40), (205, 190, 165), (70, 75, 80), (200, 205, 210), (60, 90, 110)]
_PLATES: list[Colour] = [*[(240, 240, 236)] * 3, (205, 215, 225), (225, 212, 190), (70, 72, 76)]
_USUAL: dict[str, tuple[Colour, Colour]] = {
    "donuts": ((232, 190, 205), (246, 238, 242)),
    "pancakes": ((96, 140, 190), (240, 240, 236)),
    "pizza": ((118, 66, 36), (172, 120, 72)),
    "salad": ((206, 222, 186), (240, 240, 236)),
    "soup": ((120, 124, 128), (70, 66, 64)),
    "sushi": ((44, 46, 50), (34, 38, 42)),
}
_USUAL_SHARE = 0.92
"""The share of photographs with the dish's usual table and plate. As with real data, a network learns these first."""

OPTIONS: frozenset[str] = frozenset()


def claims(source: str) -> bool:
    """Return whether `source` is "sample"."""
    return source == "sample"


def listed(source: str | Path, options: SourceOptions) -> Listing:
    """List the sample, which is drawn into the cache on first use. Raises UserError if it can't be written."""
    return list_tree(DiskTree(cached_sample(cache_root())), "sample", "sample", options)


def cached_sample(cache: Path) -> Path:
    """Return the folder of the sample in `cache`. The sample is drawn on first use. Raises UserError if the folder
    can't be written."""
    out = cache / f"sample-v{VERSION}"
    if not out.is_dir():
        try:
            draw_sample(out)
        except OSError as error:
            raise of_os(error, out, "set FASTTRAIN_CACHE to a folder with 30 MB of free space") from error
    return out


def draw_sample(out: Path, per_class: int = 200, seed: int = 0) -> None:
    """Draw `per_class` photographs of each dish to `out`/CLASS/NNNN.jpg, 256 px wide, as JPEGs of quality 90 with 4:2:0
    subsampling.

    `seed` is in [0, 2**63). The result is the same on every machine with the same versions of NumPy and Pillow. `out`
    appears only when it is complete. Raises OSError if it can't be written.
    """
    staging = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    jobs = [(name, kind, number) for kind, name in enumerate(DISHES) for number in range(per_class)]
    for name in DISHES:
        (staging / name).mkdir(parents=True, exist_ok=True)

    def draw(job: tuple[str, int, int]) -> None:
        name, kind, number = job
        sequence = np.random.SeedSequence((seed, kind, number))
        (staging / name / f"{number:04d}.jpg").write_bytes(_photograph(name, np.random.default_rng(sequence)))

    try:
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            list(pool.map(draw, jobs))
        sync_disks()  # otherwise a power cut may leave names without contents
        try:
            staging.rename(out)
        except OSError:
            if not out.is_dir():  # otherwise another process has just drawn it
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _photograph(name: str, rng: np.random.Generator) -> bytes:
    """Return a drawing of the dish `name` as a JPEG."""
    from io import BytesIO

    from PIL import Image, ImageDraw, ImageFilter

    height = _HEIGHTS[int(rng.integers(len(_HEIGHTS)))]
    layer = Image.new("RGBA", (_FINE * _WIDTH, _FINE * height))
    draw = ImageDraw.Draw(layer)
    brush = _brush(draw, height, rng)
    _clutter(brush)
    table, plate = brush.choice(_TABLES), brush.choice(_PLATES)
    if rng.random() < _USUAL_SHARE:
        table, plate = _USUAL[name]
    plate = brush.vary(plate, 6)
    brush.disc(0, 0, 1.32, plate)
    brush.disc(0, 0, 1.05, _darker(plate, 0.9))
    brush.disc(0, 0.01, 1.03, plate)
    DISHES[name](brush, plate)
    painted = np.asarray(layer.reduce(_FINE))
    opaque = painted[..., 3:] / np.float32(255)
    shadow = Image.fromarray(painted[..., 3]).filter(ImageFilter.BoxBlur(7))
    shift = (int(rng.integers(2, 9)), int(rng.integers(-8, 9)))
    scene = _table(brush.vary(table, 8), height, rng)
    scene *= 1 - np.roll(np.asarray(shadow) / np.float32(510), shift, (0, 1))[..., None]
    food = painted[..., :3] * (1 + 0.1 * _clouds(height, (24, 64), rng))[..., None]
    scene += (food - scene) * opaque
    scene *= _light(height, rng)
    picture = Image.fromarray(scene.clip(0, 255).astype(np.uint8))
    blurred = np.asarray(picture.filter(ImageFilter.BoxBlur(rng.uniform(0.2, 1.3))))
    grain = rng.standard_normal((height, _WIDTH, 1), dtype=np.float32) * np.float32(rng.uniform(1.5, 7))
    file = BytesIO()
    Image.fromarray((blurred + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90, subsampling="4:2:0")
    return file.getvalue()


def _brush(draw: ImageDraw, height: int, rng: np.random.Generator) -> Brush:
    """Return a brush for a plate with a random place, size and angle."""
    radius = _FINE * min(_WIDTH, height) * rng.uniform(0.36, 0.5)
    centre = (
        _FINE * _WIDTH * (0.5 + rng.uniform(-0.12, 0.12)),
        _FINE * height * (0.5 + rng.uniform(-0.12, 0.12)),
    )
    return Brush(draw, rng, centre, radius, rng.uniform(0.72, 1.0), rng.uniform(0, 6.28))


def _table(colour: Colour, height: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return an image of a table of wood, cloth or stone, float32 [height, 256, 3], 0 to 255."""
    kind = int(rng.integers(3))
    if kind == 0:
        pattern = 0.25 * _clouds(height, (3, 40), rng, tall=True) + 0.08 * _clouds(height, (60,), rng)
    elif kind == 1:
        step, down, across = rng.uniform(9, 26), np.arange(height)[:, None], np.arange(_WIDTH)[None, :]
        pattern = 0.16 * (np.sin(down * 6.28 / step) > 0) + 0.16 * (np.sin(across * 6.28 / step) > 0) - 0.16
    else:
        pattern = 0.3 * _clouds(height, (4, 12, 48), rng)
    brightness = np.float32(rng.uniform(0.8, 1.15))
    return np.array(colour, dtype=np.float32) * brightness * (1 + pattern[..., None].astype(np.float32))


def _clouds(
    height: int, cells: tuple[int, ...], rng: np.random.Generator, *, tall: bool = False
) -> NDArray[np.float32]:
    """Return smooth noise, float32 [height, 256], mostly between -1 and 1.

    `cells` is the number of cells across for each octave. With `tall`, the noise consists of vertical streaks.
    """
    from PIL import Image

    total = np.zeros((height, _WIDTH), dtype=np.float32)
    for octave, across in enumerate(cells):
        rows = max(2, across // 8) if tall else max(2, across * height // _WIDTH)
        coarse = rng.standard_normal((rows, across + 1), dtype=np.float32)
        smooth = Image.fromarray(coarse).resize((_WIDTH, height), Image.Resampling.BICUBIC)
        total += np.asarray(smooth) * np.float32(0.5 / (octave + 1))
    return total


def _light(height: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the brightness factor of each pixel, float32 [height, 256, 3]: exposure, gradient, colour and vignette."""
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    across = np.linspace(-1, 1, _WIDTH, dtype=np.float32)[None, :]
    angle, slope = rng.uniform(0, 6.28), rng.uniform(0.05, 0.3)
    gradient = 1 + np.float32(slope * np.cos(angle)) * across + np.float32(slope * np.sin(angle)) * down
    vignette = 1 - np.float32(rng.uniform(0.02, 0.12)) * (across**2 + down**2)
    warmth, exposure = rng.uniform(-0.05, 0.05), rng.uniform(0.8, 1.1)
    colour = np.array([1 + warmth, 1, 1 - warmth], dtype=np.float32) * np.float32(exposure)
    return (gradient * vignette)[..., None] * colour


def _clutter(brush: Brush) -> None:
    """Draw objects that may be next to any dish: cutlery, a napkin, a glass, a bread roll."""
    steel = brush.vary((175, 178, 182), 8)
    for side in (-1.55, 1.55):
        if brush.between(0, 1) < 0.5:
            brush.line([(side, -0.8), (side + brush.between(-0.1, 0.1), 0.9)], 0.07, steel)
            brush.oval(side, -0.8, 0.24, 0.1, 1.57, steel)
    for _ in range(brush.count(0, 3)):
        angle = brush.between(0, 6.28)
        x, y = 1.75 * np.cos(angle), 1.75 * np.sin(angle)
        thing = brush.count(0, 2)
        if thing == 0:
            brush.disc(x, y, 0.36, brush.vary((190, 200, 205)))
            brush.disc(x, y, 0.3, brush.vary(brush.choice([(120, 60, 30), (215, 225, 230), (240, 190, 60)])))
        elif thing == 1:
            cloth = brush.vary(brush.choice([(200, 60, 60), (235, 235, 230), (70, 100, 150)]))
            brush.polygon([(x - 0.5, y - 0.4), (x + 0.4, y - 0.5), (x + 0.5, y + 0.4), (x - 0.4, y + 0.5)], cloth)
        else:
            brush.blob(x, y, 0.38, brush.vary((205, 155, 90)), 0.08)


def _darker(colour: Colour, factor: float) -> Colour:
    return int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor)
