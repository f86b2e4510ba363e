"""The run's folder: unique, whole files, and a model that can be rebuilt from it."""

from __future__ import annotations

import json
import threading
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.config.geometry import Geometry
from fasttrain.errors import UserError
from fasttrain.evaluation.evaluate import Predictions
from fasttrain.evaluation.metrics import ClassificationMeter, Evaluation
from fasttrain.model.factory import ModelSpec
from fasttrain.report.figures import write_figures
from fasttrain.report.html import Report, write_page

NOW = datetime(2026, 11, 24, 20, 15, 9)


class Tied(torch.nn.Module):
    """Two names for one weight, and one that isn't contiguous: what safetensors refuses as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 4, bias=False)
        self.second = torch.nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.conv = torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
        self.low = torch.nn.Parameter(torch.randn(3, dtype=torch.bfloat16))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs", "net")


@pytest.fixture
def evaluation() -> Evaluation:
    meter = ClassificationMeter(4)
    generator = torch.Generator().manual_seed(0)
    meter.update(torch.randn(80, 4, generator=generator), torch.arange(80) % 4, torch.tensor(80.0))
    return meter.compute(["café", "bread", "cake", "$5 menu"])


@pytest.fixture
def predictions() -> Predictions:
    return Predictions(np.arange(2), np.array([0, 1]), np.array([[0], [3]]), np.array([[0.9], [0.4]], np.float32))


def test_folders_made_in_one_second_are_different(tmp_path: Path) -> None:
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.append(RunFolder.create(tmp_path / "runs", "a/b c", NOW).path))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = {path.name for path in made}
    assert len(names) == 12
    assert "20261124-201509-a-b-c" in names
    assert "20261124-201509-a-b-c-12" in names
    assert all((path / "checkpoints").is_dir() for path in made)


def test_a_folder_that_cannot_be_made_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="--out"):
        RunFolder.create(tmp_path / "runs", "net")


def test_weights_come_back_bit_for_bit(folder: RunFolder) -> None:
    model = Tied()
    folder.write_model(model)
    stored = load_file(folder.model)
    assert stored.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert stored[name].dtype == tensor.dtype
        torch.testing.assert_close(stored[name], tensor, rtol=0, atol=0)
    other = folder.read_model(Tied())
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_weights_of_another_model_or_a_torn_file_are_named(folder: RunFolder) -> None:
    folder.write_model(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"model\.safetensors"):
        folder.read_model(torch.nn.Linear(3, 2))
    folder.model.write_bytes(folder.model.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        folder.read_model(torch.nn.Linear(2, 2))


@pytest.mark.slow
def test_each_file_is_there_and_says_what_it_should(
    folder: RunFolder, evaluation: Evaluation, predictions: Predictions
) -> None:
    spec = ModelSpec("mobilenetv2_100", ("café", "bread", "cake", "$5 menu"), Geometry(96), (0.5,) * 3, (0.2,) * 3)
    record = {
        "epoch": 1,
        "train_loss": 1.0,
        "val_loss": 1.1,
        "train_top1": 0.5,
        "val_top1": 0.4,
        "learning_rate": 1e-3,
    }
    assert folder.artifacts() == []
    folder.write_config({"epochs": 3, "clip_grad": None, "crop_scale": [0.08, 1.0], "model": "a\nb"})
    folder.write_classes(spec.classes)
    folder.write_model_spec(spec)
    folder.write_model(torch.nn.Linear(2, 2))
    folder.write_history([record])
    write_figures(folder, evaluation, predictions, [record], 1)
    write_page(folder.report, Report("run", "net", "test", evaluation, predictions))
    folder.write_evaluation(
        evaluation.to_dict(), split="test", seconds=12.5, best_epoch=1, monitor="top1", monitored=0.5
    )
    assert {path.name for path in folder.artifacts()} == {
        "config.toml",
        "class_to_idx.json",
        "model.json",
        "model.safetensors",
        "history.json",
        "curves.png",
        "confusion_matrix.png",
        "accuracy_by_class.png",
        "reliability.png",
        "report.html",
        "evaluation.json",
    }
    assert {path.name for path in folder.path.iterdir()} == {
        *(path.name for path in folder.artifacts()),
        "checkpoints",
    }
    tomllib = pytest.importorskip("tomllib")
    assert tomllib.loads(folder.config.read_text()) == {
        "epochs": 3,
        "crop_scale": [0.08, 1.0],
        "model": "a\nb",
    }
    assert json.loads(folder.class_to_idx.read_text()) == {"café": 0, "bread": 1, "cake": 2, "$5 menu": 3}
    described = json.loads(folder.model_spec.read_text())
    assert (described["model"], described["num_classes"], described["image_size"]) == ("mobilenetv2_100", 4, 96)
    assert described["classes"] == list(spec.classes)
    assert described["mean"] == [0.5] * 3
    assert set(described["versions"]) == {"fasttrain", "timm", "torch"}
    written = json.loads(folder.evaluation.read_text())
    assert Evaluation.from_dict(written) == evaluation
    assert (written["split"], written["training_seconds"], written["best_epoch"]) == ("test", 12.5, 1)
    for name in ("top1", "top3", "top5", "macro_f1", "weighted_f1", "worst_classes"):
        assert name in written
    assert np.array(written["confusion_matrix"]).sum() == 80


def test_a_file_that_cannot_be_made_leaves_the_old_one(folder: RunFolder) -> None:
    folder.write_history([{"epoch": 1}])
    before = folder.history.read_bytes()
    with pytest.raises(TypeError):
        folder.write_history([{"epoch": object()}])
    assert folder.history.read_bytes() == before
    assert [path.name for path in folder.path.iterdir() if path.name.startswith(".")] == []
