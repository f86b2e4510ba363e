"""Which library runs what `--checkpoint` names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fasttrain.config.interpolation import Interpolation
from fasttrain.errors import UserError
from fasttrain.evaluation.runtime import Runtime

if TYPE_CHECKING:
    from fasttrain.model.own import OwnModel

EXPORTED = (".onnx", ".xml")
"""The suffixes of exported files that a runtime opens: ONNX and OpenVINO."""


def open_runtime(
    checkpoint: Path,
    *,
    model: str | OwnModel | None = None,
    device: str = "auto",
    interpolation: Interpolation | None = None,
) -> Runtime:
    """Return the runtime for `checkpoint`: torch's, or for an exported `.onnx` or `.xml` file that format's own.

    The arguments are those of `load_trained`; an exported file takes no `model` and runs on the CPU. Torch is imported
    for run folders and checkpoints only. Raises UserError where the model can't be opened.
    """
    if checkpoint.suffix.lower() not in EXPORTED:
        from fasttrain.evaluation.torch_runtime import TorchRuntime

        return TorchRuntime(checkpoint, model=model, device=device, interpolation=interpolation)
    from fasttrain.evaluation.exported import open_exported

    if model is not None:
        raise UserError(f"{checkpoint} is a complete model, and --model goes with a run folder; leave it out")
    if device not in ("auto", "cpu"):
        raise UserError(f"{checkpoint} runs on the CPU, not on device = '{device}'; leave it out, or give a run folder")
    return open_exported(checkpoint, interpolation)
