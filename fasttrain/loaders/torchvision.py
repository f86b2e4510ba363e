"""`--loader torchvision`: decode with torchvision in worker processes. It runs wherever torch does."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing.connection
import multiprocessing.context
import multiprocessing.process
import multiprocessing.queues
import multiprocessing.util
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from fasttrain.config.interpolation import Interpolation
from fasttrain.errors import NO_SHM, UNGUARDED, WORKER, UserError, fixable, of_os
from fasttrain.loaders.base import LoaderSettings, ShardLoader
from fasttrain.loaders.plan import LETTERBOX_GREY, BadSamples, Batch, letterbox_size
from fasttrain.loaders.read_ahead import fetched_ahead
from fasttrain.photos.jpeg import require_jpeg

if TYPE_CHECKING:
    from fasttrain.shards.reader import ShardSet

_DYING_S = 1.0  # time for a worker whose connections are closed to get an exit code


class TorchvisionLoader(ShardLoader):
    """A loader that decodes complete photographs, crops them, and resizes with torchvision's antialiased filters."""

    name = "torchvision"

    def __init__(self, shards: ShardSet, ids: NDArray[np.int64], settings: LoaderSettings) -> None:
        super().__init__(shards, ids, settings)
        if settings.workers and getattr(multiprocessing.current_process(), "_inheriting", False):
            # This process is itself a worker that imports the script that started it. Python also refuses to start
            # workers here, but only later, when there is already a second run folder.
            raise UserError(
                f"each worker process imports this script, and the import itself starts worker processes; {UNGUARDED}"
            )
        self._planned: list[Batch] = []  # the "indices" are complete batches, so that workers keep no state
        self._batches = DataLoader(
            _DecodedBatches(shards),
            batch_size=None,
            sampler=self._planned,
            # A separate generator: each iteration draws a seed, which would advance the global one in a resumed run.
            generator=torch.Generator(),
            num_workers=settings.workers,
            persistent_workers=settings.workers > 0,
            worker_init_fn=_begin_worker,
            multiprocessing_context=_context() if settings.workers else None,
            pin_memory=settings.device.startswith("cuda"),
        )

    @classmethod
    def unavailable(cls, shards: ShardSet, device: str) -> str | None:
        return None

    @classmethod
    def preference(cls, device: str) -> int:
        return 0

    def _load(self, batches: Sequence[Batch]) -> Iterator[tuple[torch.Tensor, BadSamples]]:
        self._planned[:] = batches
        try:
            with _starting_workers():
                workers = iter(self._batches)  # forks, so it must come before any threads
        except ConnectionError as error:  # the connection to a worker that failed at its start
            raise self._worker_ended() from error
        except OSError as error:
            if self.settings.workers and error.errno in (errno.ENOSPC, errno.ENOENT, errno.EACCES, errno.ENOSYS):
                raise of_os(error, "/dev/shm", NO_SHM) from error  # Python keeps the workers' locks there
            raise
        if isinstance(workers, _MultiProcessingDataLoaderIter):
            # A program may end without `close`, and then Python waits for workers, which ignore SIGTERM.
            multiprocessing.util.Finalize(self, _kill, (workers._workers,), exitpriority=1)
        try:
            for images, bad in fetched_ahead(self.shards, batches, workers):
                if isinstance(bad, UserError):
                    raise bad
                yield images, bad
        except (ConnectionError, EOFError) as error:
            raise self._worker_ended() from error
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error):
                raise
            raise self._worker_ended() from error

    def _worker_ended(self) -> RuntimeError:
        """Return an error with the signal or the exit code of the worker that ended, which torch's error lacks."""
        iterator = self._batches._iterator
        workers = iterator._workers if isinstance(iterator, _MultiProcessingDataLoaderIter) else []
        sentinels = [worker.sentinel for worker in workers]
        # The connections close a moment before there is an exit code. Without sentinels `wait` would sleep.
        ended = multiprocessing.connection.wait(sentinels, timeout=_DYING_S) if sentinels else []
        for worker in workers:
            if worker.sentinel in ended:
                worker.join(_DYING_S)
        codes = [worker.exitcode for worker in workers if worker.exitcode is not None]
        if not codes:
            return RuntimeError(f"{WORKER} ended as it started{_started()}")
        if codes[0] < 0:
            return RuntimeError(f"{WORKER} was ended by {_signal_name(-codes[0])}")
        return RuntimeError(f"{WORKER} ended with exit code {codes[0]}{_started()}")

    def close(self) -> None:
        super().close()
        iterator, self._batches._iterator = self._batches._iterator, None
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            # Don't leave it to the garbage collector: a traceback may hold it, and workers ignore SIGTERM.
            iterator._shutdown_workers()
            _kill(iterator._workers)


def _kill(workers: Sequence[multiprocessing.process.BaseProcess]) -> None:
    """Kill worker processes, which ignore SIGTERM."""
    for worker in workers:
        worker.kill()


def decode_crop(
    data: bytes | memoryview,
    box: NDArray[np.int32],
    flip: bool,
    size: tuple[int, int],
    raw_size: tuple[int, int] | None = None,
    letterbox: bool = False,
    vflip: bool = False,
    interpolation: Interpolation = "bilinear",
) -> torch.Tensor:
    """Return `box` (top, left, height, width) of the photograph, resized to `size` (height, width): uint8 [H, W, 3].

    `flip`: flip horizontally. `vflip`: flip vertically. `letterbox`: keep the box's aspect ratio and fill the rest of
    the square with grey. `raw_size`: the height and width if `data` is pixels, uint8 RGB; None if it is a JPEG. Raises
    RuntimeError if libjpeg can't decode the bytes, or if pixels are missing.
    """
    top, left, height, width = (int(value) for value in box)
    rows, columns = slice(top, top + height), slice(left, left + width)
    if raw_size is None:
        picture = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        crop = picture[:, rows, columns]
    else:
        if len(data) != raw_size[0] * raw_size[1] * 3:
            raise RuntimeError(f"{len(data):,} bytes, but {raw_size[1]}x{raw_size[0]} pixels need 3 each")
        pixels = np.frombuffer(data, dtype=np.uint8).reshape(*raw_size, 3)
        crop = torch.from_numpy(pixels[rows, columns].copy()).permute(2, 0, 1)
    inner = letterbox_size(height, width, size[0]) if letterbox else size
    resized = F.resize(crop, list(inner), InterpolationMode(interpolation), antialias=True)
    picture = resized.flip([-1] * flip + [-2] * vflip)
    if letterbox:
        above, before = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
        around = [before, above, size[1] - inner[1] - before, size[0] - inner[0] - above]
        picture = F.pad(picture, around, fill=LETTERBOX_GREY)
    return picture.permute(1, 2, 0)


def decode_planned(
    data: bytes | memoryview, batch: Batch, position: int, raw_size: tuple[int, int] | None = None
) -> torch.Tensor:
    """Return the planned crop of the photograph at `position` of `batch`: see `decode_crop`."""
    flip, vflip = bool(batch.flips[position]), bool(batch.upside_down[position])
    how = (batch.size, raw_size, batch.letterbox, vflip, batch.interpolation)
    return decode_crop(data, batch.boxes[position], flip, *how)


@contextlib.contextmanager
def _starting_workers() -> Iterator[None]:
    """Return a context that disables torch's SIGCHLD handler while workers start. If one can't start, all are killed.

    If a worker is killed, the handler raises an exception at any point of the program. If that point is within
    `Condition.__enter__`, the lock is never released and the process never ends. Without the handler, torch checks its
    workers after 5 s without a batch.
    """
    others = set(multiprocessing.active_children())
    handled, signal_handling._SIGCHLD_handler_set = signal_handling._SIGCHLD_handler_set, True
    try:
        yield
    except BaseException:
        for worker in set(multiprocessing.active_children()) - others:  # `close` does not know of these yet
            worker.kill()
        raise
    finally:
        signal_handling._SIGCHLD_handler_set = handled


def _signal_name(number: int) -> str:
    """Return the name of signal `number`. Most real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _started() -> str:
    """Return " (start method METHOD)" with the start method of processes, or "" if it is "fork"."""
    method = multiprocessing.get_start_method()
    return "" if method == "fork" else f" (start method {method})"


class _Queue(multiprocessing.queues.Queue):
    """A queue for the batches of worker processes. If a batch can't be sent, the queue sends the error instead."""

    def _on_queue_feeder_error(self, error: Exception, item: Any) -> None:
        """Send `error` in place of a batch that can't be sent. Otherwise the run would wait for the batch forever.

        Each batch needs a file descriptor. Python itself would only print the error.
        """
        problem = fixable(error) or UserError(f"a worker process can't hand over its batch: {error}")
        self.put((item[0], (None, problem)))


def _context() -> multiprocessing.context.BaseContext:
    """Return Python's multiprocessing context with `_Queue` in place of its queue."""
    context = type(multiprocessing.get_context(multiprocessing.get_start_method()))()
    context.Queue = lambda maxsize=0: _Queue(maxsize, ctx=context)  # type: ignore[method-assign]
    return context


def _begin_worker(worker: int) -> None:
    """Set up a worker process: no tracebacks of Python's, and no reaction to SIGINT and SIGTERM."""
    if not os.environ.get("FASTTRAIN_DEBUG"):
        sys.excepthook = lambda *_: None  # Python prints a page for each missing descriptor
    # A terminal's Ctrl-C and a cluster's SIGTERM also reach workers, but the run needs another batch or two to stop
    # properly.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _DecodedBatches(Dataset[tuple[torch.Tensor, BadSamples | UserError]]):
    """A map from planned batches to their images and bad samples, for torch's DataLoader."""

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards
        self._sizes = shards.sizes()

    def __getitem__(self, batch: Batch) -> tuple[torch.Tensor, BadSamples | UserError]:
        images = torch.zeros((len(batch), *batch.size, 3), dtype=torch.uint8)
        bad = []
        for position, sample in enumerate(batch.ids):
            try:
                data = self.shards.bytes(int(sample))
                height, width = self._sizes[sample].tolist()
                raw_size = (height, width) if self.shards.raw else None
                if raw_size is None:
                    require_jpeg(data, width, height)  # otherwise a JPEG that claims to be small could take all memory
                images[position] = decode_planned(data, batch, position, raw_size)
            except (RuntimeError, ValueError) as error:
                bad.append((position, f"torchvision can't decode it ({str(error).splitlines()[0]})"))
            except UserError as error:
                return images, error  # not raised, because DataLoader would wrap it into a page of text
        if get_worker_info() is not None:
            try:
                images.share_memory_()  # otherwise a thread does it, and if that fails the run waits forever
            except RuntimeError as error:
                return torch.empty(0), UserError(f"/dev/shm: no room for a batch ({error}); {NO_SHM}")
        return images, bad
