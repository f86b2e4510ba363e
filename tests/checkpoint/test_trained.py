"""Which file `--checkpoint` means, and the model that is made of it."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest
import torch

from fasttrain.checkpoint.trained import load_trained
from fasttrain.checkpoint.weights import WEIGHTS, weights_file
from fasttrain.errors import UserError


def test_a_file_is_itself_and_a_run_folder_its_best_weights(model_folder):
    assert weights_file(model_folder) == weights_file(model_folder / WEIGHTS) == model_folder / WEIGHTS


def test_what_is_none_is_told_with_what_to_give(tmp_path):
    repair = f"; give a run folder, its {WEIGHTS} or a checkpoint"
    for path, what in ((tmp_path, f"no {WEIGHTS} in it"), (tmp_path / "none", "no such file")):
        with pytest.raises(UserError, match=rf"^{re.escape(f'{path}: {what}{repair}')}$"):
            weights_file(path)
    for name, time in (("a", 3), ("c", 9), ("b", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / WEIGHTS).touch()
        os.utime(tmp_path / name / WEIGHTS, (time, time))
    said = f"{tmp_path}: a folder of runs; give one of these, such as {tmp_path / 'c'}"
    with pytest.raises(UserError, match=rf"^{re.escape(said)}$"):
        weights_file(tmp_path)


@pytest.fixture
def run(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in (WEIGHTS, "model.json", "model.onnx", "model.int8.onnx", "notes.txt", "checkpoints/last.pt"):
        (run / name).touch()
    return run


def test_a_file_of_another_kind_is_told_by_its_kind(run, tmp_path):
    give = f"give a run folder, its {WEIGHTS} or a checkpoint"
    exported = "an exported file, but this command needs the run it was exported from"
    said = {
        tmp_path / "notes.txt": f"not a checkpoint of a run; {give}",
        tmp_path / "best.pt": f"not a checkpoint of a run; {give}",
        tmp_path / "hat.JPG": f"a picture, not a model; {give}",
        tmp_path / "elsewhere.onnx": f"{exported}; {give}",
        tmp_path / "model.tflite": f"an exported file that fasttrain doesn't run; {give}",
        run / "notes.txt": f"not a checkpoint of a run; give its run folder, {run}",
        run / "model.int8.onnx": f"{exported}; give its run folder, {run}",
    }
    for path, line in said.items():
        path.touch()
        with pytest.raises(UserError, match=rf"^{re.escape(f'{path}: {line}')}$"):
            weights_file(path)
    for name in ("model.int8.onnx", "checkpoints/last.pt", WEIGHTS):
        assert weights_file(run / name, exported=True) == run / name
    with pytest.raises(
        UserError, match=r"not a model|not a checkpoint.*a checkpoint or an exported \.onnx or \.xml file$"
    ):
        weights_file(tmp_path / "notes.txt", exported=True)


def test_for_a_missing_file_the_nearest_one_is_named(run, tmp_path):
    def said(name: str, **options: bool) -> str:
        with pytest.raises(UserError) as refused:
            weights_file(tmp_path / name, **options)
        return str(refused.value).removeprefix(f"{tmp_path / name}: ")

    assert said("run/model-int8.onnx", exported=True) == "no such file; did you mean 'model.int8.onnx'?"
    assert said("run/model.safetensor") == f"no such file; did you mean '{WEIGHTS}'?"
    assert "onnx" not in said("run/model-int8.onnx"), "not accepted there"
    assert said("rum") == "no such file; did you mean 'run'?"
    assert said("nowhere/m", exported=True).endswith(
        "; give a run folder, its model.safetensors, a checkpoint or an exported .onnx or .xml file"
    )


@pytest.mark.slow
def test_the_spec_is_the_one_beside_the_weights(model_folder, tmp_path):
    model, spec = load_trained(model_folder)
    written = json.loads((model_folder / "model.json").read_text())
    assert (spec.name, list(spec.classes), spec.image_size) == (written["model"], written["classes"], 48)
    assert (list(spec.mean), list(spec.std)) == (written["mean"], written["std"])
    assert not model.training and model(torch.zeros(1, 3, 48, 48)).shape == (1, len(spec.classes))
    shutil.copytree(model_folder, tmp_path / "run")
    for name, value in (("image_size", None), ("mean", None), ("std", 0.5), ("classes", 3)):
        (tmp_path / "run" / "model.json").write_text(json.dumps({**written, name: value}))
        with pytest.raises(UserError, match=r"not a model\.json of fasttrain "):
            load_trained(tmp_path / "run")
    (tmp_path / "run" / "model.json").write_text(json.dumps({**written, "classes": ["one"]}))
    with pytest.raises(
        UserError, match=rf"do not fit {spec.name} as .*model\.json describes it; put the run's own file back$"
    ):
        load_trained(tmp_path / "run")
