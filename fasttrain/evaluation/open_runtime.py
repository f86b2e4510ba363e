"""Choose the library that runs the model given as `--checkpoint`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fasttrain.checkpoint.weights import EXPORTED, weights_file
from fasttrain.config.interpolation import Interpolation
from fasttrain.errors import UserError
from fasttrain.evaluation.runtime import Runtime

if TYPE_CHECKING:
    from fasttrain.model.own import OwnModel


def open_runtime(
    checkpoint: Path,
    *,
    model: str | OwnModel | None = None,
    device: str = "auto",
    interpolation: Interpolation | None = None,
) -> Runtime:
    """Open the model `checkpoint` and return its runtime.

    Torch runs the model of a run folder or a checkpoint. `model` and `interpolation` are those of `load_trained`, and
    `device` is "auto", "cpu", "cuda" or another device of torch. ONNX Runtime or OpenVINO runs an exported `.onnx` or
    `.xml` file on the CPU, without importing torch; then `model` must be None. Raises UserError if the model can't be
    opened.
    """
    checkpoint = weights_file(checkpoint, exported=True)
    if checkpoint.suffix.lower() not in EXPORTED:
        from fasttrain.evaluation.torch_runtime import TorchRuntime

        return TorchRuntime(checkpoint, model=model, device=device, interpolation=interpolation)
    from fasttrain.evaluation.exported import open_exported

    if model is not None:
        raise UserError(f"{checkpoint} is a complete model, and --model is for run folders; leave out --model")
    if device not in ("auto", "cpu"):
        raise UserError(
            f"{checkpoint} runs on the CPU, not on device = '{device}'; leave out --device, or give a run folder"
        )
    return open_exported(checkpoint, interpolation)
