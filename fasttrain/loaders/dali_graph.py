"""The graph of `--loader dali`: decode a slice, resize (antialiased: triangular or cubic), flip.

With a GPU the decoder is nvJPEG (`device="mixed"`) and everything after it runs there; without one all of it runs on
the CPU. Only the CPU's has been run so far: a GPU pipeline can be described without a driver, but not built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.config.interpolation import Interpolation
from fasttrain.errors import no_memory
from fasttrain.loaders.plan import LETTERBOX_GREY, letterbox_size

AHEAD = 2  # batches in DALI's hands while the consumer works

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
) -> Any:
    """Return a pipeline that isn't built yet.

    Its inputs are `jpegs` uint8 [bytes], `anchors` and `shapes` int32 [2] in (height, width), `flips` and `vflips`
    int32; the output is uint8 [size, size, 3]. `device_id` None keeps all of it on the CPU and needs no driver. With
    `letterbox` there are two more inputs: `inner` float32 [2], the size of each resized picture, and `corners`
    int32 [2], where the square begins in it (negative numbers).
    """
    from nvidia.dali import fn, pipeline_def, types

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
            device="cpu" if device_id is None else "mixed",
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
