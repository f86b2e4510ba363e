"""`Loader.decode`: any samples, any boxes, beside a pass that is under way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fasttrain import CenterCrop, Loader
from fasttrain.errors import UserError
from fasttrain.shards.reader import ShardSet


def test_it_gives_the_pictures_of_a_pass(shard_folder) -> None:
    with Loader(shard_folder, split="val", batch_size=7, crop=CenterCrop(48), with_ids=True, workers=1) as loader:
        for images, _, ids in loader:
            assert torch.equal(loader.decode(ids.numpy()), images)
        backwards = ids.numpy()[::-1]
        assert torch.equal(loader.decode(backwards), images.flip(0))
        assert loader.decode(ids.tolist(), size=32).shape == (len(ids), 32, 32, 3)
        every, again = loader.decode(loader.ids), [images for images, *_ in loader]
        assert len(every) > 7 and torch.equal(every, torch.cat(again)), "more than a batch"
        assert loader.decode([]).shape == (0, 48, 48, 3)


@pytest.mark.parametrize("name", ["native", "torchvision"])
def test_boxes_are_cut_out(name, shard_folder) -> None:
    with Loader(shard_folder, crop=48, loader=name, workers=1) as loader:
        sample = int(loader.ids[3])
        height, width = ShardSet.open(shard_folder).sizes()[sample]
        boxes = np.array([[0, 0, height, width], [height // 2, 0, height - height // 2, width]], np.int32)
        full, lower = loader.decode([sample, sample], boxes, size=64).float()
        assert (full[32:].mean(dim=(0, 1)) - lower.mean(dim=(0, 1))).abs().max() < 3


@pytest.mark.parametrize(
    ("ids", "boxes", "said"),
    [
        ([-1], None, "ids: there is no sample -1"),
        ([10**6], None, "ids: there is no sample 1000000"),
        ([0], [[0, 0, 10_000, 10]], "lies outside of sample 0"),
        ([0], [[-1, 0, 10, 10]], "lies outside of sample 0"),
        ([0], [[0, 0, 10]], r"give \(1, 4\)"),
    ],
)
def test_mistakes(ids, boxes, said, shard_folder) -> None:
    with Loader(shard_folder, crop=48, workers=1) as loader, pytest.raises(UserError, match=said):
        loader.decode(ids, boxes)


def test_only_some_ids(shard_folder) -> None:
    wanted = ShardSet.open(shard_folder).ids("train")[3:9]
    with Loader(shard_folder, crop=48, ids=wanted, batch_size=4, with_ids=True, workers=1) as loader:
        assert sorted(torch.cat([ids for *_, ids in loader]).tolist()) == wanted.tolist()
