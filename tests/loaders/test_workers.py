"""Worker processes of `--loader torchvision` that die, or can't hand over what they made: said, and nobody waits; each
with its own reason."""

from __future__ import annotations

import multiprocessing.connection
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from fasttrain.errors import UserError, fixable, internal
from fasttrain.loaders import torchvision
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.torchvision import TorchvisionLoader
from fasttrain.shards.reader import ShardSet
from tests.support.patience import PATIENCE


@pytest.fixture
def loader(shard_folder, monkeypatch) -> Iterator[TorchvisionLoader]:
    shards = ShardSet.open(shard_folder)
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))  # s, between two looks
    loader = TorchvisionLoader(shards, shards.ids("train"), LoaderSettings(4, 32, Crop(), workers=2))
    yield loader
    loader.close()


def test_a_worker_that_is_killed_is_missed_and_the_other_ends_with_the_loader(loader):
    before, handled = set(multiprocessing.active_children()), signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    next(batches)
    first, second = set(multiprocessing.active_children()) - before
    os.kill(first.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="was ended by SIGKILL") as error:
        list(batches)
    assert "kernel as memory ran out" in str(fixable(error.value))
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


@pytest.mark.parametrize(
    ("ends", "said", "repaired"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "was ended by SIGSEGV", None),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), "was ended by SIGBUS", "/dev/shm"),
        (lambda: os.kill(os.getpid(), signal.SIGRTMIN), "was ended by SIGRTMIN", None),
        (lambda: os.kill(os.getpid(), signal.SIGRTMIN + 1), f"was ended by signal {signal.SIGRTMIN + 1}", None),
        (lambda: os._exit(3), "ended with exit code 3", None),
    ],
    ids=["SIGSEGV", "SIGBUS", "first real-time signal", "real-time signal", "exit code"],
)
def test_how_a_worker_ended_is_told_and_is_not_always_memory(loader, monkeypatch, ends, said, repaired):
    monkeypatch.setattr(torchvision._DecodedBatches, "__getitem__", lambda self, batch: ends())
    with pytest.raises(RuntimeError, match=said) as error:
        list(loader)
    line = fixable(error.value)
    assert (line is None) if repaired is None else repaired in str(line)


def test_where_no_worker_is_left_to_ask_nobody_waits(loader, monkeypatch):
    waited = []
    monkeypatch.setattr(multiprocessing.connection, "wait", lambda *given, **options: waited.append(given) or [])
    assert "ended as it started" in str(loader._worker_ended()) and not waited


@pytest.mark.parametrize(
    "raised",
    [KeyError("no room left"), RuntimeError("it says\nTraceback\nout of order"), ZeroDivisionError(), OSError(5, "x")],
    ids=lambda each: type(each).__name__,
)
def test_a_workers_own_exception_is_one_line_and_no_lack_of_memory(loader, monkeypatch, raised):
    def out_of_memory(self, batch):  # a name that stands in the worker's traceback
        raise raised

    monkeypatch.setattr(torchvision._DecodedBatches, "__getitem__", out_of_memory)
    if isinstance(raised, RuntimeError):
        monkeypatch.setattr(torchvision, "decode_crop", None)
    with pytest.raises(Exception, match="Original Traceback") as error:
        list(loader)
    assert type(raised).__name__ in internal(error.value) and "Traceback (" not in internal(error.value)
    assert "out of memory" not in str(fixable(error.value))


_SCRIPT = """
import multiprocessing.connection
multiprocessing.set_start_method("spawn", force=True)
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.torchvision import TorchvisionLoader
from fasttrain.shards.reader import ShardSet
shards = ShardSet.open("{data}")
list(TorchvisionLoader(shards, shards.ids("val"), LoaderSettings(4, 32, Crop(), workers=1)))
"""


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_of_it(shard_folder, tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(_SCRIPT.format(data=shard_folder))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1 and "the import itself starts worker processes" in done.stderr, done.stderr
    line = str(fixable(RuntimeError(done.stderr.strip().splitlines()[-1])))
    assert 'below `if __name__ == "__main__":`' in line and "memory" not in line, done.stderr
