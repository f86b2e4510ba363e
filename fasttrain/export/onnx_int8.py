"""`--format onnx-int8`: 8-bit integers in convolutions and linear layers, by ONNX Runtime's static quantization.

Weights have one scale per output channel. The range of an activation is the range of its values on photographs of the
training split, without the most extreme ones.

Some layers of mobile networks lose accuracy this way: depthwise convolutions, which have few weights per channel with a
wide spread, and narrow layers before a residual sum. So each layer is quantized alone, and its effect on the logits of
other photographs is measured. The layers with the greatest effect stay in floating point, as few as needed.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.export.base import Metadata
from fasttrain.export.onnx_file import Onnx, quietly, save_onnx

if TYPE_CHECKING:
    import onnx

_PERCENTILE = 99.99
_MOST_ERROR = 0.1  # the allowed error of the logits: see `relative_error`
_JUDGED = 64  # the number of photographs on which a single layer is tested
_BATCH = 8
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_TYPES = [*_LAYERS, "Add", "Mul", "Sigmoid", "Clip", "Relu", "LeakyRelu", "Concat", "MaxPool", "AveragePool"]
_TYPES += ["GlobalAveragePool", "Reshape", "Flatten", "Transpose"]


class OnnxInt8(Onnx):
    """The ONNX format with quantize and dequantize (QDQ) nodes around integer layers.

    The metadata's entry `quantization` names the layers that stay in floating point.
    """

    suffix = ".int8.onnx"
    tolerance = math.inf  # its accuracy is measured instead
    calibration = 384

    def write(self, model: torch.nn.Module, examples: torch.Tensor, path: Path, metadata: Metadata) -> None:
        ranging, judging = examples[::3].numpy(), torch.cat([examples[1::3], examples[2::3]]).numpy()
        with tempfile.TemporaryDirectory(prefix="fasttrain-") as folder:
            plain = Path(folder) / "float.onnx"
            super().write(model, examples, plain, metadata)
            with quietly():
                quantizer = Quantizer(plain, ranging)
                made, kept = quantizer.fit(judging)
        layers = len(quantizer.layers)
        description = (
            f"int8, a scale for each output channel; ranges: {_PERCENTILE} % of the values on {len(ranging)} "
            f"photographs; {layers - len(kept)} of {layers} layers are in integers"
        )
        if kept:
            description += f"; in floating point: {', '.join(kept)}"
        made.metadata_props.add(key="quantization", value=description)
        save_onnx(made, path)


class Quantizer:
    """Makes integer models from the float model in the ONNX file `path`."""

    def __init__(self, path: Path, images: NDArray[Any]) -> None:
        """Choose the range of each activation from its values for `images`, inputs of the file, [n, ...]."""
        import onnx
        from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

        self._path = path
        self._plain = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
        augmented = path.with_name("augmented.onnx")
        calibrator = create_calibrator(
            path,
            _TYPES,
            str(augmented),
            CalibrationMethod.Percentile,
            extra_options={"percentile": _PERCENTILE, "symmetric": False},
        )
        for batch in _batches(images):  # one at a time, because all activations of a batch are kept in memory
            calibrator.collect_data(_Reader([batch]))
        self._ranges = calibrator.compute_data()
        nodes = self._plain.graph.node
        self.layers = [node.name for node in nodes if node.op_type in _LAYERS]
        first = next((number for number, node in enumerate(nodes) if node.name in self.layers), 0)
        self._outside = [node.name for node in nodes[:first]]  # normalization

    def fit(self, images: NDArray[Any]) -> tuple[onnx.ModelProto, list[str]]:
        """Return an integer model, and the names of its layers that stay in floating point.

        The number of these layers (0, 1, 2, 4, 8 …) is the smallest for which the logits of `images`, inputs of the
        file, [n, ...], have a small error. At most half of the layers stay in floating point. If the error is greater
        even then, `export` decides by the accuracy.
        """
        expected = logits_of(self._path.read_bytes(), images)
        kept: list[str] = []
        made = self._quantized(kept)
        if relative_error(made, images, expected) <= _MOST_ERROR:
            return made, kept
        order, count = self._most_harmful_first(images[:_JUDGED], expected[:_JUDGED]), 1
        while count <= len(self.layers) // 2:
            kept = order[:count]
            made = self._quantized(kept)
            if relative_error(made, images, expected) <= _MOST_ERROR:
                break
            count *= 2
        return made, [layer for layer in self.layers if layer in kept]

    def _most_harmful_first(self, images: NDArray[Any], expected: NDArray[Any]) -> list[str]:
        """Return the layers by the error of the logits if only that layer is quantized, the greatest error first."""
        errors = {}
        for layer in self.layers:
            others = [each for each in self.layers if each != layer]
            errors[layer] = relative_error(self._quantized(others), images, expected)
        return sorted(self.layers, key=lambda layer: -errors[layer])

    def _quantized(self, kept: Sequence[str]) -> onnx.ModelProto:
        """Return the model with all layers in integers, except `kept` and their activation functions."""
        import onnx
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        model = onnx.ModelProto()
        model.CopyFrom(self._plain)
        quantizer = QDQQuantizer(
            model,
            True,  # per channel
            False,  # all 8 bits of a weight
            QuantType.QInt8,
            QuantType.QUInt8,
            self._ranges,
            [],
            [*self._outside, *kept, *self._following(kept)],
            _TYPES,
            {},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        made: onnx.ModelProto = quantizer.model.model
        return made

    def _following(self, kept: Sequence[str]) -> list[str]:
        """Return the activation functions that follow the layers `kept` directly."""
        outputs = {node.output[0] for node in self._plain.graph.node if node.name in kept}
        functions = ("Clip", "Relu", "LeakyRelu", "Sigmoid")
        return [node.name for node in self._plain.graph.node if node.op_type in functions and node.input[0] in outputs]


class _Reader:
    """Batches of photographs, in the form of ONNX Runtime's `CalibrationDataReader`."""

    def __init__(self, batches: Sequence[NDArray[Any]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, NDArray[Any]]:
        batch = next(self._batches, None)
        return {} if batch is None else {"images": batch}


def _batches(images: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(images), _BATCH):
        yield images[start : start + _BATCH]


def logits_of(model: bytes, images: NDArray[Any]) -> NDArray[np.float32]:
    """Run the ONNX file with the bytes `model` on `images`, [n, ...], and return its logits, float32 [n, classes]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"images": batch})[0] for batch in _batches(images)])


def relative_error(model: onnx.ModelProto, images: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the error of the logits of `model`: the RMS difference from `expected`, over the RMS spread of `expected`.

    `images`: inputs of the model, [n, ...]. `expected`: float [n, classes]. The spread is the deviation from the mean
    over images.
    """
    found = logits_of(model.SerializeToString(), images)
    spread = expected - expected.mean(0)
    return float(np.sqrt(((found - expected) ** 2).mean() / (spread**2).mean()))
