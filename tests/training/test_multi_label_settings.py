"""Settings on sets of classes: those that mean the same, those that mean something else, and those that are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fasttrain import Loader, evaluate, train, train_folds
from fasttrain.checkpoint.trained import load_trained
from fasttrain.commands import finish
from fasttrain.config.geometry import Geometry
from fasttrain.config.schema import TrainConfig
from fasttrain.errors import UserError
from fasttrain.evaluation.label_sets import SetEvaluation
from fasttrain.evaluation.prediction_file import read_predictions
from fasttrain.inspection.labels import find_label_issues
from fasttrain.model.criterion import SetCrossEntropy
from fasttrain.model.factory import ModelSpec
from fasttrain.shards.convert import convert
from fasttrain.training.loss import SetFocalLoss, make_criterion
from fasttrain.training.result import TrainResult
from fasttrain.training.teacher import Teacher, _require_kind
from tests.support.runs import SMALL, killed_after, last_state

RUN: dict[str, Any] = {**SMALL, "loader": "auto", "track": False, "deterministic": True, "crop_scale": (0.8, 1.0)}
# One epoch of the classifier on features, then two of four steps each.
MANY: dict[str, Any] = {
    **RUN,
    "epochs": 3,
    "limit_batches": 4,
    "save_every": 1,
    "monitor": "map",
    "head_epochs": 1,
    "average": 2,
    "sam": 0.02,
    "loss": "focal",
    "interpolation": "bicubic",
    "tta": "flip",
}


@pytest.fixture(scope="module", autouse=True)
def _features(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTTRAIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def result(multi_label_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, "_write_pictures", lambda *arguments: None)  # no_figures does this for one test only
        return train(data=multi_label_shards, out=tmp_path_factory.mktemp("runs"), **MANY)


@pytest.mark.slow
def test_map_chooses_the_best_epoch(result: TrainResult) -> None:
    curve = [record["val_map"] for record in result.history]
    assert result.best_epoch == 1 + curve.index(max(curve)) and result.chosen_by == "highest validation mAP"
    stored = json.loads((result.folder / "evaluation.json").read_text())
    assert stored["best_epoch_val_map"] == max(curve) and stored["monitor"] == "map"
    assert [record.get("phase") for record in result.history] == ["head", "full", "full"]
    assert "l2" in result.history[0]  # solved for on cached features


@pytest.mark.slow
def test_evaluate_sees_photographs_as_the_run_did(result: TrainResult, multi_label_shards: Path) -> None:
    again = evaluate(result.folder, multi_label_shards, tta="flip")
    other = evaluate(result.folder, multi_label_shards, tta="flip", interpolation="bilinear")
    assert again.loss == pytest.approx(result.evaluation.loss, rel=1e-5)
    assert other.loss != pytest.approx(result.evaluation.loss, rel=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_killed_and_resumed_with_all_of_them(result: TrainResult, multi_label_shards: Path, tmp_path: Path) -> None:
    with killed_after(lambda state: state["step"] == 6):
        train(data=multi_label_shards, out=tmp_path, **MANY)
    resumed = train(resume="auto", out=tmp_path)
    ours, theirs = last_state(resumed.folder)["model"], last_state(result.folder)["model"]
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert resumed.evaluation == result.evaluation and resumed.averaged == result.averaged


@pytest.mark.slow
def test_a_refit_keeps_the_thresholds_of_weights_that_did_not_train_on_validation(
    multi_label_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = tmp_path / "shards"
    convert(multi_label_pictures / "labels.jsonl", shards, test_fraction=0.2, workers=1, progress=False)
    settings = {**RUN, "data": shards, "limit_batches": 4}
    with monkeypatch.context() as patch:
        patch.setattr(finish, "_write_pictures", lambda *arguments: None)
        plain = train(out=tmp_path / "plain", **settings)
    refitted = train(out=tmp_path / "refitted", refit=True, **settings)
    assert isinstance(plain.evaluation, SetEvaluation) and isinstance(refitted.evaluation, SetEvaluation)
    assert plain.best_epoch == refitted.best_epoch == refitted.refit_epochs
    assert refitted.evaluation.thresholds == plain.evaluation.thresholds
    assert refitted.evaluation.map != plain.evaluation.map
    again = evaluate(refitted.folder, shards, split="test")
    assert isinstance(again, SetEvaluation) and again.map == pytest.approx(refitted.evaluation.map)
    assert "val_map" not in refitted.history[-1] and "train_subset_accuracy" in refitted.history[-1]
    assert (refitted.folder / "report.html").exists() and load_trained(refitted.folder)[1].temperature == 1


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_a_teacher_of_sets(result: TrainResult, multi_label_shards: Path, tmp_path: Path) -> None:
    settings = {**RUN, "epochs": 1, "limit_batches": 4}
    taught = train(data=multi_label_shards, out=tmp_path, teacher=str(result.folder), teacher_weight=0.5, **settings)
    assert isinstance(taught.evaluation, SetEvaluation) and taught.history[-1]["train_loss"] > 0


def test_a_teacher_of_another_kind_is_refused() -> None:
    with pytest.raises(UserError, match="runs/a predicts one class per photograph, but the data is multi-label"):
        _require_kind("runs/a", False, True)
    with pytest.raises(UserError, match="runs/a is multi-label, but the data has one class per photograph"):
        _require_kind("runs/a", True, False)


@pytest.mark.parametrize("weighted", [False, True])
def test_distillation_is_each_decision_s_divergence(weighted: bool) -> None:
    inputs, targets = torch.randn(6, 5), (torch.rand(6, 4) > 0.5).float()
    network, student = torch.nn.Linear(5, 4), torch.nn.Linear(5, 4)
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0]) if weighted else None
    criterion = SetCrossEntropy(weights)
    spec = ModelSpec("t", ("a", "b", "c", "d"), Geometry(32), (0.5,) * 3, (0.5,) * 3)
    teacher = Teacher("t", spec, "", network, nullcontext, None, None, 2.0)
    p, q = ((each(inputs) / 2).sigmoid() for each in (network, student))
    scale = 1.0 if weights is None else weights
    expected = (scale * p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean() * 4
    found = teacher.loss(criterion, inputs, student(inputs), targets)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert teacher.loss(criterion, inputs, network(inputs), targets).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_loss_of_sets(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(8, 3), (torch.rand(8, 3) > 0.5).float()
    weights = torch.tensor([1.0, 4.0, 0.3])
    plain, zero = SetCrossEntropy(weights, smoothing), SetFocalLoss(0.0, weights, smoothing)
    torch.testing.assert_close(zero(logits, targets), plain(logits, targets))
    p, soft = logits.sigmoid(), targets * (1 - smoothing) + smoothing / 2
    terms = -soft * weights * (1 - p) ** 2 * p.log() - (1 - soft) * p**2 * (1 - p).log()
    torch.testing.assert_close(SetFocalLoss(2.0, weights, smoothing)(logits, targets), terms.mean())
    made = make_criterion(TrainConfig(loss="focal", focal_gamma=3.0), weights, multi_label=True)
    assert isinstance(made, SetFocalLoss) and made.gamma == 3.0
    assert type(make_criterion(TrainConfig(), weights, multi_label=True)) is SetCrossEntropy


def test_focal_loss_of_sets_has_a_gradient_where_it_is_sure() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    SetFocalLoss(0.5)(logits, torch.tensor([[1.0, 0.0]])).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert F.logsigmoid(logits).isfinite().all()


def test_what_needs_one_class_a_photograph_is_refused(multi_label_shards: Path, tmp_path: Path) -> None:
    for settings, said in (
        ({"monitor": "top1"}, "monitor = top1: .* is multi-label; give --monitor one of val_loss, macro_f1, map"),
        ({"sampling": "balanced"}, "sampling = balanced needs one class per photograph, and .* is multi-label"),
        ({"fold": "1/3"}, "is multi-label, and folds need one class per photograph"),
    ):
        with pytest.raises(UserError, match=said):
            train(data=multi_label_shards, out=tmp_path, **{**RUN, **settings})
    with pytest.raises(UserError, match="folds need one class per photograph"):
        train_folds(data=multi_label_shards, out=tmp_path, folds=3, **RUN)
    with pytest.raises(UserError, match="class_weights = balanced"):
        Loader(multi_label_shards, batch_size=8, sampling="balanced")
    assert not list(tmp_path.iterdir())  # no run folder is left, and none of folds


def test_map_is_of_sets_alone(shard_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"one class per photograph; give --monitor one of val_loss, top1, macro_f1$"):
        train(data=shard_folder, out=tmp_path, **{**RUN, "monitor": "map"})


@pytest.mark.slow
def test_predictions_are_not_kept(result: TrainResult) -> None:
    said = "predictions.npz: no such file; multi-label runs"
    with pytest.raises(UserError, match=said):
        read_predictions(result.folder / "predictions.npz")
    with pytest.raises(UserError, match=said):
        find_label_issues(result.folder)
