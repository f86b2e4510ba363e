"""Figures, by what is in them: every name, every count, nothing outside the paper."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fasttrain.evaluation.calibration import calibrate
from fasttrain.evaluation.metrics import ClassResult
from fasttrain.report.figures import (
    accuracy_figure,
    confusion_figure,
    curves_figure,
    falls_by_factors,
    most_confused,
    reliability_figure,
)
from fasttrain.report.summary import percent


def matrix_of(count: int, samples: int = 200) -> np.ndarray:
    rng = np.random.default_rng(count)
    shares = rng.random((count, count)) ** 8 * 0.2 / count + 0.8 * np.eye(count)
    return np.array([rng.multinomial(samples, row / row.sum()) for row in shares], np.int64)


def names_of(count: int) -> list[str]:
    return [f"class_{number:03d}_with_a_name" for number in range(count)]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("count", [1, 2, 5, 20, 101])
@pytest.mark.slow
def test_nothing_is_cut_off_and_labels_do_not_overlap(count: int) -> None:
    figure = confusion_figure(matrix_of(count), names_of(count))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    paper = figure.bbox
    axes = figure.axes[0]
    labels = axes.get_yticklabels()
    assert sorted(label.get_text() for label in labels) == names_of(count)
    for text in [*labels, *axes.get_xticklabels(), *axes.texts, axes.title]:
        box = text.get_window_extent(renderer)
        assert box.x0 >= paper.x0 - 1
        assert box.x1 <= paper.x1 + 1
        assert box.y0 >= paper.y0 - 1
        assert box.y1 <= paper.y1 + 1
    boxes = sorted((label.get_window_extent(renderer) for label in labels), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 + 1.5 for lower, upper in pairwise(boxes))


def test_counts_are_printed_only_where_they_fit() -> None:
    small = matrix_of(5)
    printed = [text.get_text() for text in confusion_figure(small, names_of(5)).axes[0].texts]
    assert sorted(each for each in printed if each.isdecimal()) == sorted(str(count) for count in small[small > 0])
    large = confusion_figure(matrix_of(60), names_of(60))
    assert not [each for each in texts(large) if each.isdecimal()]


def test_rows_are_the_true_classes_and_sum_to_one() -> None:
    matrix = np.array([[8, 2, 0], [0, 10, 0], [0, 0, 0]], np.int64)
    figure = confusion_figure(matrix, ["a", "b", "c"])
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[0.8, 0.2, 0], [0, 1, 0], [0, 0, 0]])
    assert "18 of 20" in figure.axes[0].get_title(loc="left")
    assert {"a → b", "2 of 10"} <= set(texts(figure))


def test_what_is_confused_lies_together_where_there_are_many() -> None:
    matrix = np.eye(40, dtype=np.int64) * 50
    for label in range(20):  # each class is taken for the one twenty places on
        matrix[label, label + 20] = matrix[label + 20, label] = 30
    labels = confusion_figure(matrix, [str(label) for label in range(40)]).axes[0].get_yticklabels()
    order = [int(label.get_text()) for label in labels]
    assert sorted(order) == list(range(40))
    assert all(abs(order.index(label) - order.index(label + 20)) == 1 for label in range(20))


def test_most_confused_pairs() -> None:
    matrix = np.array([[5, 3, 0], [7, 5, 0], [0, 1, 9]], np.int64)
    assert most_confused(matrix, 2) == [(1, 0, 7), (0, 1, 3)]
    assert most_confused(np.eye(3, dtype=np.int64), 5) == []


def test_a_dollar_in_a_name_is_no_mathematics() -> None:
    figure = confusion_figure(matrix_of(2), ["$x^$", "a$_$"])
    FigureCanvasAgg(figure).draw()


@pytest.mark.parametrize("epochs", [1, 12])
def test_curves_show_each_epoch_and_the_best(epochs: int) -> None:
    history = [
        {
            "epoch": epoch,
            "train_loss": 2 / epoch,
            "val_loss": 3 / epoch,
            "train_top1": 1 - 0.5 / epoch,
            "val_top1": 1 - 0.6 / epoch,
            "learning_rate": 1e-3 / epoch,
        }
        for epoch in range(1, epochs + 1)
    ]
    figure = curves_figure(history, epochs)
    FigureCanvasAgg(figure).draw()
    loss, accuracy, rate = figure.axes
    for axes, field, line in (
        (loss, "train_loss", 0),
        (loss, "val_loss", 1),
        (accuracy, "train_top1", 0),
        (accuracy, "val_top1", 1),
        (rate, "learning_rate", 0),
    ):
        assert list(axes.lines[line].get_ydata()) == [record[field] for record in history]
        assert list(axes.lines[line].get_xdata()) == list(range(1, epochs + 1))
        assert list(axes.lines[-1].get_xdata()) == [epochs, epochs]
    assert f"best: epoch {epochs}" in [text.get_text() for text in loss.get_legend().get_texts()]


def test_a_cycle_is_seen_to_its_end_and_a_plateau_in_its_drops() -> None:
    cycle = [4e-4, 2e-3, 3e-3, 2.8e-3, 2e-3, 9e-4, 5e-5, 1.2e-8]
    drops = [1e-3] * 4 + [1e-4] * 3 + [1e-5]
    assert not falls_by_factors("learning_rate", cycle) and not falls_by_factors("learning_rate", [0.1] * 5)
    assert falls_by_factors("learning_rate", drops) and falls_by_factors("l2", [1e-4, 1e-2, 1.0])
    assert not falls_by_factors("learning_rate", [1e-3, 0.0]) and not falls_by_factors("l2", [])


@pytest.mark.slow
def test_pyplot_and_its_global_state_stay_out() -> None:
    # In a process of its own: torchmetrics, which other tests import, brings pyplot along.
    code = (
        "import sys, numpy as np\n"
        "from fasttrain.report.figures import confusion_figure\n"
        "confusion_figure(np.eye(3, dtype=np.int64), ['a', 'b', 'c'])\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("count", [1, 6, 101])
@pytest.mark.slow
def test_accuracy_by_class_ranks_and_names_all(count: int) -> None:
    matrix = matrix_of(count)
    recalls = np.diag(matrix) / matrix.sum(1)
    classes = [ClassResult(name, 0.5, recall, 0.5, 200) for name, recall in zip(names_of(count), recalls, strict=True)]
    figure = accuracy_figure([*classes, ClassResult("unseen", 0, 0, 0, 0)], 0.8)
    FigureCanvasAgg(figure).draw()
    widths = [bar.get_width() for axes in figure.axes for bar in axes.patches]
    assert widths == sorted(recalls), "the worst first, as in the report"
    named = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    assert named == [each.name for each in sorted(classes, key=lambda each: (each.recall, each.name))]
    assert texts(figure) == [percent(share) for share in widths]
    paper, renderer = figure.bbox, figure.canvas.get_renderer()
    for axes in figure.axes:
        line = axes.lines[0].get_window_extent(renderer)
        for text in [*axes.get_yticklabels(), *axes.texts]:
            box = text.get_window_extent(renderer)
            assert box.x0 > line.x1 or box.x1 < line.x0, "the dotted line strikes no label"
            assert box.x0 >= paper.x0 - 1 and box.x1 <= paper.x1 + 1 and box.y0 >= -1 and box.y1 <= paper.y1 + 1


def test_reliability_draws_what_was_counted() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.3, 1, 500)
    calibration = calibrate(sure, rng.random(500) < sure**2)
    figure = reliability_figure(calibration)
    FigureCanvasAgg(figure).draw()
    upper, lower = figure.axes
    held = calibration.counts > 0
    accuracy, confidence = calibration.accuracy[held], calibration.confidence[held]
    heights = np.array([bar.get_height() for bar in upper.patches]).reshape(3, held.sum())
    np.testing.assert_allclose(heights[0] + heights[1], confidence, err_msg="accuracy and overconfidence")
    np.testing.assert_allclose(heights[0] + heights[2], accuracy, err_msg="accuracy and underconfidence")
    assert (heights >= 0).all() and heights[1:].max() > 0, "no bar goes down"
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["calibrated", "accuracy", "overconfident", "underconfident"]
    assert [bar.get_height() for bar in lower.patches] == calibration.counts.tolist()
    assert percent(calibration.ece) in upper.get_title()
