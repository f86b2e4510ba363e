"""Run OpenVINO models on the CPU."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import openvino

_LEAST_SIDE = 96  # px


def compile_for_cpu(model: openvino.Model, threads: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return a function that takes a batch of the model's images and returns its logits. Threads may share it.

    It calculates in float32, because OpenVINO's own choice on CPUs with AMX, bfloat16, changes answers.

    The images are a batch of any size, in the form that the model takes. An integer model for images of less than 96 px
    is compiled for batches of 1, 2, 4 and so on, which are filled up with zeros. If it were compiled for a variable
    batch size, it would end the process on CPUs with AMX (https://github.com/openvinotoolkit/openvino/issues/37577).

    `threads`: the number of threads that calculate. Raises RuntimeError if the model can't be compiled.
    """
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}

    def compiled(made: openvino.Model) -> Callable[[NDArray[Any]], NDArray[Any]]:
        of_model, of_thread = core.compile_model(made, "CPU", options), threading.local()

        def run(images: NDArray[Any]) -> NDArray[Any]:
            if not hasattr(of_thread, "request"):
                of_thread.request = of_model.create_infer_request()
            logits: NDArray[Any] = of_thread.request.infer({0: images})[0].copy()  # the next call overwrites them
            return logits

        return run

    if not _crashes_with_any_batch_size(model):
        return compiled(model)

    @functools.cache
    def of_size(size: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
        fixed = model.clone()
        fixed.reshape([size, *list(model.inputs[0].partial_shape)[1:]])
        return compiled(fixed)

    def padded(images: NDArray[Any]) -> NDArray[Any]:
        count = len(images)
        size = 1 << (count - 1).bit_length()
        rest = np.zeros((size - count, *images.shape[1:]), images.dtype)
        return of_size(size)(np.concatenate([images, rest]))[:count]

    return padded


def _crashes_with_any_batch_size(model: openvino.Model) -> bool:
    side = model.inputs[0].partial_shape[2]  # the width in [n, H, W, 3], the height in [n, 3, H, W]
    small = side.is_static and side.get_length() < _LEAST_SIDE
    return small and any(operation.get_type_name() == "FakeQuantize" for operation in model.get_ops())
