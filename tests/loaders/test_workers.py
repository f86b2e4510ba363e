"""Worker processes of `--loader torchvision` that die, or can't hand over what they made: said, and nobody waits."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator

import pytest

from fasttrain.errors import UserError
from fasttrain.loaders import torchvision
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.torchvision import TorchvisionLoader
from fasttrain.shards.reader import ShardSet
from tests.patience import PATIENCE


@pytest.fixture
def loader(shard_folder) -> Iterator[TorchvisionLoader]:
    shards = ShardSet.open(shard_folder)
    loader = TorchvisionLoader(shards, shards.ids("train"), LoaderSettings(4, 32, Crop(), workers=2))
    yield loader
    loader.close()


def test_a_worker_that_is_killed_is_missed_and_the_other_ends_with_the_loader(loader):
    before, handled = set(multiprocessing.active_children()), signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    next(batches)
    first, second = set(multiprocessing.active_children()) - before
    os.kill(first.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        list(batches)
    assert signal.getsignal(signal.SIGCHLD) is handled, "an exception from a signal handler may come anywhere"
    loader.close()
    second.join(PATIENCE)
    assert set(multiprocessing.active_children()) == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch's half-made iterator
def test_workers_of_an_iterator_that_could_not_be_made_end(loader, monkeypatch):
    before = set(multiprocessing.active_children())
    started = []

    def start(self, *arguments):
        if started:
            raise OSError(24, "Too many open files")
        started.append(self)
        return ordinary(self, *arguments)

    ordinary = multiprocessing.context.ForkProcess.start
    monkeypatch.setattr(multiprocessing.context.ForkProcess, "start", start)
    with pytest.raises(OSError, match="Too many open files"):
        next(iter(loader))
    (first,) = started
    first.join(PATIENCE)
    assert not first.is_alive() and set(multiprocessing.active_children()) == before


def test_what_a_worker_cannot_send_is_an_error_and_no_endless_wait(loader, monkeypatch):
    monkeypatch.setattr(torchvision._DecodedBatches, "__getitem__", lambda self, batch: (lambda: 0, []))
    with pytest.raises(UserError, match="can't hand over its batch"):
        list(loader)
