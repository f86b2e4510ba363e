"""Class-activation maps show where in a photograph a class is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from fasttrain import train
from fasttrain.commands.evaluate import evaluate
from fasttrain.errors import UserError
from fasttrain.evaluation.explain import class_activation, overlay
from tests.support.runs import SMALL

pytest.importorskip("captum")


class Brightness(torch.nn.Module):
    """Class 0 is bright, and class 1 dark."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2, 4, stride=4)
        self.act = torch.nn.ReLU(inplace=True)
        torch.nn.init.constant_(self.conv.weight, 1.0)
        torch.nn.init.constant_(self.conv.bias, 0.0)
        with torch.no_grad():
            self.conv.weight[1].neg_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(images)).mean((2, 3))


def test_the_map_lies_where_the_class_is():
    pictures = torch.full((2, 3, 32, 32), -0.1)
    pictures[0, :, :8, :8] = 1.0
    pictures[1, :, 24:, 24:] = -1.0
    maps = class_activation(Brightness().eval(), pictures, np.array([0, 1]))
    assert maps.shape == (2, 32, 32) and maps.min() >= 0 and maps.max() <= 1
    assert np.unravel_index(maps[0].argmax(), (32, 32)) < (8, 8) and maps[0, 16:].max() < 0.01
    assert maps[1, 28, 28] > 0.9 and maps[1, :16].max() < 0.2


def test_the_overlay_keeps_the_picture_visible():
    grey = np.full((1, 2, 2, 3), 100, np.uint8)
    mixed = overlay(grey, np.array([[[0.0, 0.0], [0.0, 1.0]]], np.float32))
    assert mixed.shape == grey.shape and mixed.dtype == np.uint8
    assert (mixed[0, 0, 0] >= 50).all() and not np.array_equal(mixed[0, 0, 0], mixed[0, 1, 1])


def test_a_transformer_is_refused():
    with pytest.raises(UserError, match="is not convolutional"):
        class_activation(timm.create_model("test_vit", img_size=32).eval(), torch.zeros(1, 3, 32, 32), np.array([0]))


@pytest.mark.slow
def test_the_mistakes_of_a_report_show_what_spoke_for_them(model_folder, shard_folder, tmp_path):
    evaluate(model_folder, shard_folder, device="cpu", workers=0, report=tmp_path / "plain.html")
    evaluate(model_folder, shard_folder, device="cpu", workers=0, report=tmp_path / "maps.html", explain=True)
    plain, maps = ((tmp_path / name).read_text() for name in ("plain.html", "maps.html"))
    mistakes = plain.count(", taken for ")
    assert 0 < mistakes <= 36
    assert maps.count('alt="where the model looks for ') == mistakes and "where the model looks for" not in plain
    assert len(maps) < len(plain) + mistakes * 20_000
    with pytest.raises(UserError, match="give --report FILE"):
        evaluate(model_folder, shard_folder, explain=True)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "explained"), [("mobilenetv2_035", True), ("test_vit", False)])
def test_a_runs_report_shows_what_spoke_for_its_mistakes(model, explained, shard_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = {**SMALL, "model": model, "epochs": 1, "track": "none", "explain": True}
    page = (train(data=shard_folder, out=tmp_path / "runs", **settings).folder / "report.html").read_text()
    mistakes = page.count(", taken for ")
    assert mistakes > 0
    assert page.count('alt="where the model looks for ') == (mistakes if explained else 0)
    assert ("is not convolutional" in capsys.readouterr().out) != explained


@pytest.mark.slow
def test_the_command_writes_a_picture_for_each_photograph(model_folder, photographs, tmp_path, monkeypatch, capsys):
    from fasttrain.cli import main

    files = [str(photographs / name / "0000.jpg") for name in ("pizza", "soup")]
    line = ["predict", "--checkpoint", str(model_folder), "--format", "jsonl", "--device", "cpu", *files]
    monkeypatch.setattr(sys, "argv", ["fasttrain", *line, "--explain", str(tmp_path / "maps")])
    with pytest.raises(SystemExit):
        main()
    out, err = capsys.readouterr()
    assert f"explanations: 2 pictures in {tmp_path / 'maps'}\n" in err
    pictures = [Path(json.loads(each)["explanation"]) for each in out.splitlines()]
    assert [each.name for each in pictures] == ["00001-0000.jpg", "00002-0000.jpg"]
    assert all(Image.open(each).size == (96, 48) for each in pictures)
