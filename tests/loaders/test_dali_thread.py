"""DALI in a thread of its own: the training loop's thread neither slices, nor feeds DALI, nor waits for the GPU."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest
import torch

from fasttrain.loaders import dali
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.dali import DaliLoader
from fasttrain.loaders.plan import Crop
from fasttrain.shards.reader import ShardSet

pipeline_module = pytest.importorskip("nvidia.dali.pipeline")

SETTINGS = LoaderSettings(batch_size=16, image_size=48, crop=Crop(), seed=3, workers=1)


@pytest.fixture(scope="module")
def shards(shard_folder):
    return ShardSet.open(shard_folder)


@pytest.fixture
def loader(shards):
    loader = DaliLoader(shards, shards.ids("train"), SETTINGS)
    yield loader
    loader.close()


def noting(monkeypatch, owner, name, note):
    function = getattr(owner, name)

    def noted(*arguments, **options):
        note(name, dict(options))
        options.pop("cuda_stream", None)  # a pipeline on the CPU doesn't accept it
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, noted)


def test_all_of_it_runs_in_one_thread_which_ends_with_the_pass(loader, monkeypatch):
    threads = {}

    def note(name, options):
        threads.setdefault(name, set()).add(threading.current_thread())

    noting(monkeypatch, dali, "sliced_jpegs", note)
    noting(monkeypatch, dali, "require_jpeg", note)
    for name in ("feed_input", "schedule_run", "share_outputs", "release_outputs"):
        noting(monkeypatch, pipeline_module.Pipeline, name, note)
    assert len(list(loader)) == len(loader)
    assert len(threads) == 6 and len(set.union(*threads.values())) == 1
    (thread,) = threads["share_outputs"]
    assert thread.name == "dali" and not thread.is_alive()


@pytest.mark.parametrize("closes", ["the pass", "the loader"])
def test_a_pass_that_is_left_early_leaves_no_thread(loader, closes):
    batches = iter(loader)
    next(batches)
    assert "dali" in {thread.name for thread in threading.enumerate()}
    (batches if closes == "the pass" else loader).close()
    assert "dali" not in {thread.name for thread in threading.enumerate()}


class Stream:
    """Stands for a CUDA stream, which can't be made without a driver."""

    def __init__(self):
        self.events = []

    def record_event(self):
        self.events.append(f"event {len(self.events)}")
        return self.events[-1]


def test_on_a_gpu_dali_is_given_a_stream_and_the_model_an_event(loader, monkeypatch):
    stream, given, taken = Stream(), [], []
    monkeypatch.setattr(loader, "_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(dali, "received", lambda images, ready: taken.append(ready) or images)
    noting(monkeypatch, pipeline_module.Pipeline, "share_outputs", lambda name, options: given.append(options))
    noting(
        monkeypatch,
        pytest.importorskip("nvidia.dali.plugin.pytorch"),
        "feed_ndarray",
        lambda name, options: given.append(options),
    )
    expected = list(DaliLoader(loader.shards, loader.ids, SETTINGS))
    given.clear()
    for (images, _, _), (others, _, _) in zip(loader, expected, strict=True):
        assert torch.equal(images, others)
    started = dali.AHEAD  # batches that a new pipeline makes of nothing
    assert given[:started] == [{}] * started
    assert given[started:] == [{"cuda_stream": stream}] * (2 * len(expected))
    assert taken == stream.events and len(taken) == len(expected)
