"""The graph and the threads that DALI gets for a GPU. Both can be looked at without one."""

from __future__ import annotations

import gc
import re
import weakref
from typing import Any

import pytest
import torch

from fasttrain.loaders import dali, dali_graph
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.dali import DaliLoader
from fasttrain.loaders.dali_graph import decoder_threads, make_pipeline
from fasttrain.loaders.plan import Crop
from fasttrain.shards.reader import ShardSet

pytest.importorskip("nvidia.dali")


def decoder_of(device_id: int | None, **options: Any) -> dict[str, str]:
    """Return the arguments of the graph's decoder, as DALI's C++ is given them."""
    pipeline = make_pipeline(batch_size=4, size=32, threads=3, device_id=device_id, **options)
    pipeline._build_graph()
    (spec,) = (str(each.spec) for each in pipeline._ops if str(each.spec).startswith("OpSpec for decoders"))
    return dict(re.findall(r"^    (\w+): (.*)$", spec, re.MULTILINE))


@pytest.mark.parametrize(
    ("workers", "cores", "threads"),
    [(16, 16, 14), (8, 16, 8), (15, 16, 14), (4, 4, 2), (2, 2, 1), (1, 1, 1), (0, 16, 1)],
)
def test_on_a_gpu_decoder_feeder_and_training_loop_share_the_cores(workers, cores, threads):
    assert decoder_threads(workers, cores, 0) == threads
    assert threads == 1 or threads + 2 <= cores


def test_without_a_gpu_it_takes_as_many_threads_as_were_asked_for():
    assert [decoder_threads(workers, 4, None) for workers in (0, 1, 4, 6)] == [1, 1, 4, 6]


def test_no_thread_of_the_decoder_is_tied_to_a_core():
    """DALI ties thread 0 of each process to the same core, where several ranks share a machine."""
    assert decoder_of(0)["affine"] == "False" and decoder_of(0)["device"] == "mixed"
    assert decoder_of(None)["device"] == "cpu"


def test_a_photographs_pixels_do_not_depend_on_its_place_in_the_batch():
    """DALI's own 0.65 has the JPEG engine decode some places, and CUDA kernels the others."""
    assert float(decoder_of(0)["hw_decoder_load"]) == 0
    assert float(decoder_of(0, hw_decoder_load=0.5)["hw_decoder_load"]) == 0.5
    assert "hw_decoder_load" not in decoder_of(None)


def test_a_pipeline_starts_with_full_batches(shard_folder, monkeypatch):
    """Its first batch fixes how many photographs nvImageCodec gives to the JPEG engine."""
    fed = []
    shards, feed = ShardSet.open(shard_folder), dali_graph.feed
    monkeypatch.setattr(
        dali_graph, "feed", lambda *given: fed.append([len(each) for each in given[1:6]]) or feed(*given)
    )
    loader = DaliLoader(shards, shards.ids("train"), LoaderSettings(16, 48, Crop(), workers=1))
    loader._pipeline(loader.plan().batch(0, 16))
    loader.close()
    assert fed == [[16] * 5] * dali_graph.AHEAD


def test_a_loader_gives_dali_no_more_threads_and_slices_in_its_own(shard_folder, monkeypatch):
    shards, given, sliced = ShardSet.open(shard_folder), [], []
    make, slices = dali.make_pipeline, dali.sliced_jpegs

    def on_the_cpu(**options):
        given.append((options["threads"], options["device_id"]))
        return make(**{**options, "device_id": None})

    monkeypatch.setattr(dali, "make_pipeline", on_the_cpu)
    monkeypatch.setattr(dali, "sliced_jpegs", lambda *given: sliced.append(given[2:]) or slices(*given))
    monkeypatch.setattr(dali, "cores_of_process", lambda: 16)
    for device in ("cpu", "cuda:1"):
        loader = DaliLoader(shards, shards.ids("train"), LoaderSettings(16, 48, Crop(), workers=16, device=device))
        pipeline = loader._pipeline(batch := loader.plan().batch(0, 16))
        loader._feed(batch)
        pipeline.share_outputs()
        pipeline.release_outputs()
        loader.close()
    assert given == [(16, None), (14, 1)] and sliced == [()] * 2


def test_its_memory_for_batches_of_a_size_is_held_and_let_go(shard_folder, monkeypatch):
    shards, sizes, released = ShardSet.open(shard_folder), [], []
    make, empty = dali.make_pipeline, torch.empty

    def on_the_cpu(**options):
        sizes.append(options["batch_size"])
        made = make(**{**options, "device_id": None})
        alive.append(weakref.ref(made))
        return made

    alive: list[weakref.ref[Any]] = []
    monkeypatch.setattr(dali, "make_pipeline", on_the_cpu)
    monkeypatch.setattr(torch, "empty", lambda *shape, device=None, **options: empty(*shape, **options))
    monkeypatch.setattr(DaliLoader, "_stream", lambda self: None)
    monkeypatch.setattr(dali, "release_unused_memory", lambda: released.append(len(sizes)))
    loader = DaliLoader(shards, shards.ids("train"), LoaderSettings(8, 48, Crop(), workers=1, device="cuda:0"))
    for size in (4, 16):
        with loader.holding_memory(size):
            assert sizes[-1] == size and alive[-1]() is not None
        gc.collect()
        assert alive[-1]() is None
    assert sizes == [4, 16] and released == [0, 1, 1, 2]
    assert not loader._pipelines, "its own are made when they are needed"


def test_without_a_gpu_none_is_held(shard_folder, monkeypatch):
    shards = ShardSet.open(shard_folder)
    monkeypatch.setattr(dali, "make_pipeline", None)
    with DaliLoader(shards, shards.ids("train"), LoaderSettings(8, 48, Crop())).holding_memory(4):
        pass
