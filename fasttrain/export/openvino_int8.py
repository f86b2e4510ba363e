"""`--format openvino-int8`: OpenVINO's file with 8-bit integers, by NNCF's post-training quantization."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch

from fasttrain.export.base import Metadata
from fasttrain.export.openvino_file import OpenVino


class OpenVinoInt8(OpenVino):
    """NNCF balances the channels of depthwise convolutions and corrects the biases; nothing stays in floating point
    but what it never quantizes."""

    suffix = ".int8.xml"
    needs = ("openvino", "nncf")
    tolerance = math.inf  # its accuracy is measured instead
    calibration = 300

    def write(self, model: torch.nn.Module, examples: torch.Tensor, path: Path, metadata: Metadata) -> None:
        import nncf

        nncf.set_log_level(logging.ERROR)
        made = nncf.quantize(
            self.convert(model, examples),
            nncf.Dataset([each[None].numpy() for each in examples]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(examples),
            fast_bias_correction=True,
        )
        said = f"int8, by NNCF {nncf.__version__}: ranges and biases from {len(examples)} photographs"
        self.save(made, path, {**metadata, "quantization": said})
