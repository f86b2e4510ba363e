"""Exported files answer as their run folder does, and need no torch for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fasttrain.errors import UserError
from fasttrain.evaluation.exported import open_exported
from fasttrain.evaluation.predict import Predictor
from tests.support.patience import PATIENCE

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

_METADATA = {
    "model": "by hand",
    "classes": ["red", "green", "blue"],
    "image_size": 4,
    "crop_pct": 1.0,
    "resize_mode": "squash",
    "interpolation": "bicubic",
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.8],
    "temperature": 2.0,
}


@pytest.fixture(scope="module")
def exported(model_folder: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run folder with a temperature, a squashed geometry and the `model.onnx` that was made of it."""
    from fasttrain.export.export import export

    run = shutil.copytree(model_folder, tmp_path_factory.mktemp("run") / "run")
    spec = json.loads((run / "model.json").read_text())
    spec |= {"temperature": 0.6, "resize_mode": "squash", "interpolation": "bicubic"}
    (run / "model.json").write_text(json.dumps(spec))
    return run, export(run, data=photographs, photographs=3, speed=False).path


@pytest.fixture(scope="module")
def pictures(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of each class, and a PNG, which is encoded as a JPEG first."""
    folder = tmp_path_factory.mktemp("pictures")
    for path in sorted(photographs.glob("*/000[01].jpg")):
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
    Image.open(next(folder.glob("pizza*"))).save(folder / "pizza.png")
    return folder


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.full
def test_the_answers_are_those_of_the_run_folder_and_torch_is_not_imported(runtime, exported, pictures, tmp_path):
    run, file = exported
    if runtime == "openvino":
        file = to_openvino(file, tmp_path / "model.xml")
    code = "import sys; from fasttrain.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    words = ["predict", "--checkpoint", file, "--format", "jsonl", "--top-k", "6", "--tta", "flip", pictures]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=PATIENCE)
    *lines, torch_imported = done.stdout.splitlines()
    assert torch_imported == "False", done.stderr
    wanted = list(Predictor(run, top_k=6, tta="flip", device="cpu").stream([pictures]))
    assert len(lines) == len(wanted) == 13
    for line, prediction in zip(lines, wanted, strict=True):
        found = json.loads(line)
        assert found["image"] == str(prediction.image)
        assert tuple(each["class"] for each in found["top"]) == prediction.classes
        shares = [each["probability"] for each in found["top"]]
        assert shares == pytest.approx(prediction.probabilities, rel=1e-3)


def to_openvino(file: Path, path: Path) -> Path:
    openvino = pytest.importorskip("openvino")
    model = openvino.convert_model(file)
    for each in onnx.load(file).metadata_props:
        model.set_rt_info(each.value, ["fasttrain", each.key])
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def mean_of_channels(path: Path, metadata: dict[str, object], dtype: int = onnx.TensorProto.FLOAT) -> Path:
    """Write a model whose logits are the means of its input's channels."""
    from onnx import helper

    pooled = helper.make_node("GlobalAveragePool", ["images"], ["pooled"])
    flat = helper.make_node("Flatten", ["pooled"], ["logits"])
    takes = helper.make_tensor_value_info("images", dtype, ["n", 3, 4, 4])
    gives = helper.make_tensor_value_info("logits", dtype, ["n", 3])
    graph = helper.make_graph([pooled, flat], "means", [takes], [gives])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    helper.set_model_props(model, texts)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("dtype", [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16])
def test_an_input_of_floats_is_normalised(dtype, tmp_path):
    predictor = Predictor(mean_of_channels(tmp_path / "m.onnx", _METADATA, dtype), top_k=2)
    pixels = np.full((2, 4, 4, 3), (40, 90, 140), np.uint8)
    logits = (np.array([40, 90, 140]) / 255 - _METADATA["mean"]) / np.array(_METADATA["std"])
    wanted = np.exp(logits / 2) / np.exp(logits / 2).sum()
    found = predictor.probabilities(pixels)
    assert found == pytest.approx(np.stack([wanted, wanted]), rel=2e-3)
    assert predictor.prediction(found[0]).to_dict()["top"][0]["class"] == "blue"
    assert len(predictor.prediction(found[0], top_k=3).classes) == 3


def test_bytes_are_read_as_the_file_is(pictures, tmp_path):
    predictor = Predictor(mean_of_channels(tmp_path / "m.onnx", _METADATA))
    picture = next(pictures.glob("*.png"))
    pixels = predictor.read(picture.read_bytes())
    assert pixels.shape == (4, 4, 3) and np.array_equal(pixels, predictor.read(picture))
    answer = predictor.prediction(predictor.probabilities(pixels[None])[0])
    assert answer.image is None and list(answer.to_dict()) == ["top"]
    assert answer.probabilities == next(predictor.stream([picture])).probabilities


def test_what_an_exported_file_does_not_take_is_told(tmp_path):
    file = mean_of_channels(tmp_path / "m.onnx", _METADATA)
    with pytest.raises(UserError, match="--model is for run folders"):
        Predictor(file, model="package:model")
    with pytest.raises(UserError, match="runs on the CPU"):
        Predictor(file, device="cuda")
    with pytest.raises(UserError, match=r"bare\.onnx: its metadata don't describe the model's input"):
        open_exported(mean_of_channels(tmp_path / "bare.onnx", {}))
    (tmp_path / "torn.onnx").write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match=r"torn\.onnx: ONNX Runtime can't open the file"):
        open_exported(tmp_path / "torn.onnx")
    wanted = open_exported(file, "bilinear").spec.geometry
    assert (wanted.interpolation, wanted.resize_mode) == ("bilinear", "squash")
    bare = mean_of_channels(tmp_path / "bare.onnx", {})
    bare.with_suffix(".json").write_text(json.dumps(_METADATA))
    assert open_exported(bare).spec == open_exported(file).spec
