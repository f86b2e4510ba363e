"""Every loader gives the sets of classes as float32 [n, classes], in the plan's order; so does the public Loader."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fasttrain import Loader
from fasttrain.loaders.registry import LOADERS, loader_class
from fasttrain.shards.reader import ShardSet


@pytest.mark.parametrize("name", list(LOADERS))
@pytest.mark.slow
def test_labels_are_sets(name: str, multi_label_shards: Path) -> None:
    shards = ShardSet.open(multi_label_shards)
    if reason := loader_class(name).unavailable(shards, "cpu"):
        pytest.skip(reason)
    with Loader(shards, batch_size=48, crop=32, loader=name, workers=1, with_ids=True) as loader:
        batches = list(loader)
    ids = torch.cat([ids for _, _, ids in batches]).numpy()
    labels = torch.cat([labels for _, labels, _ in batches])
    assert labels.dtype == torch.float32 and labels.shape == (len(shards.ids("train")), 4)
    assert (labels.numpy() == shards.labels()[ids]).all() and 0 < labels.mean() < 1
    assert ids.tolist() == loader.plan().ids.tolist()
