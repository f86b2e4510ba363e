"""`--format onnx-int8`: 8-bit integers in convolutions and linear layers, by ONNX Runtime's static quantization.

Weights have a scale for each output channel. The range of each activation is that of its values on photographs of the
training split, without the outermost ones. Mobile networks have layers that lose much by this: depthwise convolutions,
whose few weights a channel spread widely, and narrow ones before a residual sum. Layers are quantized one by one, on
other photographs, and those that change the logits most stay in floating point, as few as needed.
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
_ERROR = 0.1  # of the logits, as a share of theirs, both root mean square
_JUDGED = 64  # photographs that a single layer is judged on
_BATCH = 8
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_TYPES = [*_LAYERS, "Add", "Mul", "Sigmoid", "Clip", "Relu", "LeakyRelu", "Concat", "MaxPool", "AveragePool"]
_TYPES += ["GlobalAveragePool", "Reshape", "Flatten", "Transpose"]


class OnnxInt8(Onnx):
    """Q and DQ nodes around integer layers; `quantization` in the metadata names the layers that are not."""

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
        said = (
            f"int8, a scale for each output channel; ranges: {_PERCENTILE} % of the values on {len(ranging)} "
            f"photographs; {layers - len(kept)} of {layers} layers"
        )
        if kept:
            said += f"; in floating point: {', '.join(kept)}"
        made.metadata_props.add(key="quantization", value=said)
        save_onnx(made, path)


class Quantizer:
    """Makes integer models of the float one in the file `path`."""

    def __init__(self, path: Path, images: NDArray[Any]) -> None:
        """Choose the range of each activation on `images`, what the file takes."""
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
        for batch in _batches(images):  # one at a time: every activation of every image is held until it is counted
            calibrator.collect_data(_Reader([batch]))
        self._ranges = calibrator.compute_data()
        nodes = self._plain.graph.node
        self.layers = [node.name for node in nodes if node.op_type in _LAYERS]
        first = next((number for number, node in enumerate(nodes) if node.name in self.layers), 0)
        self._outside = [node.name for node in nodes[:first]]  # normalization

    def fit(self, images: NDArray[Any]) -> tuple[onnx.ModelProto, list[str]]:
        """Return a model whose logits of `images` are close to the float one's, and the layers that stay in float.

        Where no more than half of the layers do for that, that half is kept: the accuracy shows what it is worth.
        """
        expected = logits_of(self._path.read_bytes(), images)
        kept: list[str] = []
        made = self._quantized(kept)
        if relative_error(made, images, expected) <= _ERROR:
            return made, kept
        order, count = self._most_harmful_first(images[:_JUDGED], expected[:_JUDGED]), 1
        while count <= len(self.layers) // 2:
            kept = order[:count]
            made = self._quantized(kept)
            if relative_error(made, images, expected) <= _ERROR:
                break
            count *= 2
        return made, [layer for layer in self.layers if layer in kept]

    def _most_harmful_first(self, images: NDArray[Any], expected: NDArray[Any]) -> list[str]:
        errors = {}
        for layer in self.layers:
            others = [each for each in self.layers if each != layer]
            errors[layer] = relative_error(self._quantized(others), images, expected)
        return sorted(self.layers, key=lambda layer: -errors[layer])

    def _quantized(self, kept: Sequence[str]) -> onnx.ModelProto:
        """Return the model with all layers but `kept`, and what follows them alone, in integers."""
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
        """Return the activation functions right behind the layers `kept`."""
        outputs = {node.output[0] for node in self._plain.graph.node if node.name in kept}
        functions = ("Clip", "Relu", "LeakyRelu", "Sigmoid")
        return [node.name for node in self._plain.graph.node if node.op_type in functions and node.input[0] in outputs]


class _Reader:
    """Photographs as ONNX Runtime's calibration asks for them."""

    def __init__(self, batches: Sequence[NDArray[Any]]) -> None:
        self._left = iter(batches)

    def get_next(self) -> dict[str, NDArray[Any]]:
        batch = next(self._left, None)
        return {} if batch is None else {"images": batch}


def _batches(images: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(images), _BATCH):
        yield images[start : start + _BATCH]


def logits_of(model: bytes, images: NDArray[Any]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"images": batch})[0] for batch in _batches(images)])


def relative_error(model: onnx.ModelProto, images: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return how far the logits of `model` are from those `expected`, as a share of what these vary by."""
    found = logits_of(model.SerializeToString(), images)
    spread = expected - expected.mean(0)
    return float(np.sqrt(((found - expected) ** 2).mean() / (spread**2).mean()))
