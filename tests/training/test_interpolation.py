"""A run's filter: chosen, kept with the model, and used wherever the model sees photographs again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fasttrain import decode, evaluate, predict, train
from fasttrain.checkpoint.trained import load_trained
from fasttrain.config.load import resolve
from fasttrain.errors import UserError
from fasttrain.export.export import export
from fasttrain.inspection.preview import preview
from fasttrain.model.names import own_interpolation
from fasttrain.training.interpolation import with_known_interpolation
from fasttrain.training.resume import start_of_run
from tests.support.runs import SMALL, killed_after, last_state

RUN: dict[str, Any] = {**SMALL, "epochs": 1, "track": False, "deterministic": True}
VALIDATION: dict[str, Any] = {"split": "val", "loader": "torchvision", "workers": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def bicubic(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose filter is its model's own."""
    return train(data=shard_folder, out=tmp_path_factory.mktemp("runs"), interpolation="auto", **RUN).folder


def with_spec(run: Path, folder: Path, **changes: Any) -> Path:
    """Return a copy of `run` with another model.json; None leaves a key out."""
    shutil.copytree(run, folder)
    spec = {**json.loads((folder / "model.json").read_text()), **changes}
    (folder / "model.json").write_text(json.dumps({name: each for name, each in spec.items() if each is not None}))
    return folder


def test_the_default_is_bilinear_and_auto_what_timm_says_of_the_weights():
    assert resolve({}).interpolation == "bilinear"
    assert own_interpolation("mobilenetv2_035") == own_interpolation("tf_efficientnet_lite0") == "bicubic"
    assert own_interpolation("resnet18.tv_in1k") == "bilinear"
    assert own_interpolation("package.module:function") == "bilinear"
    config, note = with_known_interpolation(resolve({"interpolation": "auto", "model": "resnet18.tv_in1k"}))
    assert config.interpolation == "bilinear" and note.startswith(
        "interpolation: bilinear, which the pretrained weights"
    )
    assert with_known_interpolation(resolve({})) == (resolve({}), "")


@pytest.mark.slow
def test_a_run_keeps_its_filter_with_the_model(bicubic):
    assert json.loads((bicubic / "model.json").read_text())["interpolation"] == "bicubic"
    assert 'interpolation = "bicubic"' in (bicubic / "config.toml").read_text()
    assert "48 px, bicubic" in (bicubic / "report.html").read_text()
    assert load_trained(bicubic)[1].geometry.interpolation == "bicubic"


@pytest.mark.slow
def test_evaluate_takes_the_filter_of_training(bicubic, shard_folder):
    of_run = validation_loss(bicubic)
    assert evaluate(bicubic, shard_folder, **VALIDATION).loss == pytest.approx(of_run, rel=1e-5)
    assert evaluate(bicubic, shard_folder, interpolation="bilinear", **VALIDATION).loss != pytest.approx(of_run, 1e-5)
    with pytest.raises(UserError, match=r"^interpolation = 'cubic' is not one of"):
        evaluate(bicubic, shard_folder, interpolation="cubic", **VALIDATION)


def validation_loss(run: Path) -> float:
    loss: float = json.loads((run / "history.json").read_text())[-1]["val_loss"]
    return loss


@pytest.mark.slow
def test_predict_takes_the_filter_of_training(bicubic, photographs):
    image = min(photographs.rglob("*.jpg"))
    said, same, other = (
        predict(bicubic, image, device="cpu", interpolation=each)[0].probabilities
        for each in (None, "bicubic", "bilinear")
    )
    assert said == same != other


@pytest.mark.slow
def test_export_says_which_filter_the_model_expects(bicubic, tmp_path, photographs):
    result = export(bicubic, "torchscript", tmp_path / "model.pt", data=photographs, photographs=4, speed=False)
    assert result.metadata["interpolation"] == "bicubic"
    assert "resized (bicubic, antialiased)" in result.metadata["preprocess"]


@pytest.mark.slow
def test_a_model_of_an_older_fasttrain_is_bilinear(bicubic, tmp_path):
    older = with_spec(bicubic, tmp_path / "old", interpolation=None)
    assert load_trained(older)[1].geometry.interpolation == "bilinear"
    with pytest.raises(UserError, match=r"model\.json: interpolation = 'lanczos' is not one of bilinear, bicubic"):
        load_trained(with_spec(bicubic, tmp_path / "odd", interpolation="lanczos"))


@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed_bit_for_bit(shard_folder, tmp_path):
    settings = {**RUN, "epochs": 2, "save_every": 1, "batch_size": 8}
    alone = train(data=shard_folder, out=tmp_path / "alone", interpolation="bicubic", **settings)
    with killed_after(lambda state: state["step"] == 3):
        train(data=shard_folder, out=tmp_path / "killed", interpolation="auto", **settings)
    again = start_of_run(None, {"resume": "auto", "out": tmp_path / "killed", "interpolation": "auto"})
    assert again.config.interpolation == "bicubic" and again.changed == ()
    resumed = train(resume="auto", out=tmp_path / "killed")
    ours, theirs = (last_state(run.folder)["model"] for run in (resumed, alone))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_decode_and_preview_take_a_filter(shard_folder, photographs):
    image = min(photographs.rglob("*.jpg"))
    assert not torch.equal(decode(image, 48), decode(image, 48, interpolation="bicubic"))
    with pytest.raises(UserError, match=r"^interpolation = 'cubic' is not one of bilinear, bicubic$"):
        decode(image, 48, interpolation="cubic")
    settings = {**RUN, "data": shard_folder}
    seen = {
        each: preview(resolve({**settings, "interpolation": each}), count=4).pictures["torchvision"]
        for each in ("bilinear", "bicubic", "auto")
    }
    assert (seen["auto"] == seen["bicubic"]).all() and (seen["bilinear"] != seen["bicubic"]).any()
