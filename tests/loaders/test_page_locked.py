"""Batches bound for a GPU lie in page-locked memory: a copy from other memory makes the host wait.

FFCV's are copied there, by a thread other than the training loop's.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.registry import loader_class
from fasttrain.shards.reader import ShardSet

SETTINGS = LoaderSettings(batch_size=8, image_size=32, crop=Crop(), seed=3, workers=1)


@pytest.fixture
def threads() -> set[str]:
    """Return the names of the threads that asked for page-locked memory."""
    return set()


@pytest.fixture
def page_locked(monkeypatch, threads) -> list[torch.Tensor]:
    """Return all memory that was asked for page-locked. Without a driver there is no such memory."""
    found, empty = [], torch.empty

    def noted(*shape, pin_memory=False, **options):
        memory = empty(*shape, **options)
        if pin_memory:
            found.append(memory)
            threads.add(threading.current_thread().name)
        return memory

    monkeypatch.setattr(torch, "empty", noted)
    return found


@pytest.mark.parametrize("name", ["native", pytest.param("ffcv", marks=pytest.mark.slow)])
def test_every_batch_for_a_gpu_is_page_locked(name, shard_folder, page_locked, threads):
    shards, kind = ShardSet.open(shard_folder), loader_class(name)
    if reason := kind.unavailable(shards, "cpu"):
        pytest.skip(reason)
    on_cpu, on_gpu = (kind(shards, shards.ids("train"), replace(SETTINGS, device=each)) for each in ("cpu", "cuda:0"))
    plan = on_cpu.plan()
    batches = [plan.batch(number, SETTINGS.batch_size) for number in range(3)]
    for (expected, _), (images, bad) in zip(on_cpu._load(batches), on_gpu._load(batches), strict=True):
        assert not bad and torch.equal(images, expected)
        addresses = {memory.data_ptr() for memory in page_locked}
        assert images.data_ptr() in addresses and expected.data_ptr() not in addresses
    on_cpu.close()
    on_gpu.close()
    assert threads == {"ffcv" if name == "ffcv" else threading.current_thread().name}
    assert "ffcv" not in {thread.name for thread in threading.enumerate()}


def test_torchs_own_workers_are_told_to(shard_folder):
    shards, kind = ShardSet.open(shard_folder), loader_class("torchvision")
    for device in ("cpu", "cuda"):
        loader = kind(shards, shards.ids("train"), replace(SETTINGS, workers=0, device=device))
        assert loader._batches.pin_memory == (device == "cuda")
