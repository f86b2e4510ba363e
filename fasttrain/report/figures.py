"""Draw the figures of a run with matplotlib.

This uses matplotlib's objects without pyplot, so it needs no window, no global state and no main thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fasttrain.evaluation.calibration import calibration_of
from fasttrain.evaluation.confusion import cells_of
from fasttrain.evaluation.evaluate import Predictions
from fasttrain.evaluation.label_sets import SetEvaluation
from fasttrain.report.figure_file import missing_glyphs_as_boxes, write_figure
from fasttrain.report.summary import epoch_parameter, in_drawn_order, is_multi_label, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fasttrain.checkpoint.run_folder import RunFolder
    from fasttrain.evaluation.calibration import Calibration
    from fasttrain.evaluation.confusion import Confusion
    from fasttrain.evaluation.label_sets import SetPredictions
    from fasttrain.evaluation.metrics import ClassResult, Evaluation

# Limits on the number of classes in a confusion matrix.
CLUSTERED_FROM = 21  # sort similar classes next to each other
COUNTED_UP_TO = 20  # print counts in the cells
NAMED_UP_TO = 150  # print class names
DRAWN_OF_MANY = 100  # draw so many classes of a sparse matrix: those with the most mistakes

NAME_LENGTH = 24  # characters of a class name
PAIRS, PAIR_LINE = 20, 16.5  # the most pairs in the list, and the height of a line in points
MARGIN = 0.15  # inches
BARS_A_COLUMN = 51
BARS_UP_TO, BARS_OF_MANY = 1000, 3 * BARS_A_COLUMN  # with more classes, only these many bars are drawn
GAMMA = 0.4  # the exponent that turns a share into a colour
TRAIN, VAL, MARK = "#1f77b4", "#d95f02", "#555555"
OVER, UNDER = "#e89f67", "#a5c8e1"  # paler than VAL and TRAIN
UNIT = "\u00a0%"


def confusion_figure(matrix: Confusion, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix, with each row normalized to 1, beside a list of the most confused pairs.

    `matrix`: counts, int64 [C, C], rows true and columns predicted. `classes`: C names, by label. Counts are printed
    for up to 20 classes. More classes are sorted so that confused ones are neighbours (SciPy's hierarchical clustering
    with average linkage, on the confusion rates). Names are printed for up to 150 classes. Only a part of a sparse
    matrix, of over 1,000 classes, is drawn: see `drawn_part`.
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
    figure = Figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))
    # An exponent below 1 makes rare confusions visible beside a strong diagonal.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(GAMMA, 0, 1), interpolation="nearest", aspect="equal")
    ticks = range(count) if count <= NAMED_UP_TO else range(0)
    axes.set_xticks(ticks, names[: len(ticks)], rotation=90, fontsize=size)
    axes.set_yticks(ticks, names[: len(ticks)], fontsize=size)
    axes.tick_params(length=0 if count > 40 else 2)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if count <= COUNTED_UP_TO:
        _print_counts(axes, drawn[np.ix_(order, order)], shares, size)
    scale = axes.inset_axes((1 + 0.12 / side, 0, 0.16 / side, 1))
    bar = figure.colorbar(image, cax=scale, ticks=[0, 0.05, 0.25, 0.5, 1])
    bar.set_ticklabels([percent(share, 0) for share in (0, 0.05, 0.25, 0.5, 1)], fontsize=8.5)
    bar.set_label("share of the true class", fontsize=8.5)
    bar.outline.set_visible(False)
    right, total = int(matrix.diagonal().sum()), int(matrix.sum())
    axes.set_title(f"Confusion matrix: {right:,} of {total:,} right ({percent(right / max(1, total))})", loc="left")
    if count < len(classes):
        axes.set_ylabel(f"true class: the {count} of {len(classes):,} with the most mistakes")
    _list_pairs(axes, matrix, classes, side)
    _fit(figure, axes, side)
    return figure


def curves_figure(history: Sequence[Mapping[str, Any]], best_epoch: int | None = None) -> Figure:
    """Draw loss, accuracy and learning rate by epoch, and mark `best_epoch` (from 1).

    A linear probe has no learning rate. Its loss and accuracy are drawn by L2 penalty.

    `history`: one record per epoch, as in `history.json`: with `epoch`, `train_loss`, `val_loss`, `train_top1`,
    `val_top1` and `learning_rate`, or for a linear probe `l2`. Multi-label runs have `val_map` and `val_micro_f1`.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(12, 4), layout="constrained")
    by, history = in_drawn_order(history)
    probe = by == "l2"
    loss, accuracy, *rates = figure.subplots(1, 2 if probe else 3)
    places = [record[by] for record in history]
    marker = "o" if len(places) <= 40 else ""

    def draw(axes: Axes, field: str, label: str, colour: str) -> None:
        values = [record.get(field, math.nan) for record in history]  # a refit has no validation
        axes.plot(places, values, color=colour, label=label, marker=marker, markersize=3.5)

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
    for rate in rates:
        field, title, _ = epoch_parameter(history[-1])
        draw(rate, field, title, MARK)
        rate.set_title(title)
        if falls_by_factors(field, [record[field] for record in history if field in record]):
            rate.set_yscale("log")
        else:
            rate.set_ylim(bottom=0)
            rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4), useMathText=True)
    loss.set_ylim(bottom=0)
    accuracy.set_ylim(0, 1)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=UNIT))
    best = next((record for record in history if record["epoch"] == best_epoch), None)
    for axes in (loss, accuracy, *rates):
        axes.set_xlabel("L2 penalty" if probe else "epoch")
        if probe:
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if best is not None:
            name = f"best: {best[by]:.2g}" if probe else f"best: epoch {best_epoch}"
            axes.axvline(best[by], color=MARK, linestyle=":", linewidth=1.2, label=name)
    loss.legend(frameon=False)
    if sets:
        accuracy.legend(frameon=False)
    return figure


def falls_by_factors(field: str, values: Sequence[float]) -> bool:
    """Return whether the axis of a setting should be logarithmic.

    It should for L2 penalties, and for a learning rate that falls in steps, as with `--scheduler plateau`. It should
    not for a one-cycle schedule, which ends so close to 0 that a logarithmic axis would hide its shape. `field`: "l2"
    or "learning_rate". `values`: one per epoch.
    """
    if min(values, default=0) <= 0:
        return False
    unchanged = sum(value == after for value, after in pairwise(values))
    return field == "l2" or (2 * unchanged >= len(values) - 1 and max(values) >= 10 * min(values))


def accuracy_figure(classes: Sequence[ClassResult], top1: float) -> Figure:
    """Draw a bar with the accuracy of each class, the worst first, and mark the overall accuracy `top1`.

    Bars are in columns of up to 51. Classes without photographs are skipped. If there are more than 1,000 classes, only
    the 153 lowest are drawn.
    """
    return _bars([(each.name, each.recall) for each in classes if each.support], top1, "Accuracy by class")


def precision_figure(evaluation: SetEvaluation) -> Figure:
    """Draw a bar with the average precision of each class, as `accuracy_figure` does, and mark their mean."""
    bars = [(each.name, each.ap) for each in evaluation.classes if each.support]
    return _bars(bars, evaluation.map, "Average precision by class")


def _bars(shares: Sequence[tuple[str, float]], marked: float, title: str) -> Figure:
    """Draw a bar for each name and share in [0, 1], the smallest first, with a dotted line at `marked`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    ranked = sorted(shares, key=lambda each: (each[1], each[0]))
    of = f", the lowest {BARS_OF_MANY} of {len(ranked):,}" if len(ranked) > BARS_UP_TO else ""
    ranked = ranked[:BARS_OF_MANY] if of else ranked
    columns = -(-len(ranked) // BARS_A_COLUMN)
    rows = -(-len(ranked) // columns)
    figure = Figure(figsize=(1.4 + 4.6 * columns, 1.4 + max(1.2, 0.2 * rows)), layout="constrained")
    for number, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
        shown = ranked[number * rows : (number + 1) * rows]
        axes.axvline(marked, color=MARK, linestyle=":", linewidth=1.2, zorder=0)
        axes.barh(range(len(shown)), [share for _, share in shown], 0.72, color=TRAIN)
        for place, (_, share) in enumerate(shown):  # beside the axes, clear of the dotted line
            how: Any = {"ha": "right", "va": "center", "fontsize": 7.5}
            axes.annotate(percent(share), (1, place), (42, 0), textcoords="offset points", **how)
        axes.set_yticks(range(len(shown)), [_short(name) for name, _ in shown], fontsize=8)
        axes.set_ylim(rows - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=UNIT))
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{title}{of} (dotted: all classes, {percent(marked)})", fontsize=11)
    return figure


@dataclass(frozen=True)
class BarPart:
    """A part of each bar in a reliability diagram.

    `name`: the part's name in the legend. `bottom`, `top`: the lower and the upper end of the part in each bar, float64
    [bins that have samples], in [0, 1].
    """

    name: str
    bottom: npt.NDArray[np.float64]
    top: npt.NDArray[np.float64]


def reliability_parts(calibration: Calibration) -> tuple[BarPart, BarPart, BarPart]:
    """Return the three parts of each bar: "accuracy", "overconfident" and "underconfident".

    The first part begins at 0 and ends at the smaller one of accuracy and confidence. If the confidence is greater than
    the accuracy, "overconfident" is the part between both. If it is smaller, "underconfident" is. The other part is
    empty.
    """
    occupied = calibration.counts > 0
    accuracy, confidence = calibration.accuracy[occupied], calibration.confidence[occupied]
    smaller = np.minimum(accuracy, confidence)
    return (
        BarPart("accuracy", np.zeros_like(smaller), smaller),
        BarPart("overconfident", smaller, confidence),
        BarPart("underconfident", smaller, accuracy),
    )


def reliability_figure(calibration: Calibration) -> Figure:
    """Draw a reliability diagram: accuracy by confidence, the diagonal of a calibrated model, and the bins' sizes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(5.4, 5.6), layout="constrained")
    axes, counts = figure.subplots(2, 1, height_ratios=[3.4, 1], sharex=True)
    width = 1 / len(calibration.counts)
    middles = (np.arange(len(calibration.counts)) + 0.5) * width
    occupied = calibration.counts > 0
    for part, colour in zip(reliability_parts(calibration), (TRAIN, OVER, UNDER), strict=True):
        axes.bar(middles[occupied], part.top - part.bottom, width * 0.92, part.bottom, color=colour, label=part.name)
    axes.plot([0, 1], [0, 1], color=MARK, linestyle="--", linewidth=1, label="calibrated")
    counts.bar(middles, calibration.counts, width * 0.92, color=MARK)
    ece = percent(calibration.ece)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=f"Reliability: calibration error (ECE) {ece}")
    counts.set(xlabel="confidence of the first choice", ylabel="photographs")
    for each in (axes.yaxis, counts.xaxis):
        each.set_major_formatter(PercentFormatter(1.0, symbol=UNIT))
    for each in (axes, counts):
        each.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels()
    figure.legend(frameon=False, loc="outside lower center", ncols=4, fontsize=8.5, columnspacing=1.2)
    return figure


def most_confused(matrix: Confusion, count: int) -> list[tuple[int, int, int]]:
    """Return the `count` largest cells off the diagonal as (true label, predicted label, samples), largest first."""
    true, predicted, samples = cells_of(matrix)
    wrong = np.flatnonzero(true != predicted)
    largest = wrong[np.argsort(-samples[wrong], kind="stable")[:count]]
    return list(zip(*(each[largest].tolist() for each in (true, predicted, samples)), strict=True))


def pairs_of(matrix: Confusion) -> int:
    """Return how many pairs of classes were confused: the cells off the diagonal that aren't 0."""
    true, predicted, _ = cells_of(matrix)
    return int((true != predicted).sum())


def drawn_part(matrix: Confusion) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the part of `matrix` to draw, dense, int64 [n, n], and the labels of its classes, int64 [n], ascending.

    A dense matrix is drawn completely. Of a sparse matrix, the 100 classes with the most mistakes are drawn.
    """
    if isinstance(matrix, np.ndarray):
        return matrix, np.arange(len(matrix))
    right = matrix.diagonal()
    mistakes = matrix.sum(0) + matrix.sum(1) - 2 * right
    labels = np.sort(np.argsort(-mistakes, kind="stable")[:DRAWN_OF_MANY])
    return matrix[np.ix_(labels, labels)].toarray(), labels


def shares_of(matrix: npt.NDArray[np.int64], support: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float64]:
    """Return `matrix` with each row divided by the number of samples of its class: float64 [C, C].

    `matrix`: counts, int64 [C, C]. `support`: the number of samples of each class, int64 [C]; None takes the sums of
    the rows. Give it if `matrix` is a part of a greater matrix. The row of a class without samples is 0.
    """
    if support is None:
        support = matrix.sum(1)
    return np.asarray(matrix / np.maximum(1, support[:, None]))


def by_similarity(matrix: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the labels of the classes, int64 [C], in an order that makes confused classes neighbours.

    `matrix`: the confusion matrix, counts, int64 [C, C].
    """
    from scipy.cluster.hierarchy import leaves_list, linkage  # type: ignore[import-untyped]
    from scipy.spatial.distance import squareform  # type: ignore[import-untyped]

    shares = shares_of(matrix)
    # The square root separates pairs that are rarely confused from pairs that never are.
    distance = 1 - np.sqrt(np.clip((shares + shares.T) / 2, 0, 1))
    np.fill_diagonal(distance, 0)
    return np.asarray(leaves_list(linkage(squareform(distance), "average", optimal_ordering=True)), np.int64)


def _print_counts(axes: Axes, counts: npt.NDArray[np.int64], shares: npt.NDArray[np.float64], size: float) -> None:
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] ** GAMMA > 0.6 else "#222222"
        axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=colour, fontsize=size)


def _list_pairs(axes: Axes, matrix: Confusion, classes: Sequence[str], side: float) -> None:
    """List the most confused pairs beside the colour scale, as many as fit into a height of `side` inches."""
    pairs = most_confused(matrix, min(PAIRS, int(side * 72 / PAIR_LINE) - 1))
    support = matrix.sum(1)
    counts = [f"{wrong:,} of {support[true]:,}" for true, _, wrong in pairs]
    left, count_width = 84, 5 * max(map(len, counts), default=0)

    def write(text: str, x: float, line: int, **how: Any) -> None:
        # Align baselines, because the top of a line depends on its letters.
        place = (x, -9 - PAIR_LINE * line)
        axes.annotate(text, (1, 1), place, "axes fraction", "offset points", va="baseline", fontsize=8.5, **how)

    write("most confused: true → predicted" if pairs else "nothing was confused", left, 0, fontweight="bold")
    for line, ((true, predicted, _), count) in enumerate(zip(pairs, counts, strict=True), 1):
        write(count, left + count_width, line, ha="right", color=MARK)
        write(f"{_short(classes[true])} → {_short(classes[predicted])}", left + count_width + 8, line)


def _fit(figure: Figure, axes: Axes, side: float) -> None:
    """Resize the figure so that it fits everything drawn around `axes`, plus a margin. The axes keep their `side` in
    inches."""
    with missing_glyphs_as_boxes():
        figure.draw_without_rendering()
        drawn = figure.get_tightbbox()
    width, height = drawn.width + 2 * MARGIN, drawn.height + 2 * MARGIN
    figure.set_size_inches(width, height)
    axes.set_position(((MARGIN - drawn.x0) / width, (MARGIN - drawn.y0) / height, side / width, side / height))


def _short(name: str) -> str:
    short = name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"
    return short.replace("$", r"\$")  # matplotlib would take it for a formula


def write_figures(
    folder: RunFolder,
    evaluation: Evaluation | SetEvaluation,
    predictions: Predictions | SetPredictions,
    history: Sequence[Mapping[str, Any]],
    best_epoch: int | None = None,
) -> None:
    """Write the figures of a run to its folder.

    They are `curves.png`, `confusion_matrix.png`, `accuracy_by_class.png` and `reliability.png`, or for a multi-label
    run `curves.png` and `precision_by_class.png`. `history`, `best_epoch`: as in `curves_figure`. Raises OSError if the
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
