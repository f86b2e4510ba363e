"""`coreml`: the file holds the model's weights and metadata and takes a picture; the result says that it wasn't run."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from rich.console import Console

from fasttrain.checkpoint.trained import load_trained
from fasttrain.errors import UserError
from fasttrain.export.export import export
from fasttrain.export.printed import facts, figures
from fasttrain.export.registry import make_format
from tests.support.formats import format_or_skip


@pytest.mark.full
@pytest.mark.parametrize("input", ["uint8", "float"])
def test_the_file_takes_a_picture_and_says_what_it_means(input, model_folder, shard_folder, tmp_path):
    format_or_skip("coreml")
    import coremltools

    result = export(model_folder, "coreml", tmp_path / "food.mlpackage.zip", data=shard_folder, input=input)
    with zipfile.ZipFile(result.path) as archive:
        archive.extractall(tmp_path)
    spec = coremltools.utils.load_spec(str(tmp_path / "model.mlpackage"))
    (taken,), (given,) = spec.description.input, spec.description.output
    assert (taken.name, given.name) == ("images", "logits")
    if input == "uint8":
        picture = taken.type.imageType
        assert (picture.width, picture.height) == (48, 48)
        assert picture.colorSpace == picture.ColorSpace.Value("RGB")
        assert result.metadata["input"] == "one picture of 48 x 48 pixels, RGB, 0..255"
    else:
        assert list(taken.type.multiArrayType.shape) == [1, 3, 48, 48]
        assert result.metadata["input"].startswith("float32 [1, 3, 48, 48]")
    assert result.metadata["output"].startswith("logits, float32 [1, 6]")
    _, trained = load_trained(model_folder)
    assert result.metadata["classes"] == list(trained.classes) and result.metadata["image_size"] == 48
    assert result.metadata["crop_pct"] == trained.geometry.crop_pct
    assert make_format("coreml").read_metadata(result.path) == result.metadata


@pytest.mark.full
def test_the_weights_are_the_models_in_half_precision(model_folder, tmp_path):
    format_or_skip("coreml")
    result = export(model_folder, "coreml", tmp_path / "food.mlpackage.zip")
    with zipfile.ZipFile(result.path) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("weight.bin"))
        stored = archive.read(name)
    head = load_trained(model_folder)[0].get_classifier().weight.detach().numpy()
    assert head.astype(np.float16).tobytes() in stored


@pytest.mark.full
def test_a_file_that_cannot_be_run_here_is_called_unchecked(model_folder, shard_folder, tmp_path):
    format_or_skip("coreml")
    result = export(model_folder, "coreml", tmp_path / "food.mlpackage.zip", data=shard_folder)
    assert result.unchecked is not None and "macOS" in result.unchecked
    assert (result.photographs, result.max_difference, result.max_logit, result.same_top1) == (0, None, None, None)
    assert result.accuracy is None and result.speeds == []
    printed = io.StringIO()
    console = Console(file=printed, width=200, markup=False)
    console.print(facts(result))
    console.print(figures(result))
    said = printed.getvalue()
    assert "not checked" in said and result.unchecked in said and "Core ML" in said
    with pytest.raises(UserError, match="macOS"):
        make_format("coreml").open(result.path, 1)
