"""Data sets at the edge: classes that are missing, one photograph, batches larger than all there is."""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import precision_recall_fscore_support

from fasttrain import evaluate, predict, train
from fasttrain.errors import UserError
from fasttrain.evaluation.calibration import calibrate
from fasttrain.model.batch_norm import running_statistics_if_lone
from fasttrain.model.factory import create_model
from fasttrain.shards.convert import convert
from fasttrain.training.early_stopping import EarlyStopping
from fasttrain.training.optim import Schedule, create_optimizer
from tests.support.runs import SMALL, last_state

TINY: dict[str, Any] = {**SMALL, "image_size": 32, "batch_size": 4, "epochs": 1, "track": False}
Shards = Callable[..., Path]


@pytest.fixture
def shards_of(photographs: Path, tmp_path: Path) -> Shards:
    """`shards_of(train={"donuts": 3}, val={"donuts": 1})`: so many photographs of each class."""

    def make(**splits: dict[str, int]) -> Path:
        root = tmp_path / "source"
        taken: dict[str, int] = {}
        for split, classes in splits.items():
            for name, count in classes.items():
                source = photographs / name if (photographs / name).is_dir() else photographs / "donuts"
                first = taken.get(name, 0)
                taken[name] = first + count
                (root / split / name).mkdir(parents=True)
                for path in sorted(source.iterdir())[first : first + count]:
                    shutil.copy(path, root / split / name)
        convert(str(root), tmp_path / "shards", workers=1, progress=False)
        return tmp_path / "shards"

    return make


def relabel(data: Path, chosen: Callable[[Any], Any], label: int, classes: list[str] | None = None) -> None:
    """Gives samples another label behind the manifest's back, and the index its new checksum."""
    index = np.load(data / "index.npy")
    index["label"][chosen(index)] = label
    np.save(data / "index.npy", index)
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["index"]["sha256"] = hashlib.sha256((data / "index.npy").read_bytes()).hexdigest()
    manifest.pop("checksum", None)
    (data / "manifest.json").write_text(json.dumps({**manifest, "classes": classes or manifest["classes"]}))


def told(data: Path, out: Path, **settings: Any) -> tuple[Any, str]:
    """The result of a run, and what it printed."""
    said = io.StringIO()
    result = train(data=data, out=out, console=Console(file=said, width=200), **{**TINY, **settings})
    assert "could not be written" not in said.getvalue()
    return result, said.getvalue()


@pytest.mark.slow
def test_the_last_photograph_of_an_epoch_may_be_alone(shards_of, tmp_path):
    """9 = 4 + 4 + 1: at 32 px BatchNorm has one value a channel there, of which there is no variance."""
    data = shards_of(train={"donuts": 5, "salad": 4}, val={"donuts": 1, "salad": 1})
    result, _ = told(data, tmp_path / "runs")
    model = last_state(result.folder)["model"]
    assert last_state(result.folder)["step"] == 3
    assert int(model["bn1.num_batches_tracked"]) == 2, "one photograph's statistics count as a batch's"
    assert all(torch.isfinite(each).all() for each in model.values())


@pytest.mark.slow
def test_batches_of_one_are_refused_only_where_there_is_nothing_to_normalize_by(shards_of, tmp_path):
    data = shards_of(train={"donuts": 2, "salad": 1}, val={"donuts": 1, "salad": 1})
    with pytest.raises(UserError, match=r"batch_size = 1: at 32 px one photograph is not enough for BatchNorm"):
        told(data, tmp_path / "a", batch_size=1)
    result, _ = told(data, tmp_path / "b", batch_size=1, image_size=64)
    assert int(last_state(result.folder)["model"]["bn1.num_batches_tracked"]) == 3


def test_running_statistics_come_back_to_training():
    model = create_model("mobilenetv2_035", 2).train()
    model.bn1.eval()
    with running_statistics_if_lone(model, samples=1, batch_size=2):
        model(torch.randn(1, 3, 32, 32)).sum().backward()
    assert not model.bn1.training and model.blocks[0][0].bn1.training
    assert all(int(each) == 0 for name, each in model.state_dict().items() if name.endswith("num_batches_tracked"))


@pytest.mark.slow
def test_more_photographs_a_step_than_there_are_make_one_step(shards_of, tmp_path):
    """With what is worked out over steps: one-cycle, EMA, accumulation; and test-time flips, balanced weights."""
    data = shards_of(train={"donuts": 3, "salad": 2}, val={"donuts": 1, "salad": 1})
    settings = {"scheduler": "onecycle", "ema_decay": 0.999, "tta": "flip", "class_weights": "balanced", "epochs": 2}
    result, _ = told(data, tmp_path / "a", batch_size=64, **settings)
    assert last_state(result.folder)["step"] == 2 and result.evaluation.samples == 2
    other, _ = told(data, tmp_path / "b", grad_accumulation=64, **settings)
    assert last_state(other.folder)["step"] == 2
    assert [record["learning_rate"] for record in other.history] == [each["learning_rate"] for each in result.history]


@pytest.mark.slow
def test_classes_missing_in_a_split_are_said_and_left_out_of_averages(shards_of, tmp_path):
    data = shards_of(train={"donuts": 3, "pizza": 3, "salad": 3}, val={"donuts": 2, "salad": 1})
    result, said = told(data, tmp_path / "runs", class_weights="balanced")
    assert "classes: val: no photograph of 1 class, which the macro averages leave out: pizza" in said
    matrix = result.evaluation.confusion_matrix
    true, predicted = (np.repeat(each, matrix[matrix > 0]) for each in np.nonzero(matrix))
    expected = precision_recall_fscore_support(true, predicted, labels=[0, 2], average="macro", zero_division=0)
    found = result.evaluation
    assert (found.macro_precision, found.macro_recall, found.macro_f1) == pytest.approx(expected[:3])
    assert found.samples == 3 and [each.support for each in found.classes] == [2, 0, 1]


@pytest.mark.slow
def test_a_class_nobody_can_learn_is_said(shards_of, tmp_path):
    data = shards_of(train={"donuts": 2, "pizza": 1, "salad": 2}, val={"donuts": 1, "pizza": 1})
    relabel(data, lambda index: (index["label"] == 1) & (index["split"] == 0), 0)
    result, said = told(data, tmp_path / "runs", class_weights="balanced")
    assert "classes: train: no photograph of 1 class, which training can't learn: pizza" in said
    assert math.isfinite(result.history[0]["train_loss"])


def test_one_class_is_no_task(shards_of, tmp_path):
    data = shards_of(train={"donuts": 2, "salad": 1}, val={"donuts": 1})
    relabel(data, lambda index: slice(None), 0, ["donuts"])
    with pytest.raises(UserError, match="one class only, 'donuts'; a classifier needs two"):
        told(data, tmp_path / "runs")


def test_one_photograph_a_class_leaves_none_to_validate_with(shards_of, tmp_path):
    data = shards_of(train={"donuts": 1, "salad": 1})
    with pytest.raises(UserError, match="no photograph in the val split: each class has one photograph"):
        told(data, tmp_path / "runs")


@pytest.mark.slow
def test_one_photograph_validates(shards_of, tmp_path):
    data = shards_of(train={"donuts": 1, "salad": 1}, val={"salad": 1})
    result, _ = told(data, tmp_path / "runs", tta="flip", mixup=0.3, model="test_convnext")
    assert result.evaluation.samples == 1 and result.evaluation.top1 in (0.0, 1.0)
    assert (result.folder / "report.html").exists() and (result.folder / "reliability.png").exists()


@pytest.mark.filterwarnings("error:Glyph")
@pytest.mark.slow
def test_class_names_with_odd_characters_come_through(shards_of, photographs, tmp_path):
    names = ["$\\frac$ _x_", "<b>&'\"</b>"[:5], "[bold]soup", "a,b;c\t"[:5], "crème brûlée", "日本料理 🍣"]
    data = shards_of(train=dict.fromkeys(names, 2), val=dict.fromkeys(names[:4], 1))
    result, said = told(data, tmp_path / "runs", model="test_convnext")
    assert [each.name for each in result.evaluation.classes] == sorted(names)
    assert json.loads((result.folder / "class_to_idx.json").read_text()).keys() == set(names)
    assert "[bold]soup" in said and "crème brûlée, 日本料理 🍣" in said
    page = (result.folder / "report.html").read_text()
    assert "<b>&'" not in page and "&lt;b&gt;&amp;" in page
    made = evaluate(result.folder, data, loader="torchvision", workers=0)
    assert made.confusion_matrix.tolist() == result.evaluation.confusion_matrix.tolist()
    assert set(predict(result.folder, [next(photographs.glob("*/*.jpg"))])[0].classes) <= set(names)


@pytest.mark.slow
def test_photographs_smaller_than_the_picture_are_enlarged(shards_of, tmp_path):
    data = shards_of(train={"donuts": 1, "salad": 1}, val={"salad": 1})
    result, _ = told(data, tmp_path / "runs", model="test_convnext", image_size=416)
    assert result.history[0]["image_size"] == 416 and result.evaluation.samples == 1


@pytest.mark.parametrize("kind", ["constant", "cosine", "onecycle", "plateau"])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
def test_a_schedule_of_one_step_has_a_rate(kind, warmup):
    optimizer = create_optimizer(torch.nn.Linear(2, 2), "sgd", 0.1, 0.0, 0.9)
    schedule = Schedule(
        optimizer, kind, learning_rate=0.1, epochs=1, steps_per_epoch=1, patience=0, factor=0.1, warmup_epochs=warmup
    )
    rates = [schedule.learning_rate]
    optimizer.step()
    schedule.after_step()
    schedule.after_epoch(1.0)
    rates.append(schedule.learning_rate)
    assert all(math.isfinite(rate) and 0 < rate <= 0.1 * (1 + 1e-9) for rate in rates), rates


def test_early_stopping_takes_equal_losses_and_nan_for_no_improvement():
    early = EarlyStopping(patience=2)
    assert early.update(0, 1.0) and not early.update(1, 1.0) and not early.should_stop
    assert not early.update(2, math.nan) and early.should_stop and early.best_epoch == 0
    assert early.update(3, 0.5) and not early.should_stop
    assert not EarlyStopping(patience=2).update(0, math.nan)


@pytest.mark.parametrize(("confidence", "right", "error"), [(1.0, True, 0.0), (1.0, False, 1.0), (0.25, True, 0.75)])
def test_calibration_of_one_photograph(confidence, right, error):
    made = calibrate(np.array([confidence], np.float32), np.array([right]))
    assert made.ece == pytest.approx(error) and made.counts.sum() == 1
