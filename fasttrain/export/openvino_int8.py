"""`--format openvino-int8`: OpenVINO's format with 8-bit integers, by NNCF's post-training quantization."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import torch

from fasttrain.export.base import Metadata
from fasttrain.export.openvino_file import OpenVino, converted, save


class OpenVinoInt8(OpenVino):
    """OpenVINO's format with integer layers.

    NNCF balances the channels of depthwise convolutions and corrects biases, so no layers are kept in floating point
    except those that NNCF never quantizes.
    """

    suffix = ".int8.xml"
    needs = (*OpenVino.needs, "nncf")
    tolerance = math.inf  # its accuracy is measured instead
    calibration = 300

    def write(self, model: torch.nn.Module, examples: torch.Tensor, path: Path, metadata: Metadata) -> None:
        os.environ.setdefault("NNCF_CI", "1")  # otherwise NNCF sends telemetry
        import nncf

        nncf.set_log_level(logging.ERROR)
        with converted(model, examples) as plain:
            made = nncf.quantize(
                plain,
                nncf.Dataset([each[None].numpy() for each in examples]),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(examples),
                fast_bias_correction=True,
            )
            description = f"int8, by NNCF {nncf.__version__}: ranges and biases from {len(examples)} photographs"
            save(made, path, {**metadata, "quantization": description})
