"""The list of photographs that were got wrong: by file, the surest mistakes first."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from fasttrain.errors import UserError
from fasttrain.evaluation.evaluate import Predictions, evaluate_model
from fasttrain.evaluation.label_sets import SetPredictions, evaluate_sets
from fasttrain.evaluation.metrics import ClassificationMeter
from fasttrain.report.mistakes import mistakes_beside, write_mistakes
from fasttrain.report.photographs import worst_classes
from fasttrain.shards.reader import ShardSet


@pytest.fixture
def shards(shard_folder: Path) -> ShardSet:
    return ShardSet.open(shard_folder)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_mistake_is_listed_by_the_photographs_path(shards: ShardSet, photographs: Path, tmp_path: Path) -> None:
    ids = shards.ids("val")
    labels = shards.labels(ids)
    classes = len(shards.classes)
    logits = torch.nn.functional.one_hot(torch.from_numpy(labels), classes).float() * 4
    logits[:3] = logits[:3].roll(1, 1) * torch.tensor([[1.0], [3.0], [2.0]])
    meter = ClassificationMeter(classes)
    ranked = meter.update(logits, torch.from_numpy(labels))
    predictions = Predictions(ids, labels, ranked.numpy(), logits.softmax(1).gather(1, ranked).numpy())
    evaluation = meter.compute(list(shards.classes))
    assert write_mistakes(tmp_path / "mistakes.csv", evaluation, predictions, shards) == 3
    found = rows(tmp_path / "mistakes.csv")
    keys = [shards.index["key"][ids[row]].decode() for row in (1, 2, 0)]
    assert [Path(each["file"]).with_suffix("").as_posix() for each in found] == keys, "the surest first"
    assert all((photographs / each["file"]).is_file() for each in found)
    assert all(each["true"] != each["predicted"] and 0 < float(each["probability"]) <= 1 for each in found)
    assert {each["true"] for each in found} == {shards.classes[label] for label in labels[:3]}
    shown = {it.file for each in worst_classes(evaluation, predictions, shards) for it in each.mistakes}
    assert shown == {each["file"] for each in found}, "the report names the same files"


def test_the_true_class_has_a_probability_though_it_is_not_among_the_likeliest(shards: ShardSet) -> None:
    images = torch.zeros(1, 3)
    logits = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0, -2.0]])
    _, predictions = evaluate_model(
        Fixed(logits), [(images, torch.tensor([5]), shards.ids("val")[:1])], num_classes=6, device="cpu",
        preprocess=lambda images: images, temperature=2.0,
    )  # fmt: skip
    assert 5 not in predictions.top[0]
    assert predictions.probability_of_truth(0) == pytest.approx(float((logits / 2).softmax(1)[0, 5]))


class Fixed(torch.nn.Module):
    """Answers with the same logits, whatever it sees."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits


def test_sets_that_differ_are_listed(shards: ShardSet, tmp_path: Path) -> None:
    ids = shards.ids("val")[:3]
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], np.bool_)
    scores = np.array([[0.9, 0.1, 0.1], [0.9, 0.1, 0.8], [0.1, 0.1, 0.9]], np.float32)
    predictions = SetPredictions(ids, truth, scores)
    evaluation = evaluate_sets(predictions, ["a", "b", "c"], 0.1, (0.5, 0.5, 0.5))
    assert write_mistakes(tmp_path / "m.csv", evaluation, predictions, shards) == 1
    (found,) = rows(tmp_path / "m.csv")
    assert (found["true"], found["predicted"]) == ("a|b", "a|c")


def test_a_list_that_cannot_be_written_is_one_line(shards: ShardSet, tmp_path: Path) -> None:
    predictions = SetPredictions(shards.ids("val")[:1], np.ones((1, 1), np.bool_), np.ones((1, 1), np.float32))
    evaluation = evaluate_sets(predictions, ["a"], 0.1, (0.5,))
    (tmp_path / "m.csv").mkdir()
    with pytest.raises(UserError, match=r"m\.csv"):
        write_mistakes(tmp_path / "m.csv", evaluation, predictions, shards)
    assert mistakes_beside(Path("a/page.html")) == Path("a/page-mistakes.csv")
