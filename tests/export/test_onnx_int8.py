"""`onnx-int8`: layers that integers would harm stay in floating point, and no others."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from fasttrain.export.onnx_file import Onnx, quietly
from fasttrain.export.onnx_int8 import Quantizer, logits_of, relative_error


class Uneven(torch.nn.Sequential):
    """The second of its four layers gives one channel that is a thousand times the others, which the third undoes."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        widths = (3, 8, 8, 8)
        convolutions = [torch.nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)]
        with torch.no_grad():
            for parameter in (convolutions[1].weight, convolutions[1].bias):
                parameter[0] *= 1000
            convolutions[2].weight[:, 0] /= 1000
        pooled = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 4)]
        super().__init__(convolutions[0], torch.nn.ReLU6(), convolutions[1], convolutions[2], torch.nn.ReLU6(), *pooled)


@pytest.mark.slow
def test_layers_that_integers_harm_stay_in_floating_point(tmp_path):
    onnx = pytest.importorskip("onnx")
    path, images = tmp_path / "model.onnx", torch.randn(48, 3, 16, 16) * torch.rand(48, 3, 1, 1)
    Onnx().write(Uneven().eval(), images, path, {})
    with quietly():
        quantizer = Quantizer(path, images[::2].numpy())
        made, kept = quantizer.fit(images[1::2].numpy())
        everything = quantizer._quantized([])
    judged = images[1::2].numpy()
    expected = logits_of(path.read_bytes(), judged)
    assert kept == quantizer.layers[1:3], "the uneven channel lies between these two"
    assert relative_error(made, judged, expected) < 0.3 and relative_error(everything, judged, expected) > 1
    onnx.checker.check_model(made, full_check=True)
    types = [node.op_type for node in made.graph.node]
    assert types.count("Clip") == 1, "in integers ReLU6 is the end of a range"
    int8 = [each for each in made.graph.initializer if each.data_type == 3]
    assert sum(len(each.dims) > 1 for each in int8) == 2, "the weights of the first layer and of the last"
