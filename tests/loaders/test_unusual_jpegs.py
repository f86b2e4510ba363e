"""Photographs whose chroma components aren't alike, through the loaders that use the native decoder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "native"))

import jpegs

from fasttrain.loaders.base import Loader, LoaderSettings
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.registry import loader_class
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet

SETTINGS = LoaderSettings(batch_size=16, image_size=64, crop=Crop(), seed=3, workers=1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("unusual")
    for label in ("one", "two"):
        (folder / "source" / label).mkdir(parents=True)
        for kind, factors in jpegs.UNUSUAL.items():
            for width, height in [(150, 90), (37, 61), (300, 220)]:
                jpeg = jpegs.flat_jpeg(width, height, factors)
                (folder / "source" / label / f"{kind} {width}.jpg").write_bytes(jpeg)
    convert(str(folder / "source"), folder / "shards", workers=1, progress=False, format="tar,beton")
    return ShardSet.open(folder / "shards")


def make(name: str, shards: ShardSet) -> Loader:
    kind = loader_class(name)
    if reason := kind.unavailable(shards, "cpu"):
        pytest.skip(reason)
    loader = kind(shards, shards.ids("train"), SETTINGS)
    loader.set_epoch(0)
    return loader


@pytest.mark.parametrize("name", ["native", "ffcv"])
@pytest.mark.slow
def test_chroma_that_is_not_alike(name: str, shards: ShardSet) -> None:
    loader, reference = make(name, shards), make("torchvision", shards)
    count = 0
    for (got, _, ids), (expected, _, expected_ids) in zip(loader, reference, strict=True):
        assert ids.tolist() == expected_ids.tolist()
        assert (got.float() - expected.float()).abs().mean(dim=(1, 2, 3)).max() <= 1
        count += len(ids)
    assert count == len(shards.ids("train")) > 20
    loader.close()
    reference.close()
