"""Figures of a run, drawn with matplotlib's objects alone: no pyplot, so no window, global state or main
thread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fasttrain.evaluation.calibration import calibration_of
from fasttrain.evaluation.confusion import cells_of
from fasttrain.evaluation.evaluate import Predictions
from fasttrain.evaluation.label_sets import SetEvaluation
from fasttrain.report.figure_file import write_figure
from fasttrain.report.summary import epoch_parameter, is_multi_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fasttrain.checkpoint.run_folder import RunFolder
    from fasttrain.evaluation.calibration import Calibration
    from fasttrain.evaluation.confusion import Confusion
    from fasttrain.evaluation.label_sets import SetPredictions
    from fasttrain.evaluation.metrics import ClassResult, Evaluation

CLUSTERED_FROM = 21
COUNTED_UP_TO = 20
NAMED_UP_TO = 150
NAME_LENGTH = 24
BARS_A_COLUMN = 51
DRAWN_OF_MANY = 100
BARS_UP_TO, BARS_OF_MANY = 1000, 3 * BARS_A_COLUMN
GAMMA = 0.4
TRAIN, VAL, MARK = "#1f77b4", "#d95f02", "#555555"


def confusion_figure(matrix: Confusion, classes: Sequence[str]) -> Figure:
    """Rows (the true classes) normalized to 1, with the most confused pairs listed beside them.

    `matrix` int64[C, C] of counts, `classes` C names in label order. Counts are printed for up to 20 classes;
    more are ordered so that what is confused lies together (average linkage on the confusion rates, SciPy),
    and beyond 150 their names no longer fit. Of a sparse matrix (over 1,000 classes) `drawn_part` is drawn.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    drawn, labels = drawn_part(matrix)
    count = len(labels)
    order = by_similarity(drawn) if count >= CLUSTERED_FROM else np.arange(count)
    shares = shares_of(drawn, matrix.sum(1)[labels])[np.ix_(order, order)]
    names = [_short(classes[label]) for label in labels[order]]
    side = min(max(4.2, 0.42 * count), 12.5)
    size = min(9.0, max(4.6, side * 60 / count))
    figure = Figure(figsize=(side + 5.2, side + 1.9), layout="constrained")
    axes, listing = figure.subplots(1, 2, width_ratios=[side + 1.2, 3.2])
    # A power below 1 brings out the few confusions beside a strong diagonal.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(GAMMA, 0, 1), interpolation="nearest", aspect="equal")
    ticks = range(count) if count <= NAMED_UP_TO else range(0)
    axes.set_xticks(ticks, names[: len(ticks)], rotation=90, fontsize=size)
    axes.set_yticks(ticks, names[: len(ticks)], fontsize=size)
    axes.tick_params(length=0 if count > 40 else 2)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if count <= COUNTED_UP_TO:
        _print_counts(axes, drawn[np.ix_(order, order)], shares, size)
    bar = figure.colorbar(image, ax=axes, fraction=0.035, pad=0.02, ticks=[0, 0.05, 0.25, 0.5, 1])
    bar.set_ticklabels(["0 %", "5 %", "25 %", "50 %", "100 %"])
    bar.set_label("share of the true class")
    right, total = int(matrix.diagonal().sum()), int(matrix.sum())
    axes.set_title(f"Confusion matrix: {right:,} of {total:,} right ({right / max(1, total):.1%})")
    if count < len(classes):
        axes.set_ylabel(f"true class: the {count} of {len(classes):,} with the most mistakes")
    _list_pairs(listing, matrix, classes, min(20, max(6, int(side * 2))))
    return figure


def curves_figure(history: Sequence[Mapping[str, Any]], best_epoch: int | None = None) -> Figure:
    """Loss, accuracy and learning rate by epoch, `best_epoch` (from 1) marked.

    Each record has `epoch`, `train_loss`, `val_loss`, `train_top1`, `val_top1` (in [0, 1]) and
    `learning_rate` (a linear probe's `l2`).
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(12, 4), layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    epochs = [record["epoch"] for record in history]
    marker = "o" if len(epochs) <= 40 else ""

    def draw(axes: Axes, field: str, label: str, colour: str) -> None:
        values = [record.get(field, math.nan) for record in history]  # a refit has no validation
        axes.plot(epochs, values, color=colour, label=label, marker=marker, markersize=3.5)

    sets = is_multi_label(history[-1])
    shares = (
        (("val_map", "mAP", VAL), ("val_micro_f1", "micro F1", TRAIN))
        if sets
        else (("train_top1", "train", TRAIN), ("val_top1", "validation", VAL))
    )
    draw(loss, "train_loss", "train", TRAIN)
    draw(loss, "val_loss", "validation", VAL)
    for field, label, colour in shares:
        draw(accuracy, field, label, colour)
    loss.set_title("loss")
    accuracy.set_title("mAP and micro F1 of validation" if sets else "accuracy")
    field, title, _ = epoch_parameter(history[-1])
    with_field = [record for record in history if field in record]
    rate.plot(
        [record["epoch"] for record in with_field], [record[field] for record in with_field], color=MARK, marker=marker
    )
    rate.set_title(title)
    rate.set_yscale("log")
    loss.set_ylim(bottom=0)
    accuracy.set_ylim(0, 1)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=MARK, linestyle=":", linewidth=1.2, label=f"best: epoch {best_epoch}")
    loss.legend(frameon=False)
    if sets:
        accuracy.legend(frameon=False)
    return figure


def accuracy_figure(classes: Sequence[ClassResult], top1: float) -> Figure:
    """A bar a class, the best first, in columns of up to 51; a class without samples is left out. `top1` is marked.

    Of more than 1,000 classes the 153 lowest are drawn.
    """
    return _bars([(each.name, each.recall) for each in classes if each.support], top1, "Accuracy by class")


def precision_figure(evaluation: SetEvaluation) -> Figure:
    """Draw what `accuracy_figure` draws, with each class's average precision. Their mean is marked."""
    bars = [(each.name, each.ap) for each in evaluation.classes if each.support]
    return _bars(bars, evaluation.map, "Average precision by class")


def _bars(shares: Sequence[tuple[str, float]], marked: float, title: str) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    ranked = sorted(shares, key=lambda each: (-each[1], each[0]))
    of = f", the lowest {BARS_OF_MANY} of {len(ranked):,}" if len(ranked) > BARS_UP_TO else ""
    ranked = ranked[-BARS_OF_MANY:] if of else ranked
    columns = -(-len(ranked) // BARS_A_COLUMN)
    rows = -(-len(ranked) // columns)
    figure = Figure(figsize=(1.2 + 4.6 * columns, 1.4 + max(1.2, 0.19 * rows)), layout="constrained")
    for number, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
        shown = ranked[number * rows : (number + 1) * rows]
        bars = axes.barh(range(len(shown)), [share for _, share in shown], 0.72, color=TRAIN)
        labels = axes.bar_label(bars, [f"{share:.0%}" for _, share in shown], padding=3, fontsize=7.5, zorder=4)
        for label in labels:  # legible where the dotted line runs through it
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6})
        axes.set_yticks(range(len(shown)), [_short(name) for name, _ in shown], fontsize=8)
        axes.set_ylim(rows - 0.4, -0.6)
        axes.set_xlim(0, 1.12)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.tick_params(axis="y", length=0)
        axes.axvline(marked, color=MARK, linestyle=":", linewidth=1.2)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{title}{of} (dotted: all classes, {marked:.1%})", fontsize=11)
    return figure


def reliability_figure(calibration: Calibration) -> Figure:
    """Accuracy by confidence with the diagonal of a calibrated model, and how many samples each bin holds."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(5, 5.6), layout="constrained")
    axes, counts = figure.subplots(2, 1, height_ratios=[3.4, 1], sharex=True)
    width = 1 / len(calibration.counts)
    middles = (np.arange(len(calibration.counts)) + 0.5) * width
    axes.plot([0, 1], [0, 1], color=MARK, linestyle=":", linewidth=1.2, label="calibrated", zorder=3)
    axes.bar(middles, np.nan_to_num(calibration.accuracy), width * 0.94, color=TRAIN, label="accuracy")
    drawn = calibration.counts > 0
    gap = (calibration.confidence - calibration.accuracy)[drawn]
    axes.bar(middles[drawn], gap, width * 0.94, calibration.accuracy[drawn], color=VAL, alpha=0.4, label="gap")
    counts.bar(middles, calibration.counts, width * 0.94, color=MARK)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=f"Reliability: ECE {calibration.ece:.1%}")
    counts.set(xlabel="confidence", ylabel="samples")
    for each in (axes.yaxis, counts.xaxis):
        each.set_major_formatter(PercentFormatter(1.0))
    for each in (axes, counts):
        each.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    return figure


def most_confused(matrix: Confusion, count: int) -> list[tuple[int, int, int]]:
    """The `count` largest cells off the diagonal as (true label, predicted label, samples), largest first."""
    true, predicted, samples = cells_of(matrix)
    wrong = np.flatnonzero(true != predicted)
    largest = wrong[np.argsort(-samples[wrong], kind="stable")[:count]]
    return list(zip(*(each[largest].tolist() for each in (true, predicted, samples)), strict=True))


def drawn_part(matrix: Confusion) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the part of a matrix that can be drawn, dense, and its labels, int64, in order.

    This is all of a dense matrix, and of a sparse one the 100 classes with the most mistakes.
    """
    if isinstance(matrix, np.ndarray):
        return matrix, np.arange(len(matrix))
    right = matrix.diagonal()
    mistakes = matrix.sum(0) + matrix.sum(1) - 2 * right
    labels = np.sort(np.argsort(-mistakes, kind="stable")[:DRAWN_OF_MANY])
    return matrix[np.ix_(labels, labels)].toarray(), labels


def shares_of(matrix: npt.NDArray[np.int64], support: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float64]:
    """Each row of counts over its sum, or its `support`, float64[C, C]; zeros for a class without samples."""
    if support is None:
        support = matrix.sum(1)
    return np.asarray(matrix / np.maximum(1, support[:, None]))


def by_similarity(matrix: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The labels, int64[C], in an order that puts what is confused side by side."""
    from scipy.cluster.hierarchy import leaves_list, linkage  # type: ignore[import-untyped]
    from scipy.spatial.distance import squareform  # type: ignore[import-untyped]

    shares = shares_of(matrix)
    # The square root keeps pairs that are confused now and then apart from those that never are.
    distance = 1 - np.sqrt(np.clip((shares + shares.T) / 2, 0, 1))
    np.fill_diagonal(distance, 0)
    return np.asarray(leaves_list(linkage(squareform(distance), "average", optimal_ordering=True)), np.int64)


def _print_counts(axes: Axes, counts: npt.NDArray[np.int64], shares: npt.NDArray[np.float64], size: float) -> None:
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] ** GAMMA > 0.6 else "#222222"
        axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=colour, fontsize=size)


def _list_pairs(axes: Axes, matrix: Confusion, classes: Sequence[str], count: int) -> None:
    axes.set_axis_off()
    pairs = most_confused(matrix, count)
    support = matrix.sum(1)
    title = "most confused (true → predicted)" if pairs else "nothing was confused"
    axes.text(0, 1, title, transform=axes.transAxes, va="top", fontsize=9.5, fontweight="bold")
    for line, (true, predicted, wrong) in enumerate(pairs):
        text = f"{_short(classes[true])}\n→ {_short(classes[predicted])}: {wrong} of {support[true]}"
        place = (0, -22 - 29 * line)
        axes.annotate(text, (0, 1), place, "axes fraction", "offset points", va="top", fontsize=8.5, linespacing=1.2)


def _short(name: str) -> str:
    short = name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"
    return short.replace("$", r"\$")  # matplotlib would set it as mathematics


def write_figures(
    folder: RunFolder,
    evaluation: Evaluation | SetEvaluation,
    predictions: Predictions | SetPredictions,
    history: Sequence[Mapping[str, Any]],
    best_epoch: int | None = None,
) -> None:
    """Write the figures for papers: `curves.png`, `confusion_matrix.png`, `accuracy_by_class.png`, `reliability.png`.

    Sets of classes have no confusion matrix, but `precision_by_class.png` and `curves.png`. Raises OSError where the
    folder can't be written.
    """
    if isinstance(evaluation, SetEvaluation):
        write_figure(folder.curves, curves_figure(history, best_epoch))
        write_figure(folder.precision_by_class, precision_figure(evaluation))
        return
    assert isinstance(predictions, Predictions)
    names = [result.name for result in evaluation.classes]
    write_figure(folder.confusion_matrix, confusion_figure(evaluation.confusion_matrix, names))
    write_figure(folder.curves, curves_figure(history, best_epoch))
    write_figure(folder.accuracy_by_class, accuracy_figure(evaluation.classes, evaluation.top1))
    write_figure(folder.reliability, reliability_figure(calibration_of(predictions)))
