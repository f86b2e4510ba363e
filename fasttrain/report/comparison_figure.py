"""Draw the learning curves of several runs in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fasttrain.errors import UserError, of_os
from fasttrain.files import make_folder
from fasttrain.report.comparison import label
from fasttrain.report.figure_file import write_figure
from fasttrain.tracking.runs import TrackedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EXPLODED = 50  # from this ratio of the greatest to the smallest loss, the axis is logarithmic
_DASHES = ("-", "--", ":", "-.")


def comparison_figure(runs: Sequence[TrackedRun]) -> Figure:
    """Draw the validation accuracy and loss of each run by epoch, with a ring around each run's best epoch."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    colours = colormaps["tab10"].colors  # type: ignore[attr-defined]
    figure = Figure(figsize=(12, 4.4 + 0.22 * len(runs)), layout="constrained")
    panels = dict(zip(("val/top1", "val/loss"), figure.subplots(1, 2), strict=True))
    for position, run in enumerate(runs):
        colour, dashes = colours[position % len(colours)], _DASHES[position // len(colours) % len(_DASHES)]
        for metric, axes in panels.items():
            curve = run.curves.get(metric, {})
            epochs = sorted(curve)
            values = [curve[epoch] for epoch in epochs]
            marker = "o" if len(epochs) <= 40 else ""
            name = f"{label(position)}: {run.name}".replace("$", r"\$")
            axes.plot(epochs, values, color=colour, linestyle=dashes, marker=marker, markersize=3.5, label=name)
            if (best := run.best_epoch) is not None and best in curve:
                axes.plot(best, curve[best], "o", color=colour, fillstyle="none", markersize=9)
    for metric, axes in panels.items():
        axes.set_title({"val/top1": "validation accuracy", "val/loss": "validation loss"}[metric])
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels["val/top1"].yaxis.set_major_formatter(PercentFormatter(1.0))
    losses = [loss for run in runs for loss in run.curves.get("val/loss", {}).values() if loss > 0]
    if losses and max(losses) > _EXPLODED * min(losses):
        panels["val/loss"].set_yscale("log")
    else:
        panels["val/loss"].set_ylim(bottom=0)
    handles, names = panels["val/top1"].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", frameon=False, ncols=1 + (len(runs) > 6))
    return figure


def write_comparison(runs: Sequence[TrackedRun], path: Path) -> None:
    """Write the figure to `path`, a .png, .svg or .pdf file. Raises UserError if it can't be written."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise UserError(f"{path}: give a name that ends in .png, .svg or .pdf")
    try:
        make_folder(path.parent)
        write_figure(path, comparison_figure(runs), kind)
    except OSError as error:
        raise of_os(error, path) from error
