"""Photographs a second that `convert` writes, with and without the cut and `.beton`, against FFCV's own writer."""

from __future__ import annotations

import shutil

import pytest

from fasttrain.shards.convert import convert
from fasttrain.shards.cut import native_available
from fasttrain.training.device import choose_workers

OURS = {
    "tar, cut none": {"cut": "none"},
    "tar, cut mcu": {"cut": "mcu"},
    "tar, cut mcu, standard tables": {"cut": "mcu", "optimize": False},
    "tar and beton, cut mcu": {"cut": "mcu", "format": "tar,beton"},
}


@pytest.mark.parametrize("name", list(OURS))
def test_convert(name, photographs, tmp_path, benchmark):
    if "mcu" in name and not native_available():
        pytest.skip("without the native module")
    out = tmp_path / "out"

    def run() -> int:
        shutil.rmtree(out, ignore_errors=True)
        return convert(str(photographs), out, progress=False, **OURS[name]).manifest.counts["stored"]

    report(name, benchmark, benchmark.pedantic(run, rounds=3))


def test_ffcv_writer(photographs, tmp_path, benchmark):
    """jpg, longest side as it is, quality 90: what its ImageNet recipe does at full size."""
    pytest.importorskip("ffcv")
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(photographs))
    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=90), "label": IntField()}

    def run() -> int:
        writer = DatasetWriter(str(tmp_path / "ffcv.beton"), fields, num_workers=choose_workers(None))
        writer.from_indexed_dataset(dataset)
        return len(dataset)

    report("FFCV's writer", benchmark, benchmark.pedantic(run, rounds=3))


def report(name: str, benchmark, images: int) -> None:  # type: ignore[no-untyped-def]
    benchmark.extra_info["img/s"] = round(images / benchmark.stats["median"])
    print(f"\n{name}: {benchmark.extra_info['img/s']:,} img/s")
