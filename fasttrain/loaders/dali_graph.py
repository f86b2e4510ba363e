"""The DALI pipeline of `--loader dali`: decode a slice, resize it with a triangular or cubic filter, flip it.

With a GPU the decoder is nvJPEG (`device="mixed"`), and everything after it also runs on the GPU. Without one
everything runs on the CPU. Only the CPU version has been run so far: a GPU pipeline can be described without a driver,
but not built.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.config.interpolation import Interpolation
from fasttrain.errors import UserError, no_memory
from fasttrain.loaders.plan import LETTERBOX_GREY, letterbox_size

HW_DECODER_LOAD = 0.0
"""The share of each batch that a GPU's JPEG engine decodes, if it has one. CUDA kernels decode the rest.

Which photographs the engine decodes depends on their positions in the batch, and the two may round differently. So
only 0 and 1 give a photograph the same pixels at any position, and only 0 does so on GPUs without the engine, too.
"""

AHEAD = 2  # batches that DALI processes while the consumer works
BLACK = 8  # px, the side of the image that stands in for a bad photograph

_OTHER_THREADS = 2  # the thread that slices and feeds, and the training loop's thread

_GPU_MEMORY = r"CUDA allocation failed|Can't allocate \d+ bytes on device -?\d+"
_CUDA = r"CUDA (runtime|driver) API error"


def make_pipeline(
    *,
    batch_size: int,
    size: int,
    threads: int,
    device_id: int | None,
    letterbox: bool = False,
    interpolation: Interpolation = "bilinear",
    hw_decoder_load: float = HW_DECODER_LOAD,
) -> Any:
    """Return a pipeline that is not built yet.

    Its inputs for each image are `jpegs` uint8 [bytes], `anchors` int32 [2], the (top, left) of the crop, `shapes`
    int32 [2], the crop's (height, width), and `flips` and `vflips`, int32, 0 or 1. The output is uint8 [size, size, 3].
    With `device_id` None everything runs on the CPU and no driver is needed.

    With `letterbox` there are two more inputs: `inner` float32 [2], the (height, width) of the resized crop, and
    `corners` int32 [2], the (top, left) of the square relative to the resized crop, which is negative.
    """
    from nvidia.dali import fn, pipeline_def, types

    backend: dict[str, Any] = {"device": "cpu"}
    if device_id is not None:
        backend = {"device": "mixed", "affine": False, "hw_decoder_load": hw_decoder_load}

    @pipeline_def(
        batch_size=batch_size,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=AHEAD,
        exec_dynamic=True,
    )
    def graph() -> Any:
        crops = fn.decoders.image_slice(
            fn.external_source(name="jpegs", dtype=types.UINT8, ndim=1),
            fn.external_source(name="anchors", dtype=types.INT32, ndim=1),
            fn.external_source(name="shapes", dtype=types.INT32, ndim=1),
            axis_names="HW",
            normalized_anchor=False,
            normalized_shape=False,
            **backend,
            output_type=types.RGB,
            adjust_orientation=False,
            jpeg_fancy_upsampling=True,
        )
        inner = fn.external_source(name="inner", dtype=types.FLOAT, ndim=1) if letterbox else [size, size]
        filter_type = types.INTERP_CUBIC if interpolation == "bicubic" else types.INTERP_LINEAR
        resized = fn.resize(crops, size=inner, interp_type=filter_type, antialias=True, dtype=types.UINT8)
        flipped = fn.flip(
            resized,
            horizontal=fn.external_source(name="flips", dtype=types.INT32, ndim=0),
            vertical=fn.external_source(name="vflips", dtype=types.INT32, ndim=0),
        )
        if not letterbox:
            return flipped
        return fn.slice(
            flipped,
            start=fn.external_source(name="corners", dtype=types.INT32, ndim=1),
            shape=[size, size],
            axis_names="HW",
            out_of_bounds_policy="pad",
            fill_values=LETTERBOX_GREY,
        )

    return graph()


def start(pipeline: Any, *, batch_size: int, letterbox_side: int, device: str) -> None:
    """Build `pipeline` and run it on batches of black images. After that, the pipeline takes and returns one batch at a
    time.

    The first run takes as many batches as the pipeline prefetches, even if the epoch has fewer. It gets no photographs,
    because an error from a broken one could not be traced to a batch. The batches are full, because the first one
    decides how many photographs of each batch a GPU's JPEG engine decodes. Raises UserError if DALI can't start on
    `device`.
    """
    try:
        pipeline.build()
        places, sizes = np.zeros((batch_size, 2), np.int32), np.full((batch_size, 2), BLACK, np.int32)
        flips = np.zeros(batch_size, np.int32)
        for _ in range(AHEAD):
            feed(pipeline, [black_jpeg()] * batch_size, places, sizes, flips, flips, letterbox_side)
        pipeline.schedule_run()
        for _ in range(AHEAD):
            pipeline.share_outputs()
            pipeline.release_outputs()
    except RuntimeError as error:
        if no_memory(str(error)):
            raise
        raise UserError(f"loader = 'dali': {_cannot_start(device, error)}; use another --loader") from error


@functools.cache
def black_jpeg() -> NDArray[np.uint8]:
    """Return a black JPEG with a side of `BLACK` px, uint8 [bytes]."""
    from torchvision.io import encode_jpeg

    jpeg: NDArray[np.uint8] = encode_jpeg(torch.zeros((3, BLACK, BLACK), dtype=torch.uint8)).numpy()
    return jpeg


def feed(
    pipeline: Any,
    jpegs: list[NDArray[np.uint8]],
    anchors: NDArray[np.int32],
    shapes: NDArray[np.int32],
    flips: NDArray[np.int32],
    vflips: NDArray[np.int32],
    letterbox_side: int,
) -> None:
    """Feed a batch to the inputs of `pipeline`, which `make_pipeline` describes. Each argument has n rows.

    `letterbox_side` is the side of the square images in pixels, or 0 for a pipeline without letterboxing.
    """
    inputs: dict[str, Any] = {"jpegs": jpegs, "anchors": anchors, "shapes": shapes, "flips": flips, "vflips": vflips}
    if letterbox_side:
        inner = np.array([letterbox_size(height, width, letterbox_side) for height, width in shapes.tolist()], np.int32)
        inputs |= {"inner": inner.astype(np.float32), "corners": -((letterbox_side - inner) // 2)}
    for name, values in inputs.items():
        pipeline.feed_input(name, values)


def decoder_threads(workers: int, cores: int, device_id: int | None) -> int:
    """Return the number of threads for DALI's decoder, given the requested `workers` and the `cores` of this rank.

    With a GPU this is `workers`, but at most all cores but two, one of which launches the training loop's kernels.
    Without a GPU this is `workers`, because the model uses all cores anyway.
    """
    return max(min(workers, cores - _OTHER_THREADS) if device_id is not None else workers, 1)


def release_unused_memory() -> None:
    """Free the GPU memory of pipelines that have ended. DALI would keep it for later pipelines."""
    if (backend := sys.modules.get("nvidia.dali.backend")) is not None:
        backend.ReleaseUnusedMemory()


def start_problem(device: str) -> str | None:
    """Return one line that says why DALI can't decode on `device`, or None if it can.

    DALI is started to find out. A success is remembered and not tested again.
    """
    if device in _works:
        return None
    try:
        start(
            make_pipeline(batch_size=1, size=BLACK, threads=1, device_id=device_id_of(device)),
            batch_size=1,
            letterbox_side=0,
            device=device,
        )
    except UserError as error:
        return _cannot_start(device, error.__cause__ or error)
    except Exception as error:  # a broken binary can raise anything on import
        return _cannot_start(device, error)
    _works.add(device)
    return None


def device_id_of(device: str) -> int | None:
    """Return DALI's number of the GPU, or None for the CPU."""
    if not device.startswith("cuda"):
        return None
    index = torch.device(device).index
    return torch.cuda.current_device() if index is None else index


_works: set[str] = set()


def _cannot_start(device: str, error: BaseException) -> str:
    return f"DALI can't start on {device} ({reason_of(error)})"


def reason_of(error: BaseException) -> str:
    """Return the sentence in DALI's multi-line error that says what is wrong."""
    message = str(error).partition("encountered:\n")[2] or str(error)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    sentence = re.sub(r"^Assert on .* failed: ", "", lines[0]) if lines else type(error).__name__
    return sentence.split(". ")[0].rstrip(".")


def may_be_a_photograph(error: RuntimeError) -> bool:
    """Return whether DALI may have stopped because of a photograph, and not because of the machine."""
    return not (no_memory(str(error)) or re.search(_CUDA, str(error)))


@contextmanager
def memory_errors() -> Iterator[None]:
    """Return a context that turns DALI's errors about memory into usual ones.

    They become torch.OutOfMemoryError if GPU memory is lacking, and MemoryError if the host's memory is. DALI itself
    raises RuntimeError for both.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if lacking := re.search(_GPU_MEMORY, str(error)):
            raise torch.OutOfMemoryError(f"CUDA out of memory in DALI ({lacking[0]})") from error
        if no_memory(str(error)) and not isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            raise MemoryError("in DALI") from error
        raise
