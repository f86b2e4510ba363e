"""`--format onnx-fp16`: ONNX with 16-bit weights, for GPUs and phones. The file is half as large."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from fasttrain.export.base import Metadata
from fasttrain.export.onnx_file import Onnx, save_onnx


class OnnxHalf(Onnx):
    """The ONNX format with weights and arithmetic in float16. Normalized inputs and the logits stay float32."""

    suffix = ".fp16.onnx"
    tolerance = 5e-2

    def write(self, model: torch.nn.Module, examples: torch.Tensor, path: Path, metadata: Metadata) -> None:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        with tempfile.TemporaryDirectory(prefix="fasttrain-") as folder:
            plain = Path(folder) / "float.onnx"
            super().write(model, examples, plain, metadata)
            half = convert_float_to_float16(onnx.load(str(plain)), keep_io_types=True)
        save_onnx(half, path)
