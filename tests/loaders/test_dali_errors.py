"""DALI running out of memory, and CUDA errors: told as what they are, with no search for a bad photograph."""

from __future__ import annotations

import pytest
import torch

from fasttrain.errors import fixable
from fasttrain.loaders import torchvision
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.dali import DaliLoader
from fasttrain.loaders.plan import Crop
from fasttrain.shards.reader import ShardSet
from fasttrain.training.memory import is_out_of_memory

pipeline_module = pytest.importorskip("nvidia.dali.pipeline")

CRITICAL = (
    "Critical error in pipeline:\nError in mixed operator `nvidia.dali.fn.decoders.image_slice`,\n"
    "which was used in the pipeline definition\nencountered:\n\n{}\nCurrent pipeline object is no longer valid."
)


@pytest.fixture
def loader(shard_folder):
    shards = ShardSet.open(shard_folder)
    loader = DaliLoader(shards, shards.ids("train"), LoaderSettings(16, 48, Crop(), seed=3, workers=1))
    yield loader
    loader.close()


def failing_with(monkeypatch, error, name="share_outputs"):
    """Have DALI fail once, in an epoch's first batches: those before are what a pipeline starts with."""
    function, calls = getattr(pipeline_module.Pipeline, name), []
    at = {"share_outputs": 4, "feed_input": 13}[name]

    def fails(self, *arguments, **options):
        found = function(self, *arguments, **options)
        calls.append(name)
        if len(calls) == at:
            raise error
        return found

    monkeypatch.setattr(pipeline_module.Pipeline, name, fails)


@pytest.fixture
def nothing_is_searched(monkeypatch):
    def search(*arguments):
        raise AssertionError("a photograph was searched")

    monkeypatch.setattr(torchvision, "decode_crop", search)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(CRITICAL.format("CUDA allocation failed")),
        RuntimeError(CRITICAL.format("Can't allocate 4294967296 bytes on device 0.")),
        MemoryError("CUDA allocation failed"),
    ],
)
@pytest.mark.parametrize("name", ["share_outputs", "feed_input"])
def test_the_gpus_memory(loader, monkeypatch, nothing_is_searched, error, name):
    expected = list(loader)
    loader.close()
    failing_with(monkeypatch, error, name)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory in DALI") as raised:
        list(loader)
    assert is_out_of_memory(raised.value) and "CUDA" in str(raised.value) and "\n" not in str(raised.value)
    assert "out of memory" in str(fixable(raised.value))
    for (images, _, _), (others, _, _) in zip(loader, expected, strict=True):
        assert torch.equal(images, others), "the loader works again once there is memory"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(CRITICAL.format("std::bad_alloc")),
        RuntimeError(CRITICAL.format("Can't allocate 8388608 bytes on host.")),
        MemoryError("std::bad_alloc"),
    ],
)
def test_the_hosts_memory(loader, monkeypatch, nothing_is_searched, error):
    failing_with(monkeypatch, error)
    with pytest.raises(MemoryError) as raised:
        list(loader)
    assert not isinstance(raised.value, torch.OutOfMemoryError)
    assert "out of memory" in str(fixable(raised.value))


def test_an_error_of_cuda_is_no_photographs(loader, monkeypatch, nothing_is_searched):
    error = RuntimeError(
        CRITICAL.format("CUDA runtime API error cudaErrorIllegalAddress (700):\nan illegal memory access")
    )
    failing_with(monkeypatch, error)
    with pytest.raises(RuntimeError, match="cudaErrorIllegalAddress") as raised:
        list(loader)
    assert raised.value is error
