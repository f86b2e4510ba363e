"""`--loader dali`: NVIDIA DALI decodes only the planned boxes, on the GPU if there is one.

For cut shards it receives the JPEGs from `slices.py`, which hold only the crops. Fewer bytes go to the decoder, and
neither libjpeg-turbo nor nvJPEG has to skip unwanted MCUs. A separate thread slices, feeds DALI and waits for it, so
that this costs the training loop's thread nothing.
"""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.config.interpolation import Interpolation
from fasttrain.cores import cores_of_process
from fasttrain.extras import dali_extra, install
from fasttrain.loaders.base import LoaderSettings, ShardLoader
from fasttrain.loaders.dali_graph import (
    AHEAD,
    BLACK,
    HW_DECODER_LOAD,
    black_jpeg,
    decoder_threads,
    device_id_of,
    feed,
    make_pipeline,
    may_be_a_photograph,
    memory_errors,
    release_unused_memory,
    start,
    start_problem,
)
from fasttrain.loaders.in_thread import in_thread
from fasttrain.loaders.plan import BadSamples, Batch
from fasttrain.loaders.read_ahead import fetched_ahead
from fasttrain.loaders.slices import can_slice, complete_jpegs, sliced_jpegs
from fasttrain.loaders.to_device import received
from fasttrain.photos.jpeg import require_jpeg

if TYPE_CHECKING:
    from fasttrain.shards.reader import ShardSet

_Kind = tuple[int, bool, Interpolation]
"""The kind of images that a pipeline makes: their side, whether they are letterboxed, and the filter."""


class DaliLoader(ShardLoader):
    """A loader that gives DALI's `decoders.image_slice` the JPEGs, and the top left corner and size of each crop.

    `sliced`: whether the JPEGs are first cut down to their crops, which doesn't change the pixels. True for cut shards.
    `hw_decoder_load`: see `HW_DECODER_LOAD`.
    """

    name = "dali"

    def __init__(self, shards: ShardSet, ids: NDArray[np.int64], settings: LoaderSettings) -> None:
        super().__init__(shards, ids, settings)
        self.sliced = can_slice(shards)
        self.hw_decoder_load = HW_DECODER_LOAD
        self._sizes = shards.sizes()
        self._pipelines: dict[_Kind, Any] = {}
        self._running: Generator[Any, None, None] | None = None
        self._bad: dict[int, str] = {}
        self._checked = np.zeros(len(self._sizes), np.bool_)

    @classmethod
    def unavailable(cls, shards: ShardSet, device: str) -> str | None:
        if shards.raw:
            return "these shards hold pixels, but DALI needs JPEGs; use --loader native, or convert without --raw"
        if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
            return f"DALI is not installed; {install(dali_extra(torch.version.cuda))}"
        return start_problem(device if device.startswith("cuda") else "cpu")

    @classmethod
    def preference(cls, device: str) -> int:
        # On a GPU it has not been measured yet, so it comes after the measured loaders, except torchvision's. On the
        # CPU it was measured to be slower than torchvision's (1,173 to 1,411 img/s on two cores).
        return 5 if device.startswith("cuda") else -10

    def _load(self, batches: Sequence[Batch]) -> Iterator[tuple[torch.Tensor, BadSamples]]:
        # Only one thread uses DALI, because the Python part of a pipeline is not thread-safe.
        with closing(in_thread(self._decoded_batches(batches), "dali")) as self._running:
            for images, bad, ready in self._running:
                yield images if ready is None else received(images, ready), bad

    def _decoded_batches(
        self, batches: Sequence[Batch]
    ) -> Generator[tuple[torch.Tensor, BadSamples, torch.cuda.Event | None], None, None]:
        """Yield the pixels and the bad samples of each batch, and on a GPU the event that signals that
        they are ready."""
        from nvidia.dali.plugin.pytorch import feed_ndarray

        waiting = fetched_ahead(self.shards, batches, batches)
        scheduled: deque[Batch] = deque()
        device = self.settings.device if self._on_gpu else "cpu"
        stream = self._stream()
        try:
            with memory_errors(), nullcontext() if stream is None else torch.cuda.stream(stream):
                self._schedule_more(waiting, scheduled)
                while scheduled:
                    batch = scheduled[0]
                    try:
                        # With a stream the outputs may still be in progress. Without one DALI would wait for the GPU.
                        (pixels,) = self._pipeline(batch).share_outputs(cuda_stream=stream)
                    except RuntimeError as error:
                        if not may_be_a_photograph(error):
                            raise
                        # DALI stops at the first bad photograph and does not say which one it is.
                        self._find_broken(scheduled, error)
                        for each in scheduled:
                            self._feed(each)
                        continue
                    images = torch.empty((len(batch), *batch.size, 3), dtype=torch.uint8, device=device)
                    feed_ndarray(pixels.as_tensor(), images, cuda_stream=stream)
                    self._pipeline(batch).release_outputs()
                    del pixels
                    scheduled.popleft()
                    self._schedule_more(waiting, scheduled)
                    ids = enumerate(batch.ids.tolist())
                    bad = [(position, self._bad[sample]) for position, sample in ids if sample in self._bad]
                    yield images, bad, None if stream is None else stream.record_event()
                    del images
        except Exception:
            self._pipelines = {}  # a pipeline may hold half a batch
            raise
        finally:
            self._discard(scheduled)

    def set_image_size(self, side: int) -> None:
        if side != self.settings.image_size:
            self.close()
        super().set_image_size(side)

    @contextmanager
    def holding_memory(self, batch_size: int) -> Iterator[None]:
        """Return a context that holds the GPU memory that DALI needs to decode batches of `batch_size`.

        DALI takes this memory outside of torch, so torch doesn't count it.
        """
        if not self._on_gpu:
            yield
            return
        release_unused_memory()  # a batch that was too large may have left some
        with closing(DaliLoader(self.shards, self.ids, replace(self.settings, batch_size=batch_size))) as other:
            other.sliced, other.hw_decoder_load = self.sliced, self.hw_decoder_load
            plans = other.plans()
            count = min(AHEAD + 1, plans[0].batch_count(batch_size))
            batches = [plan.batch(number, batch_size) for number in range(count) for plan in plans]
            with closing(other._load(batches)) as decoded:  # type: ignore[type-var]
                # Keep as many batches as wait for the model while it works.
                waiting = list(islice(decoded, 2))
                yield
                del waiting

    def close(self) -> None:
        if self._running is not None:
            self._running.close()
        super().close()
        self._pipelines = {}
        if self._on_gpu:
            release_unused_memory()

    @property
    def _on_gpu(self) -> bool:
        return self.settings.device.startswith("cuda")

    def _stream(self) -> torch.cuda.Stream | None:
        """Return a stream for DALI's batches, separate from the model's, or None on a CPU."""
        return torch.cuda.Stream(self.settings.device) if self._on_gpu else None

    def _pipeline(self, batch: Batch) -> Any:
        """Return the pipeline for images of the size of `batch`. Starts it if there is none yet."""
        kind = _kind(batch)
        if kind not in self._pipelines:
            self._start(*kind)
        return self._pipelines[kind]

    def _start(self, side: int, letterbox: bool, interpolation: Interpolation) -> None:
        """Build the pipeline for this kind of images."""
        settings = self.settings
        device = settings.device if self._on_gpu else "cpu"
        device_id = device_id_of(device)
        pipeline = make_pipeline(
            batch_size=settings.batch_size,
            size=side,
            letterbox=letterbox,
            interpolation=interpolation,
            threads=decoder_threads(settings.workers, cores_of_process(), device_id),
            device_id=device_id,
            hw_decoder_load=self.hw_decoder_load,
        )
        letterbox_side = side if letterbox else 0
        start(pipeline, batch_size=settings.batch_size, letterbox_side=letterbox_side, device=device)
        self._pipelines[side, letterbox, interpolation] = pipeline

    def _schedule_more(self, waiting: Iterator[Batch], scheduled: deque[Batch]) -> None:
        """Move batches from `waiting` to `scheduled`, and feed them, until DALI has AHEAD batches."""
        while len(scheduled) < AHEAD and (batch := next(waiting, None)) is not None:
            self._check_jpegs(batch)
            self._feed(batch)
            scheduled.append(batch)

    def _check_jpegs(self, batch: Batch) -> None:
        """Record as bad all samples that aren't JPEGs of the size in the index. A larger JPEG could take all memory."""
        for sample in batch.ids[~self._checked[batch.ids]].tolist():
            self._checked[sample] = True
            height, width = self._sizes[sample].tolist()
            try:
                require_jpeg(self.shards.bytes(sample), width, height)
            except ValueError as error:
                self._bad[sample] = f"DALI can't decode it ({error})"

    def _feed(self, batch: Batch) -> None:
        """Schedule `batch`, with a black image in the place of each bad sample."""
        pipeline = self._pipeline(batch)
        if self.sliced:
            # In this thread: slicing takes a fiftieth of the time of decoding.
            jpegs, anchors = sliced_jpegs(self.shards, batch)
        else:
            jpegs, anchors = complete_jpegs(self.shards, batch)
        shapes = np.array(batch.boxes[:, 2:], order="C")
        for position, sample in enumerate(batch.ids.tolist()) if self._bad else ():
            if sample in self._bad:
                jpegs[position], anchors[position], shapes[position] = black_jpeg(), 0, BLACK
        side = batch.size[0] if batch.letterbox else 0
        flips, vflips = batch.flips.astype(np.int32), batch.upside_down.astype(np.int32)
        feed(pipeline, jpegs, anchors, shapes, flips, vflips, side)
        pipeline.schedule_run()

    def _discard(self, scheduled: Iterable[Batch]) -> None:
        """Wait for batches that nobody needs, and drop them."""
        try:
            for batch in scheduled:
                if pipeline := self._pipelines.get(_kind(batch)):
                    pipeline.share_outputs()
                    pipeline.release_outputs()
        except (RuntimeError, MemoryError):  # a bad photograph, in a batch that nobody needs
            self._pipelines = {}

    def _find_broken(self, scheduled: Iterable[Batch], error: RuntimeError) -> None:
        """Find the photographs that DALI may have stopped at, using torchvision. Raise `error` if there are none."""
        from fasttrain.loaders.torchvision import decode_crop

        known = len(self._bad)
        for batch in scheduled:
            for sample, box in zip(batch.ids.tolist(), batch.boxes, strict=True):
                try:
                    if sample not in self._bad:
                        decode_crop(self.shards.bytes(sample), box, False, (1, 1))
                except RuntimeError as reason:
                    self._bad[sample] = f"DALI can't decode it ({str(reason).splitlines()[0]})"
        self._pipelines = {}
        if len(self._bad) == known:
            raise error


def _kind(batch: Batch) -> _Kind:
    return batch.size[0], batch.letterbox, batch.interpolation
