"""`--format onnx-fp16`: the same file with weights of half the size, for GPUs and phones."""

from __future__ import annotations

from pathlib import Path

import torch

from fasttrain.export.base import Metadata
from fasttrain.export.onnx_file import Onnx, save_onnx


class OnnxHalf(Onnx):
    """Weights and arithmetic in float16; the logits, and normalized pictures that go in, stay float32."""

    suffix = ".fp16.onnx"
    tolerance = 5e-2

    def write(self, model: torch.nn.Module, examples: torch.Tensor, path: Path, metadata: Metadata) -> None:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        super().write(model, examples, path, metadata)
        half = convert_float_to_float16(onnx.load(str(path)), keep_io_types=True)
        save_onnx(half, path)
