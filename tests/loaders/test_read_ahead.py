"""Photographs are in the page cache before a decoding thread asks for them."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil

import numpy as np
import pytest

from fasttrain.errors import UserError
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import Crop, EpochPlan
from fasttrain.loaders.read_ahead import ReadAhead
from fasttrain.photos.cut import native_available
from fasttrain.shards.reader import ShardSet
from tests.support.patience import wait_until

pytestmark = pytest.mark.skipif(not native_available(), reason="without the native module")


@pytest.fixture
def shards(shard_folder, tmp_path):
    return ShardSet.open(shutil.copytree(shard_folder, tmp_path / "shards"))


def resident(shards, number):
    """Share of the shard's pages in the page cache."""
    where = shards.locate_shards([number])
    mapped = np.frombuffer(where.buffers[0], np.uint8)
    pages = -(-len(mapped) // mmap.PAGESIZE)
    vector = (ctypes.c_ubyte * pages)()
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    assert mincore(ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(len(mapped)), vector) == 0
    return np.mean([page & 1 for page in vector])


def forget(shards):
    for shard in shards.manifest.shards:
        with (shards.folder / shard.name).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(ShardSet.open(shards.folder), 0) > 0:
        pytest.skip("this file system keeps its pages in memory")


def batches(shards, size=8):
    plan = EpochPlan.evaluation(shards.ids("train"), shards.sizes(), size=32)
    return [plan.batch(number, size) for number in range(plan.batch_count(size))]


@pytest.mark.parametrize("by_shard", [False, True])
def test_what_is_planned_gets_read(shards, by_shard):
    forget(shards)
    planned = batches(shards)
    ahead = ReadAhead(shards, iter(planned), by_shard=by_shard)
    ahead.advance(1)
    wait_until(lambda: resident(shards, 0) >= 0.9)
    ahead.close()
    validation = int(shards.index["shard"][shards.ids("val")[0]])
    assert resident(shards, validation) < 0.5, "nobody asked for this one"


def test_no_more_than_the_distance_is_asked_for(shards, monkeypatch):
    monkeypatch.setattr("fasttrain.loaders.read_ahead._PHOTOGRAPHS", 16)
    planned = iter(batches(shards))
    ahead = ReadAhead(shards, planned, by_shard=False)
    ahead.advance(8)
    ahead.close()
    assert len(list(planned)) == len(batches(shards)) - 3


@pytest.mark.parametrize("shuffle", ["full", "shards"])
def test_a_shuffled_epoch_has_every_sample_once(shards, shuffle):
    from fasttrain.loaders.native import NativeLoader

    settings = LoaderSettings(batch_size=16, image_size=32, crop=Crop(), workers=1, shuffle=shuffle)
    loader = NativeLoader(shards, shards.ids("train"), settings)
    seen = np.concatenate([ids.numpy() for _, _, ids in loader])
    loader.close()
    assert sorted(seen.tolist()) == shards.ids("train").tolist()


def test_an_index_that_points_outside_of_its_shard_is_refused(shards):
    for field, value in (("offset", 1 << 40), ("offset", (1 << 64) - 4), ("length", (1 << 32) - 1)):
        index = np.load(shards.folder / "index.npy")
        index[field][3] = value
        shards.index = index
        with pytest.raises(UserError, match="outside of the shard"):
            shards.locate(np.array([0, 3]))
