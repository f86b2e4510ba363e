"""Draw the report's small charts with matplotlib, as SVG inside the page with the page's own colours and font."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fasttrain.report.figures import falls_by_factors, reliability_parts
from fasttrain.report.summary import epoch_parameter, in_drawn_order, is_multi_label, is_probe
from fasttrain.training.result import RECORDED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fasttrain.evaluation.calibration import Calibration

# Matplotlib can't draw in CSS variables, so it draws in these colours, which are then replaced by the page's variables.
_COLOURS = {
    "ink": "#fa0001",
    "soft": "#fa0002",
    "line": "#fa0003",
    "first": "#fa0004",
    "second": "#fa0005",
}
_INK, _SOFT, _LINE, _FIRST, _SECOND = _COLOURS.values()
_SIZE = (3.9, 2.5)  # inches; the page stretches a chart to the width of its column
FEW = 10  # bins with fewer samples are drawn pale
_RC: Any = {"svg.fonttype": "none", "font.size": 9.5, "axes.unicode_minus": False}


@dataclass(frozen=True)
class Chart:
    """A chart for the page.

    `lines`: the name and the CSS class of each line, for the legend. `svg`: the `<svg>` element. All of its text comes
    from numbers, so it needs no escaping.
    """

    title: str
    lines: tuple[tuple[str, str], ...]
    svg: str


def learning_charts(history: Sequence[Mapping[str, Any]], best_epoch: int | None) -> list[Chart]:
    """Return charts of loss, accuracy, learning rate and callbacks' metrics by epoch, or by L2 penalty for a probe.

    `history`: one record per epoch, as in `history.json`, not empty. `best_epoch`: an epoch to mark, from 1.
    """
    field, title, _ = epoch_parameter(history[-1])
    both = (("train", "first"), ("validation", "second"))
    names = dict.fromkeys(name for record in history for name in record if name not in RECORDED)
    # A linear probe that was resumed as fine-tuning has penalties in some records and learning rates in others.
    with_field = [record for record in history if field in record]
    log = falls_by_factors(field, [record[field] for record in with_field])
    logged = {name: [each for each in history if math.isfinite(each.get(name, math.nan))] for name in names}
    return [
        _by_epoch("loss", history, ("train_loss", "val_loss"), best_epoch, both),
        *_accuracy_charts(history, best_epoch, both),
        *([] if is_probe(history) else [_by_epoch(title, with_field, (field,), best_epoch, log=log)]),
        *(_by_epoch(name, records, (name,), best_epoch) for name, records in logged.items() if records),
    ]


def _accuracy_charts(
    history: Sequence[Mapping[str, Any]], best_epoch: int | None, both: tuple[tuple[str, str], ...]
) -> list[Chart]:
    if not is_multi_label(history[-1]):
        return [_by_epoch("accuracy", history, ("train_top1", "val_top1"), best_epoch, both, share=True)]
    fields = ("train_subset_accuracy", "val_subset_accuracy")
    return [
        _by_epoch("mAP of validation", history, ("val_map",), best_epoch, share=True),
        _by_epoch("subset accuracy", history, fields, best_epoch, both, share=True),
    ]


def speed_charts(history: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Return charts of images per second, the share of time waiting for data, and the seconds of each epoch.

    If the image size changed during the run, there is a chart of the image size as well. `history`: as in
    `learning_charts`.
    """
    charts = [
        _by_epoch("images/s", history, ("img/s",), None),
        _by_epoch("time waiting for data", history, ("wait_share",), None, share=True),
        _by_epoch("time, s", history, ("epoch_seconds",), None),
    ]
    if len({record.get("image_size") for record in history}) > 1:
        charts.append(_by_epoch("side of the pictures, px", history, ("image_size",), None))
    return charts


def reliability_chart(calibration: Calibration) -> Chart:
    """Return a reliability diagram: accuracy by confidence, with the number of samples per bin below."""
    figure = _figure((5.8, 4.9))
    axes, counts = figure.subplots(2, 1, height_ratios=[3.2, 1], sharex=True)
    bins = len(calibration.counts)
    middles, width = (np.arange(bins) + 0.5) / bins, 0.92 / bins
    occupied = calibration.counts > 0
    strength = np.where(calibration.counts[occupied] < FEW, 0.35, 1.0)
    parts = reliability_parts(calibration)
    for part, colour, opacity in zip(parts, (_FIRST, _SECOND, _FIRST), (1.0, 0.6, 0.45), strict=True):
        colours = [(colour, float(each)) for each in opacity * strength]
        axes.bar(middles[occupied], part.top - part.bottom, width, part.bottom, color=colours)
    axes.plot([0, 1], [0, 1], color=_SOFT, linestyle=(0, (3, 3)), linewidth=1)
    counts.bar(middles, calibration.counts, width, color=_SOFT)
    _style(axes, share=True)
    _style(counts)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    counts.set(xlabel="confidence of the first choice", ylabel="samples")
    _percents(counts.xaxis)
    _thousands(counts.yaxis, bins=3)
    figure.align_ylabels()
    names = (*(part.name for part in parts), "calibrated")
    lines = tuple(zip(names, ("first", "second", "modest", "dashed"), strict=True))
    return Chart("reliability", lines, _svg(figure, "reliability"))


def _by_epoch(
    title: str,
    history: Sequence[Mapping[str, Any]],
    fields: Sequence[str],
    best_epoch: int | None,
    lines: tuple[tuple[str, str], ...] = (),
    *,
    share: bool = False,
    log: bool = False,
) -> Chart:
    """Return a chart of `fields` of the records by epoch, or by L2 penalty for a linear probe.

    `share`: values are shares, shown in percent.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    figure = _figure(_SIZE)
    axes = figure.subplots()
    by, history = in_drawn_order(history)
    places = [record[by] for record in history]
    for field, colour in zip(fields, (_FIRST, _SECOND), strict=False):
        values = [record.get(field, math.nan) for record in history]  # a refit has no validation
        axes.plot(places, values, color=colour, linewidth=1.8, marker="o" if len(places) <= 30 else "", markersize=3.6)
    _style(axes, share=share, log=log)
    if by == "l2":
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("L2 penalty")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        if len(places) == 1:
            axes.set_xlim(places[0] - 0.5, places[0] + 0.5)
        axes.set_xlabel("epoch")
    if not log:
        shown = [record[field] for field in fields for record in history if field in record]
        top, low = 1.08 * max(0, *shown), 1.08 * min(0, *shown)
        if fields == ("wait_share",):  # a share of almost nothing must look small
            top = max(top, 0.1)
        axes.set_ylim(low, (min(top, 1.02) if share else top) or (0 if low else 1))
    for best in [record[by] for record in history if record["epoch"] == best_epoch]:
        axes.axvline(best, color=_SOFT, linestyle=(0, (2, 2)), linewidth=1)
    return Chart(title, lines, _svg(figure, title))


def _figure(size: tuple[float, float]) -> Figure:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_RC):
        return Figure(figsize=size, layout="constrained")


def _style(axes: Axes, *, share: bool = False, log: bool = False) -> None:
    """Set the grid, the colours and the number format of `axes`."""
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.tick_params(length=0, labelcolor=_SOFT, labelsize=9.5, pad=5)
    for each in (axes.xaxis, axes.yaxis):
        each.label.set(color=_SOFT, fontsize=9.5)
    if log:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

        axes.set_yscale("log")
        low, high = axes.dataLim.intervaly
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,), numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    elif share:
        _percents(axes.yaxis)
    else:
        _thousands(axes.yaxis)


def _percents(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}\u00a0%"))


def _thousands(axis: Any, bins: int = 5) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(bins, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _svg(figure: Figure, name: str) -> str:
    """Return the figure as an `<svg>` element that takes its size, font and colours from the page.

    `name`: a part of the element's ids, which makes them unique within the page.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({**_RC, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', _OPENING_TAG, svg, count=1)
    svg = re.sub(r' id="[a-z.]*[a-z0-9]*_\d+"', "", svg)  # figure_1, axes_1 …: the same in each chart, and not used
    svg = re.sub(r"font: (?:\w+ )*([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for variable, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return re.sub(r"\n\s*", "\n", svg)


_OPENING_TAG = (
    r'<svg class="chart" viewBox="\1" role="img" xmlns="http://www.w3.org/2000/svg" '
    r'xmlns:xlink="http://www.w3.org/1999/xlink">'
)
