"""With thousands of classes the page and the figures show those that matter, and stay small."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fasttrain.evaluation.evaluate import Predictions
from fasttrain.evaluation.metrics import ClassificationMeter, Evaluation
from fasttrain.report.figures import accuracy_figure, confusion_figure, drawn_part, most_confused
from fasttrain.report.html import Report, render
from fasttrain.report.matrix import matrix_view

CLASSES = 2500


@pytest.fixture(scope="module")
def evaluated() -> tuple[Evaluation, Predictions]:
    """Class 7 is taken for class 8 a hundred times; of the others, three photographs each, a third is got wrong."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES - 1300).repeat_interleave(3)
    taken = torch.where(torch.rand(len(labels), generator=generator) < 2 / 3, labels, (labels * 7 + 1) % CLASSES)
    labels = torch.cat([labels, torch.full((100,), 7)])
    taken = torch.cat([taken, torch.full((100,), 8)])
    logits = torch.rand(len(labels), CLASSES, generator=generator)
    logits[torch.arange(len(labels)), taken] += 3
    meter = ClassificationMeter(CLASSES)
    ranked = meter.update(logits, labels)
    sure = logits.softmax(1).gather(1, ranked).numpy()
    names = [f"class-{number:04d}" for number in range(CLASSES)]
    return meter.compute(names), Predictions(np.arange(len(labels)), labels.numpy(), ranked.numpy(), sure)


def test_the_classes_with_the_most_mistakes_are_drawn(evaluated: tuple[Evaluation, Predictions]) -> None:
    evaluation, _ = evaluated
    dense = evaluation.confusion_matrix.toarray()
    part, labels = drawn_part(evaluation.confusion_matrix)
    assert np.array_equal(part, dense[np.ix_(labels, labels)]) and sorted(set(labels)) == labels.tolist()
    mistakes = dense.sum(0) + dense.sum(1) - 2 * dense.diagonal()
    assert len(labels) == 100 and mistakes[labels].min() >= np.delete(mistakes, labels).max()
    assert most_confused(evaluation.confusion_matrix, 20) == most_confused(dense, 20)
    assert most_confused(dense, 1) == [(7, 8, dense[7, 8])] and dense[7, 8] >= 100
    view = matrix_view(evaluation.confusion_matrix, [each.name for each in evaluation.classes])
    assert (view.of_many, len(view.names), view.side) == (CLASSES, 100, view.cell * 100)
    for cell in view.cells:
        true, taken = int(cell.true[6:]), int(cell.predicted[6:])
        assert cell.count == dense[true, taken] and cell.support == dense[true].sum()
        assert cell.share == pytest.approx(cell.count / cell.support), "of all the class's photographs"


@pytest.mark.slow
def test_the_figures_stay_small_and_say_what_they_leave_out(evaluated: tuple[Evaluation, Predictions]) -> None:
    evaluation, _ = evaluated
    names = [each.name for each in evaluation.classes]
    figure = confusion_figure(evaluation.confusion_matrix, names)
    assert "the 100 of 2,500 with the most mistakes" in figure.axes[0].get_ylabel()
    assert f"of {evaluation.samples:,} right" in figure.axes[0].get_title(loc="left")
    bars = accuracy_figure(evaluation.classes, evaluation.top1)
    assert "the lowest 153 of 1,200" in bars.get_suptitle()
    drawn = [label.get_text() for axes in bars.axes for label in axes.get_yticklabels()]
    lowest = sorted((each for each in evaluation.classes if each.support), key=lambda each: (each.recall, each.name))
    assert drawn == [each.name for each in lowest[:153]]
    for each in (figure, bars):
        assert max(each.get_size_inches()) < 20


def test_the_page_stays_small_and_says_what_it_leaves_out(evaluated: tuple[Evaluation, Predictions]) -> None:
    evaluation, predictions = evaluated
    page = render(Report("run", "net", "val", evaluation, predictions))
    assert len(page) < 500_000
    for said in ("Of 2,500 classes it shows the 100", "the lowest 200 of 1,200", " and 1,100 more."):
        assert said in page
    assert "class-0007 <i>→</i> class-0008" in page
