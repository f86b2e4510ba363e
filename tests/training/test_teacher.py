"""Distillation: the teacher sees what the student sees, its identity is kept, and a resumed run is exact."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from fasttrain import train
from fasttrain.augment.mix import PlannedMixup
from fasttrain.config.geometry import Geometry
from fasttrain.config.schema import TrainConfig
from fasttrain.errors import UserError
from fasttrain.model.factory import ModelSpec
from fasttrain.model.preprocess import NormalizePixels
from fasttrain.training.teacher import Teacher, load_teacher
from tests.support.runs import SMALL, killed_after, last_state

CPU = torch.device("cpu")
RUN: dict[str, Any] = {**SMALL, "model": "test_convnext", "image_size": 32, "track": False, "deterministic": True}


class Seen(torch.nn.Module):
    """Gives the means of its pictures' channels as logits."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.mean((2, 3))


def teacher(**changes: Any) -> Teacher:
    given = {"network": Seen(), "autocast": torch.enable_grad, "scale": None, "shift": None}
    spec = ModelSpec("test_convnext", ("a", "b", "c"), Geometry(32), (0.5,) * 3, (0.5,) * 3)
    return Teacher("there", spec, "0" * 64, **{**given, **changes})


@pytest.fixture(autouse=True)
def _torch_as_it_was():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def classes(model_folder) -> tuple[str, ...]:
    return tuple(json.loads((model_folder / "model.json").read_text())["classes"])


def test_the_loss_is_the_divergence_from_the_teachers_probabilities():
    inputs, logits, labels = torch.randn(5, 3, 4, 4), torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    criterion = torch.nn.CrossEntropyLoss()
    theirs = inputs.mean((2, 3))
    p, q = theirs.softmax(1), logits.softmax(1)
    expected = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(teacher().loss(criterion, inputs, logits, labels), expected)
    assert teacher().loss(criterion, inputs, theirs, labels).abs() < 1e-6
    softer = teacher(temperature=3.0).loss(criterion, inputs, logits, labels)
    p, q = (theirs / 3).softmax(1), (logits / 3).softmax(1)
    torch.testing.assert_close(softer, 9 * (p * (p / q).log()).sum(1).mean())
    both = teacher(weight=0.25).loss(criterion, inputs, logits, labels)
    torch.testing.assert_close(both, 0.25 * expected + 0.75 * F.cross_entropy(logits, labels))


def test_class_weights_weigh_the_divergence():
    inputs, logits, labels = torch.randn(3, 3, 4, 4), torch.randn(3, 3), torch.tensor([0, 1, 2])
    weights = torch.tensor([0.5, 1.0, 4.0])
    plain, each = torch.nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss(weights)
    alone = torch.stack([teacher().loss(plain, inputs[[k]], logits[[k]], labels[[k]]) for k in range(3)])
    expected = (alone * weights).sum() / weights.sum()
    torch.testing.assert_close(teacher().loss(each, inputs, logits, labels), expected)
    mixed = F.one_hot(labels, 3).float()
    torch.testing.assert_close(teacher().loss(each, inputs, logits, mixed), alone.mean())


def test_each_has_its_own_normalization_also_of_mixed_pictures(model_folder, classes):
    student = ModelSpec("test_convnext", classes, Geometry(48), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    loaded = load_teacher(TrainConfig(teacher=str(model_folder), image_size=48), student, "fp32", CPU)
    images = torch.randint(0, 256, (4, 48, 48, 3), dtype=torch.uint8)
    own = json.loads((model_folder / "model.json").read_text())
    results = []
    for mean, std in ((student.mean, student.std), (own["mean"], own["std"])):
        inputs = NormalizePixels(tuple(mean), tuple(std), channels_last=True)(images)
        mix = PlannedMixup(1.0, 0.0, len(classes), seed=3)
        results.append(mix(inputs, torch.arange(4), torch.arange(4).numpy(), 0)[0])
    theirs = loaded.network(results[1])
    torch.testing.assert_close(loaded.logits(results[0]), theirs, rtol=1e-4, atol=1e-4)
    assert not loaded.network.training and not any(each.requires_grad for each in loaded.network.parameters())
    same = ModelSpec("test_convnext", classes, Geometry(48), tuple(own["mean"]), tuple(own["std"]))
    assert load_teacher(TrainConfig(teacher=str(model_folder), image_size=48), same, "fp32", CPU).scale is None


@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed_with_the_teacher_elsewhere(shard_folder, model_folder, tmp_path):
    there = shutil.copytree(model_folder, tmp_path / "teacher")
    run = {
        **RUN,
        "teacher": str(there),
        "mixup": 0.2,
        "teacher_weight": 0.8,
        "teacher_temperature": 2.0,
        "save_every": 1,
    }
    alone = train(data=shard_folder, out=tmp_path / "alone", **run)
    with killed_after(lambda state: state["loader"]["samples"] == 32):
        train(data=shard_folder, out=tmp_path / "killed", **run)
    (folder,) = (tmp_path / "killed").iterdir()
    state = last_state(folder)
    assert state["teacher"]["path"] == str(there) and not any("teacher" in name for name in state["model"])
    tensors = load_file(there / "model.safetensors")
    there.rename(tmp_path / "moved")
    other = shutil.copytree(tmp_path / "moved", tmp_path / "other")
    name = next(name for name, each in tensors.items() if each.is_floating_point())
    save_file({**tensors, name: tensors[name] + 1}, other / "model.safetensors")
    with pytest.raises(UserError, match=r"teacher = .*other is not the one that .* began with, .*teacher with SHA-256"):
        train(resume=str(folder), teacher=str(other))
    resumed = train(resume=str(folder), teacher=str(tmp_path / "moved"))
    expected, made = last_state(alone.folder)["model"], last_state(folder)["model"]
    assert all(torch.equal(made[name], expected[name]) for name in expected)
    assert [each["train_loss"] for each in resumed.history] == [each["train_loss"] for each in alone.history]


def test_another_order_of_the_classes_is_refused_by_name(model_folder, classes, tmp_path):
    student = ModelSpec("test_convnext", (*classes[:2], "other", *classes[3:]), Geometry(48), (0.5,) * 3, (0.5,) * 3)
    said = f"number 3 is 'other' in the data and '{classes[2]}' in the teacher"
    with pytest.raises(UserError, match=said):
        load_teacher(TrainConfig(teacher=str(model_folder), image_size=48), student, "fp32", CPU)
    more = ModelSpec("test_convnext", (*classes, "zebra"), Geometry(48), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UserError, match=f"number {len(classes) + 1} is 'zebra' in the data and absent in the teacher"):
        load_teacher(TrainConfig(teacher=str(model_folder), image_size=48), more, "fp32", CPU)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet18", r"teacher = resnet18 has other classes: number 1 is '\w+' in the data and 'n01440764' in the"),
        (
            "resnett18",
            "teacher = resnett18: no such run folder or checkpoint, nor a timm model; did you mean 'resnet18'",
        ),
        ("nowhere/run", "teacher = nowhere/run: no such run folder or checkpoint, nor a timm model"),
        ("tests", "teacher = tests: no model.safetensors in it; give a run folder"),
    ],
)
def test_what_is_no_teacher_of_these_classes(name, said, classes, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    student = ModelSpec("test_convnext", classes, Geometry(48), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UserError, match=said):
        load_teacher(TrainConfig(teacher=name, image_size=48), student, "fp32", CPU)


def test_a_linear_probe_has_no_teacher():
    with pytest.raises(ValueError, match="teacher = 'resnet18' can't be combined with linear_probe"):
        TrainConfig(teacher="resnet18", linear_probe=True)
