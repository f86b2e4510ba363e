"""Measure the cost of `convert`: shards against FFCV's own writer, and the cut alone against a decode of every pixel.

Rounds in which each runs once in turn, and medians over them.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from results import Results

from fasttrain.device import choose_workers
from fasttrain.photos.color import Color
from fasttrain.photos.cut import cut_jpeg, native_available
from fasttrain.photos.jpeg import strip_metadata
from fasttrain.photos.normalize import normalize
from fasttrain.shards.convert import convert
from tests.support.profiles import ADOBE, P3, SRGB, profile

FFCV = "FFCV's writer"
OURS = {
    "tar, cut none": {"cut": "none"},
    "tar, cut mcu": {"cut": "mcu"},
    "tar, cut mcu, standard tables": {"cut": "mcu", "optimize": False},
    "tar and beton, cut mcu": {"cut": "mcu", "format": "tar,beton"},
}


def test_convert(photographs, short, results, tmp_path):
    names = [name for name in OURS if "mcu" not in name or native_available()]
    running = {name: partial(run_ours, photographs, OURS[name]) for name in names}
    if not short and (ffcv := ffcv_writer(photographs)):
        running[FFCV] = ffcv
    rates, sizes = measure(running, tmp_path, rounds=3 if short else 5)
    part = {
        name: {
            "img/s": statistics.median(each),
            "bytes_per_image": sizes[name],
            **({"ratio_to_ffcv": ratio(each, rates[FFCV])} if FFCV in rates else {}),
        }
        for name, each in rates.items()
    }
    results.add("convert", part)
    rows = [
        [
            name if name == FFCV else f"**{name}**",
            f"{found['img/s']:,.0f}",
            f"{found['ratio_to_ffcv']:.2f}" if "ratio_to_ffcv" in found else "",
            f"{found['bytes_per_image'] / 1000:.1f}",
        ]
        for name, found in part.items()
    ]
    results.add_table("convert", ["writer", "img/s", f"to {FFCV}", "kB/img"], rows)


def test_cut(photographs, short, results, tmp_path):
    """One core, from memory to memory."""
    if not native_available():
        pytest.skip("without the native module")
    from peers.floor import Floor

    try:
        floor = Floor(photographs, tmp_path, threads=1)
    except ImportError as error:
        pytest.skip(str(error))

    def cut(optimize: bool, out: Path) -> int:
        return sum(bool(cut_jpeg(jpeg, "mcu", optimize)) for jpeg in floor.jpegs)

    running = {
        "decode": lambda out: sum(floor.batches()),
        "cut, optimal tables": partial(cut, True),
        "cut, standard tables": partial(cut, False),
    }
    rates, _ = measure(running, tmp_path, rounds=3 if short else 5)
    add_compared(results, "cut", rates, "decode", "ratio_to_decode", ["one core", "img/s", "to the decode"])


def test_color(photographs, short, results, tmp_path):
    """One core, from memory to memory: what reading, judging and applying an ICC profile costs."""
    if not native_available():
        pytest.skip("without the native module")
    files = sorted(photographs.rglob("*.jpg"))[: 100 if short else 400]
    plain = [strip_metadata(file.read_bytes()) for file in files]
    profiles = {"sRGB": profile(SRGB, None), "Display P3": profile(P3, None), "Adobe RGB": profile(ADOBE, 2.2)}

    def tagged(icc: bytes) -> list[bytes]:
        body = b"ICC_PROFILE\0\1\1" + icc
        return [jpeg[:2] + b"\xff\xe2" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:] for jpeg in plain]

    def stored(jpegs: list[bytes], color: Color, out: Path) -> int:
        return sum(bool(normalize(jpeg, cut="mcu", color=color).jpeg) for jpeg in jpegs)

    running = {"no profile": partial(stored, plain, "auto")}
    for name, icc in profiles.items():
        running |= {f"{name}, {color}": partial(stored, tagged(icc), color) for color in ("keep", "auto", "srgb")}
    rates, _ = measure(running, tmp_path, rounds=3 if short else 5)
    head = ["one core, profile and --color", "img/s", "to no profile"]
    add_compared(results, "color", rates, "no profile", "ratio_to_no_profile", head)


def add_compared(
    results: Results, name: str, rates: dict[str, list[float]], base: str, ratio_name: str, head: list[str]
) -> None:
    """Add each contender's median rate, and its ratio to `base` round by round, to the results and as a table."""
    part = {
        each: {"img/s": statistics.median(found), ratio_name: ratio(found, rates[base])}
        for each, found in rates.items()
    }
    results.add(name, part)
    rows = [[each, f"{found['img/s']:,.0f}", f"{found[ratio_name]:.2f}"] for each, found in part.items()]
    results.add_table(name, head, rows)


def run_ours(photographs: Path, settings: dict, out: Path) -> int:
    return convert(str(photographs), out / "shards", progress=False, **settings).manifest.counts["stored"]


def ffcv_writer(photographs: Path) -> Callable[[Path], int] | None:
    """jpg, longest side as it is, quality 90: what its ImageNet recipe does at full size."""
    try:
        from ffcv.fields import IntField, RGBImageField
        from ffcv.writer import DatasetWriter
    except ImportError as error:
        print(f"\nleft out: {error}")
        return None
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(photographs))

    def run(out: Path) -> int:
        fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=90), "label": IntField()}
        writer = DatasetWriter(str(out / "ffcv.beton"), fields, num_workers=choose_workers(None))
        writer.from_indexed_dataset(dataset)
        return len(dataset)

    return run


def measure(
    running: dict[str, Callable[[Path], int]], folder: Path, rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Images a second of each round, and bytes an image of what was written; each writes into an empty folder."""
    rates: dict[str, list[float]] = {name: [] for name in running}
    sizes = {}
    for _ in range(rounds):
        for name, run in running.items():
            out = folder / "out"
            out.mkdir()
            start = time.perf_counter()
            images = run(out)
            rates[name].append(images / (time.perf_counter() - start))
            sizes[name] = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / images
            shutil.rmtree(out)
    return rates, sizes


def ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
