"""The native loader's memory: used again once a batch is released, and never while anything shares it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fasttrain.loaders import native
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.native import NativeLoader
from fasttrain.loaders.plan import Crop
from fasttrain.photos.cut import native_available
from fasttrain.shards.reader import ShardSet

pytestmark = pytest.mark.skipif(not native_available(), reason="needs the native module")


@pytest.fixture
def loader(shard_folder) -> Iterator[NativeLoader]:
    shards = ShardSet.open(shard_folder)
    loader = NativeLoader(shards, shards.ids("train"), LoaderSettings(7, 32, Crop(), workers=1))
    yield loader
    loader.close()


@pytest.mark.parametrize(
    "share",
    [
        lambda images: images,
        lambda images: images[1:3],
        lambda images: images.permute(0, 3, 1, 2),
        lambda images: images.view(-1),
        lambda images: images.detach(),
        lambda images: images.untyped_storage(),
        lambda images: images.numpy(),
        lambda images: images.numpy()[2:, 3:5].T,
        lambda images: memoryview(images.numpy()),
        lambda images: np.from_dlpack(images),
        lambda images: torch.utils.dlpack.from_dlpack(images),
    ],
    ids=[
        "tensor",
        "slice",
        "permuted",
        "view",
        "detached",
        "storage",
        "array",
        "part",
        "memoryview",
        "dlpack",
        "shared",
    ],
)
@pytest.mark.slow
def test_a_batch_that_is_still_shared_is_never_overwritten(loader, share):
    kept = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        for images, _, _ in loader:
            shared = share(images)
            kept.append((shared, torch.tensor(np.asarray(shared).copy())))
    assert len(kept) > 3 * (native._AHEAD + 1)
    assert all(np.array_equal(np.asarray(shared), copy) for shared, copy in kept)


def test_the_memory_of_a_released_batch_is_used_again(loader, monkeypatch):
    made = []

    def empty(shape, dtype=float):
        made.extend([shape] * (dtype is np.uint8))
        return ordinary(shape, dtype)

    ordinary = np.empty
    monkeypatch.setattr(native.np, "empty", empty)
    batches = sum(1 for epoch in range(3) for _ in _epoch(loader, epoch))
    assert batches > 20 and 0 < len(made) <= native._AHEAD + 2
    loader.set_image_size(48)
    assert all(images.shape[1:] == (48, 48, 3) for images, _, _ in _epoch(loader, 3))


def _epoch(loader, epoch):
    loader.set_epoch(epoch)
    yield from loader
