"""OpenVINO's models on the CPU: in float32, and small integer models in batches of fixed sizes."""

from __future__ import annotations

import numpy as np
import pytest

from fasttrain.evaluation.openvino_cpu import compile_for_cpu

openvino = pytest.importorskip("openvino")
opset = pytest.importorskip("openvino.opset13")


def make_model(side: int, integer: bool):
    """Return a model that sums each image, uint8 [n, side, side, 3], after quantizing it if `integer`."""
    images = opset.parameter([-1, side, side, 3], np.uint8, name="images")
    values = opset.convert(images, np.float32)
    if integer:
        low, high = (opset.constant(np.float32(each)) for each in (0, 255))
        values = opset.fake_quantize(values, low, high, low, high, 256)
    sums = opset.reduce_sum(values, opset.constant([1, 2]), keep_dims=False)
    return openvino.Model([sums], [images], "sums")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """The input shape and the precision of each model that OpenVINO compiles, while the test runs."""
    seen = []
    original = openvino.Core.compile_model

    def compile_model(core, model, *arguments):
        made = original(core, model, *arguments)
        seen.append((str(model.inputs[0].partial_shape), made.get_property("INFERENCE_PRECISION_HINT").to_string()))
        return made

    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)
    return seen


@pytest.mark.parametrize(("side", "integer"), [(48, False), (96, True), (48, True)])
def test_any_number_of_images_gives_their_logits(side, integer, compiled):
    images = np.random.default_rng(0).integers(0, 256, (9, side, side, 3), np.uint8)
    expected = images.sum((1, 2), dtype=np.float64)
    run = compile_for_cpu(make_model(side, integer), threads=1)
    first = run(images[:1])
    for count in (3, 9, 1, 4):
        np.testing.assert_allclose(run(images[:count]), expected[:count], rtol=1e-5)
    np.testing.assert_allclose(first, expected[:1], rtol=1e-5, err_msg="later calls leave it alone")
    shapes = {shape for shape, _ in compiled}
    if side == 48 and integer:
        assert shapes == {f"[{size},48,48,3]" for size in (1, 4, 16)}, "a batch of any size crashes CPUs with AMX"
    else:
        assert shapes == {f"[?,{side},{side},3]"}
    assert {precision for _, precision in compiled} == {"f32"}, "CPUs with AMX would take bfloat16"
