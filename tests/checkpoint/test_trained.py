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
    repair = f"; give --checkpoint a run folder, its {WEIGHTS} or a checkpoint"
    for path, what in ((tmp_path, f"no {WEIGHTS} in it"), (tmp_path / "none", "no such file")):
        with pytest.raises(UserError, match=rf"^{re.escape(f'{path}: {what}{repair}')}$"):
            weights_file(path)
    for name, time in (("a", 3), ("c", 9), ("b", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / WEIGHTS).touch()
        os.utime(tmp_path / name / WEIGHTS, (time, time))
    said = f"{tmp_path}: a folder of runs; give --checkpoint one of these, such as {tmp_path / 'c'}"
    with pytest.raises(UserError, match=rf"^{re.escape(said)}$"):
        weights_file(tmp_path)


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
