"""The graph of `--loader dali`: decode a slice, resize (antialiased: triangular or cubic), flip.

With a GPU the decoder is nvJPEG (`device="mixed"`) and everything after it runs there; without one all of it runs on
the CPU. Only the CPU's has been run so far: a GPU pipeline can be described without a driver, but not built.
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
"""The part of each batch that a GPU's JPEG engine decodes, where it has one; CUDA kernels decode the rest.

Which photographs those are depends on their places in the batch, and the two may round differently. So only 0 and 1
give a photograph the same pixels wherever it comes in a batch, and only 0 gives them on GPUs without the engine, too.
"""

AHEAD = 2  # batches in DALI's hands while the consumer works
BLACK = 8  # px, the side of what stands for a bad photograph

_OTHER_THREADS = 2  # the one that slices and feeds, and the training loop's

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
    """Return a pipeline that isn't built yet.

    Its inputs are `jpegs` uint8 [bytes], `anchors` and `shapes` int32 [2] in (height, width), `flips` and `vflips`
    int32; the output is uint8 [size, size, 3]. `device_id` None keeps all of it on the CPU and needs no driver. With
    `letterbox` there are two more inputs: `inner` float32 [2], the size of each resized picture, and `corners`
    int32 [2], where the square begins in it (negative numbers).
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
    """Build `pipeline` and run it on batches of black pictures, after which it takes and gives a batch at a time.

    The first run takes as many batches as it prefetches, however few the epoch has. Photographs are not given to it: a
    broken one would be met where no batch could be blamed. The batches are full, as the first one decides how many
    photographs of each batch a GPU's JPEG engine decodes. Raises UserError where DALI can't start on `device`.
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
        raise UserError(f"loader = 'dali': {_cannot_start(device, error)}; take another --loader") from error


@functools.cache
def black_jpeg() -> NDArray[np.uint8]:
    """Return a black picture of `BLACK` px, uint8 [bytes]."""
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
    """Give a batch to the inputs of `pipeline`; `letterbox_side` is 0 for one without letterbox."""
    inputs: dict[str, Any] = {"jpegs": jpegs, "anchors": anchors, "shapes": shapes, "flips": flips, "vflips": vflips}
    if letterbox_side:
        inner = np.array([letterbox_size(height, width, letterbox_side) for height, width in shapes.tolist()], np.int32)
        inputs |= {"inner": inner.astype(np.float32), "corners": -((letterbox_side - inner) // 2)}
    for name, values in inputs.items():
        pipeline.feed_input(name, values)


def decoder_threads(workers: int, cores: int, device_id: int | None) -> int:
    """Return how many threads DALI decodes with, for `workers` that were asked for on `cores` of this rank.

    With a GPU the cores are the decoder's but for two, one of which the training loop launches kernels from. Without
    one the model takes all cores anyway.
    """
    return max(min(workers, cores - _OTHER_THREADS) if device_id is not None else workers, 1)


def release_unused_memory() -> None:
    """Give the memory of pipelines that are gone back to the GPU, which DALI keeps for others."""
    if (backend := sys.modules.get("nvidia.dali.backend")) is not None:
        backend.ReleaseUnusedMemory()


def start_problem(device: str) -> str | None:
    """Return why DALI can't decode on `device` here, one line; None if it can. It is tried, once where it works."""
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
    """Return the number of the GPU for DALI; None for the CPU."""
    if not device.startswith("cuda"):
        return None
    index = torch.device(device).index
    return torch.cuda.current_device() if index is None else index


_works: set[str] = set()


def _cannot_start(device: str, error: BaseException) -> str:
    return f"it can't start on {device} ({reason_of(error)})"


def reason_of(error: BaseException) -> str:
    """Return the sentence of DALI's error, of many lines, that says what is wrong."""
    said = str(error).partition("encountered:\n")[2] or str(error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    sentence = re.sub(r"^Assert on .* failed: ", "", lines[0]) if lines else type(error).__name__
    return sentence.split(". ")[0].rstrip(".")


def may_be_a_photograph(error: RuntimeError) -> bool:
    """Return whether a photograph may be what DALI stopped at, and not the machine."""
    return not (no_memory(str(error)) or re.search(_CUDA, str(error)))


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise torch's error where DALI lacks memory of the GPU, MemoryError where it lacks the host's.

    DALI has a RuntimeError for all that fails, and a MemoryError for some of it.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if lacking := re.search(_GPU_MEMORY, str(error)):
            raise torch.OutOfMemoryError(f"CUDA out of memory in DALI ({lacking[0]})") from error
        if no_memory(str(error)) and not isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            raise MemoryError("in DALI") from error
        raise
