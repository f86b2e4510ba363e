"""`--loader ffcv`: FFCV's own `Loader` over a `.beton`, with a decoder that follows the plan.

FFCV's stock decoder draws its own crops, decodes with the fast DCT, resizes with INTER_AREA, and ignores corrupt
samples silently. This one calls fasttrain's native decoder with the address of a row in a table, because numba freezes
the arrays that compiled code captures. The row holds the box and the flip, and the decoder records there whether it
failed. There is a row for each position in the epoch, because a sample may occur several times; FFCV gets the position
and the sample combined into one number.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import queue
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.loaders.base import LoaderSettings, ShardLoader
from fasttrain.loaders.in_thread import in_thread
from fasttrain.loaders.plan import BadSamples, Batch, flags_of
from fasttrain.loaders.to_device import empty_pictures
from fasttrain.photos.cut import native_available
from fasttrain.shards.beton import BetonBytes, beton_problem
from fasttrain.shards.format import SPLITS

if TYPE_CHECKING:
    from fasttrain.shards.reader import Located, ShardSet


_PLANNED_ROW = np.dtype([("box", np.int32, 4), ("flags", np.int32), ("failed", np.int32)])  # see bind/ffcv.cpp


class FfcvLoader(ShardLoader):
    """A loader for one split of shards made by `convert --format tar,beton`."""

    name = "ffcv"

    def __init__(self, shards: ShardSet, ids: NDArray[np.int64], settings: LoaderSettings) -> None:
        super().__init__(shards, ids, settings)
        self.split = SPLITS[int(shards.index["split"][ids[0]])]
        self._first_id = int(shards.ids(self.split)[0])
        self._file = BetonBytes(shards, self.split)
        self._views: dict[int, _ViewReader] = {}

    @classmethod
    def unavailable(cls, shards: ShardSet, device: str) -> str | None:
        if shards.raw:
            return (
                "these shards hold pixels, but FFCV's files need JPEGs; use --loader native, or convert without --raw"
            )
        if not shards.mapped:
            return "FFCV's files are made by `convert --format tar,beton`; use --loader native for a plain folder"
        if shards.stored is not shards:
            return "FFCV's files hold one split each, but a fold mixes train and val; use --loader native"
        if shards.remote:
            return "FFCV's files are not fetched from a URL; use --loader native"
        if importlib.util.find_spec("ffcv") is None:
            return "FFCV is not installed; `fasttrain doctor` says how to install it"
        if not native_available():
            return "fasttrain was installed without its native module; `fasttrain doctor` says how to install it"
        problems = (beton_problem(shards, split) for split in SPLITS if len(shards.ids(split)))
        return next((problem for problem in problems if problem), None)

    @classmethod
    def preference(cls, device: str) -> int:
        return 10

    def _load(self, batches: Sequence[Batch]) -> Iterator[tuple[torch.Tensor, BadSamples]]:
        by_view: dict[int, list[Batch]] = {}
        for batch in batches:
            by_view.setdefault(batch.view, []).append(batch)
        with contextlib.ExitStack() as open_views:
            reading = {
                view: open_views.enter_context(contextlib.closing(self._reader(view, planned[0].size[0]).read(planned)))
                for view, planned in by_view.items()
            }
            for batch in batches:
                images, failed = next(reading[batch.view])
                yield images, [(position, self._reason(batch, position)) for position in failed]

    def _reader(self, view: int, side: int) -> _ViewReader:
        if view not in self._views:
            samples = len(self.shards.ids(self.split))
            path = self.shards.folder / f"{self.split}.beton"
            rows = max(samples, len(self.ids))
            self._views[view] = _ViewReader(path, samples, rows, self._first_id, side, self.settings)
        return self._views[view]

    def set_image_size(self, side: int) -> None:
        if side != self.settings.image_size:
            self.close()
        super().set_image_size(side)

    def close(self) -> None:
        super().close()
        self._views = {}

    def _locate(self, samples: NDArray[np.int64]) -> Located:
        return self._file.locate(samples - self._first_id)

    def _reason(self, batch: Batch, position: int) -> str:
        from fasttrain import _native

        height, width = batch.size
        try:
            jpeg = self.shards.bytes(int(batch.ids[position]))
            _native.decode_crop(jpeg, tuple(batch.boxes[position].tolist()), False, (height, width))
        except ValueError as error:
            return f"it is broken in FFCV's file ({error})"
        return "it is broken in FFCV's file, but intact in the shard"


class _ViewReader:
    """Reads one view of all photographs with FFCV's own loader, from the beton at `path`, at a size of `side` px."""

    def __init__(self, path: Path, samples: int, rows: int, first_id: int, side: int, settings: LoaderSettings) -> None:
        """Make FFCV's loader.

        `samples`: the number of samples in the beton. `rows`: the greatest number of samples in an epoch. `first_id`:
        the id of the beton's first sample.
        """
        self._samples, self._first_id, self._device = samples, first_id, settings.device
        # Compiled code holds its address, so it must never move.
        self._table = np.zeros(rows, _PLANNED_ROW)
        self._loader, self._order = _make_loader(path, self._table, samples, side, settings)

    def read(self, batches: Sequence[Batch]) -> Generator[tuple[torch.Tensor, list[int]], None, None]:
        """Yield the images of each batch, and the positions of the images that could not be decoded."""
        bounds = [0, *np.cumsum([len(batch) for batch in batches]).tolist()]
        places = [slice(*each) for each in pairwise(bounds)]
        for batch, rows in zip(batches, places, strict=True):
            self._table["box"][rows], self._table["flags"][rows] = batch.boxes, flags_of(batch)
        samples = np.concatenate([batch.ids for batch in batches]) - self._first_id
        self._order.numbers = np.arange(len(samples)) * self._samples + samples
        self._table["failed"] = 0
        with _torch_threads_kept():
            epoch = iter(self._loader)
        try:
            copies = self._copies(epoch, places)
            # If the model runs on a GPU, copying is left to another thread.
            with contextlib.closing(in_thread(copies, "ffcv") if self._device.startswith("cuda") else copies) as copied:
                yield from copied
        finally:
            # FFCV's thread reads the table, so it must end before the next epoch fills it.
            _end_thread(epoch)

    def _copies(self, epoch: Any, places: Sequence[slice]) -> Generator[tuple[torch.Tensor, list[int]], None, None]:
        """Copy each batch: FFCV hands out slots of a ring buffer, which it overwrites a few batches later."""
        for rows, (images,) in zip(places, epoch, strict=True):
            failed = np.flatnonzero(self._table["failed"][rows])
            yield empty_pictures(tuple(images.shape), self._device).copy_(images), failed.tolist()


def _end_thread(epoch: Any) -> None:
    """End the thread of FFCV's `epoch`, and wait until it has ended."""
    epoch.close()
    while epoch.is_alive():  # FFCV's thread may be waiting to put its last message into a full queue
        with contextlib.suppress(queue.Empty):
            epoch.output_queue.get_nowait()
        epoch.join(0.01)


@contextlib.contextmanager
def _torch_threads_kept() -> Iterator[None]:
    """Return a context that keeps torch's number of threads.

    FFCV would set that to the number of its own threads, which slows the model and changes the rounding of its sums.
    """
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _native_decode() -> Any:
    """Return the native decoder as a C function, which numba can call."""
    from fasttrain import _native

    function = ctypes.CDLL(_native.__file__).fasttrain_ffcv_decode_row
    pointer, signed = ctypes.c_void_p, ctypes.c_int32
    function.argtypes = [pointer, ctypes.c_uint64, signed, signed, pointer, signed, signed, pointer]
    function.restype = None
    return function


def _make_loader(
    path: Path, planned: NDArray[np.void], samples: int, size: int, settings: LoaderSettings
) -> tuple[Any, Any]:
    """Return FFCV's loader over the beton at `path`, and the order in which it reads rows of the table `planned`."""
    from ffcv.loader import Loader as FfcvOwnLoader
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler
    from ffcv.pipeline.operation import Operation
    from ffcv.pipeline.pipeline_spec import PipelineSpec
    from ffcv.transforms import ToTensor
    from ffcv.traversal_order.base import TraversalOrder

    native_decode = _native_decode()
    # Compiled code only works with addresses. This is the only module that handles them.
    table, row_bytes = planned.ctypes.data, _PLANNED_ROW.itemsize

    class PlannedDecoder(Operation):
        def declare_state_and_memory(self, previous_state: Any) -> Any:
            shape, dtype = (size, size, 3), np.dtype("<u1")
            return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)

        def generate_code(self) -> Callable[..., Any]:
            read = self.memory_read
            every = Compiler.get_iterator()

            def decode(batch_indices, destination, metadata, storage_state):  # type: ignore[no-untyped-def]
                for position in every(len(batch_indices)):
                    number = np.uint64(batch_indices[position])
                    row = number // np.uint64(samples)
                    field = metadata[number % np.uint64(samples)]
                    jpeg = read(field["data_ptr"], storage_state)
                    native_decode(
                        jpeg.ctypes.data,
                        jpeg.size,
                        np.int32(field["height"]),
                        np.int32(field["width"]),
                        np.uint64(table) + row * np.uint64(row_bytes),
                        size,
                        size,
                        destination[position].ctypes.data,
                    )
                return destination[: len(batch_indices)]

            decode.is_parallel = True  # type: ignore[attr-defined]
            return decode

    class PlannedOrder(TraversalOrder):
        def __init__(self) -> None:
            # FFCV takes a loader's length from the first order that it sees, so this must be a full epoch.
            self.numbers = np.arange(len(planned))

        def __call__(self, loader: Any) -> Any:  # FFCV calls what it is given, class or instance
            return self

        def sample_order(self, epoch: int) -> Any:
            return self.numbers

    order = PlannedOrder()
    with _torch_threads_kept():
        loader = FfcvOwnLoader(
            str(path),
            batch_size=settings.batch_size,
            num_workers=max(settings.workers, 1),
            order=order,
            pipelines={"image": PipelineSpec("image", PlannedDecoder(), [ToTensor()]), "label": None},
            drop_last=False,
        )
    return loader, order
