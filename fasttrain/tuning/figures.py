"""Draw the curve of a learning-rate range test, without pyplot and its global state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasttrain.report.figures import MARK, TRAIN, VAL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fasttrain.tuning.range_test import LrFindResult


def lr_find_figure(result: LrFindResult) -> Figure:
    """Return a figure of the loss over the learning rate: each step, the smoothed curve, and the suggested rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(result.learning_rates, result.losses, color=TRAIN, alpha=0.35, linewidth=1, label="each step")
    axes.plot(result.learning_rates, result.smoothed, color=TRAIN, linewidth=2, label="smoothed")
    least, first = min(result.smoothed), max(result.smoothed[: len(result.smoothed) // 4])
    room = max(first - least, 0.1 * first)
    axes.set_ylim(max(0.0, least - 0.4 * room), first + 0.6 * room)  # a diverging loss would flatten the rest
    if result.suggestion is not None:
        place = result.learning_rates.index(result.suggestion)
        axes.plot(result.suggestion, result.smoothed[place], "o", color=VAL, markersize=9)
        label = f"suggestion: {result.suggestion:.2e}"
        axes.axvline(result.suggestion, color=VAL, linestyle=":", linewidth=1.4, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.set_title("Learning-rate range test")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=MARK)
    axes.legend(frameon=False, loc="lower left")
    return figure
