"""`export`: what a file gives is what the model gives, for any number of pictures; what it takes stands in it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from fasttrain.checkpoint.trained import load_trained
from fasttrain.commands.evaluate import evaluate
from fasttrain.data.crops import evaluation_crop
from fasttrain.errors import UserError
from fasttrain.export.export import export
from fasttrain.export.photographs import some_photographs
from fasttrain.export.registry import FORMATS, make_format
from fasttrain.extras import install
from fasttrain.model.preprocess import NormalizePixels
from fasttrain.shards.reader import ShardSet
from tests.support.formats import format_or_skip

LONG = ("onnx-fp16", "onnx-int8", "openvino", "openvino-int8", "litert", "executorch")
CHECKED = [name for name in FORMATS if name != "coreml"]  # which has a file of tests of its own


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.full] * (name in LONG)) for name in CHECKED]
)
def exported(request, model_folder, shard_folder, tmp_path_factory):
    """Each format, made from the session's model, checked on the session's photographs."""
    name = request.param
    out = tmp_path_factory.mktemp("exported") / f"food{format_or_skip(name).suffix}"
    return name, export(model_folder, name, out, data=shard_folder, photographs=9, accept_drop=100, speed=False)


@pytest.mark.slow
def test_the_file_gives_the_models_logits_for_any_number_of_photographs(exported, model_folder, shard_folder):
    name, result = exported
    model, spec = load_trained(model_folder)
    pixels, _ = some_photographs(shard_folder, 32, evaluation_crop(spec.geometry))
    with torch.inference_mode():
        expected = model(NormalizePixels(spec.mean, spec.std, channels_last=False)(pixels))
    run = make_format(name).open(result.path, 1)
    if _approximate(name):  # the model isn't trained, so rounding moves its logits a lot
        error = (run(pixels) - expected).square().mean().sqrt()
        assert error < (0.05 if "fp16" in name else 1.0) * expected.std(), error
        expected = run(pixels)
    for count in (1, 2, 32):
        torch.testing.assert_close(
            run(pixels[:count]), expected[:count], rtol=1e-3, atol=1e-3 * float(expected.abs().max())
        )


def _approximate(name: str) -> bool:
    return "fp16" in name or "int8" in name


@pytest.mark.slow
def test_the_file_says_what_it_takes_and_gives(exported):
    name, result = exported
    said = make_format(name).read_metadata(result.path)
    assert said == result.metadata
    assert ("quantization" in said) == ("int8" in name)
    assert said["classes"] == ["donuts", "pancakes", "pizza", "salad", "soup", "sushi"]
    assert said["image_size"] == 48 and len(said["mean"]) == len(said["std"]) == 3
    assert said["input"].startswith("uint8 [n, 48, 48, 3]")


@pytest.mark.slow
def test_the_result_is_the_comparison(exported, model_folder, shard_folder):
    name, result = exported
    assert result.photographs == 9 and (result.same_top1 == 9 or _approximate(name))
    assert result.max_difference <= min(make_format(name).tolerance, 1) * result.max_logit
    assert result.bytes == sum(each.stat().st_size for each in result.path.parent.iterdir()) > 300_000
    assert str(shard_folder) in result.source
    assert result.accuracy is not None and result.accuracy.measure == "top1"
    assert result.accuracy.photographs == len(ShardSet.open(shard_folder).ids("val"))
    assert result.accuracy.model == pytest.approx(evaluate(model_folder, shard_folder, workers=0, device="cpu").top1)
    if not _approximate(name):
        assert result.accuracy.exported == result.accuracy.model and result.accuracy.difference == 0
        assert result.accuracy.exported_interval == result.accuracy.model_interval


@pytest.mark.slow
def test_normalized_pictures_can_be_what_it_takes(model_folder, photographs, tmp_path):
    run = Path(shutil.copytree(model_folder, tmp_path / "run"))
    spec = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps({**spec, "reject_threshold": 0.7}))
    result = export(run, "torchscript", tmp_path / "f.pt", input="float", data=photographs, photographs=5, speed=False)
    assert result.metadata["input"].startswith("float32 [n, 3, 48, 48]")
    assert result.metadata["reject_threshold"] == 0.7 and result.accuracy is None
    model, _ = load_trained(model_folder)
    images = torch.randn(3, 3, 48, 48)
    with torch.inference_mode():
        torch.testing.assert_close(torch.jit.load(result.path)(images), model(images), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_file_that_differs_takes_no_ones_place(model_folder, photographs, shard_folder, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("before")
    with pytest.raises(UserError, match="differs from the model's by"):
        export(model_folder, "torchscript", path, data=photographs, photographs=9, tolerance=0.0, speed=False)
    with pytest.raises(UserError, match=r"loses 0\.00 points of top1 .* raise --accept-drop"):
        export(model_folder, "torchscript", path, data=shard_folder, photographs=2, accept_drop=-1.0, speed=False)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_had_is_told(model_folder, photographs, monkeypatch):
    with pytest.raises(UserError, match="did you mean 'onnx'"):
        export(model_folder, "onx")
    with pytest.raises(UserError, match="--input"):
        export(model_folder, "onnx", input="bytes")
    with pytest.raises(UserError, match="/nowhere"):
        export(model_folder, "torchscript", data="/nowhere")
    with pytest.raises(UserError, match="no shards with the model's classes; give others with --data"):
        export(model_folder, "onnx-int8", data=photographs)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape(install("export"))):
        export(model_folder, "onnx")


def test_photographs_come_evenly_from_shards_folders_and_the_sample(shard_folder, photographs):
    for data in (shard_folder, photographs, None):
        pixels, source = some_photographs(data, 12, 48)
        assert pixels.shape == (12, 48, 48, 3) and pixels.dtype == torch.uint8
        assert len(torch.unique(pixels.flatten(1).float().mean(1))) == 12, source
    from_folder, _ = some_photographs(photographs, 6, 48)
    firsts = [some_photographs(photographs / name, 16, 48)[0] for name in ("donuts", "sushi")]
    assert (from_folder[0] == firsts[0]).flatten(1).all(1).any()  # one of the first class, and one of the last
    assert (from_folder[-1] == firsts[1]).flatten(1).all(1).any()


@pytest.mark.slow
def test_the_command_writes_beside_the_weights_and_tells_its_speed(model_folder, photographs, monkeypatch, capsys):
    from fasttrain.cli import main

    line = [
        "export",
        "--checkpoint",
        str(model_folder),
        "--format",
        "torchscript",
        "--data",
        str(photographs),
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", ["fasttrain", *line])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    said = json.loads(capsys.readouterr().out)
    assert Path(said["path"]) == model_folder / "model.torchscript"
    assert [each["batch"] for each in said["speeds"]] == [1, 32]
    assert all(each["exported"] > 0 and each["eager"] > 0 for each in said["speeds"])
