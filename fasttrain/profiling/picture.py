"""Draw a profile: the time of a batch for loader and step together, and for each alone."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from fasttrain.profiling.table import LABELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fasttrain.profiling.result import Profile

COLOURS = {
    "data": "#d95f02",
    "copy": "#e6ab02",
    "augment": "#66a61e",
    "forward": "#6baed6",
    "backward": "#1f77b4",
    "optimizer": "#7570b3",
    "logging": "#999999",
}
LETTERED_FROM = 0.06  # a share of the longest bar; longer parts have room for their number


def profile_figure(profile: Profile) -> Figure:
    """Return a figure with three bars in ms per batch: loader and step together, the step alone, the loader alone.

    The parts of a bar are the phases of a step.
    """
    from matplotlib.figure import Figure

    measured = profile.measured
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots()
    images = measured.together.rate * sum(phase.mean for phase in measured.together.phases.values())
    bars = {
        f"together\n{measured.together.rate:,.0f} img/s": {
            name: phase.mean * 1e3 for name, phase in measured.together.phases.items()
        },
        f"step alone\n{measured.step_alone.rate:,.0f} img/s": {
            name: phase.mean * 1e3 for name, phase in measured.step_alone.phases.items()
        },
        f"loader alone\n{measured.loader_rate:,.0f} img/s": {"data": images / measured.loader_rate * 1e3},
    }
    longest = max(sum(parts.values()) for parts in bars.values())
    for place, parts in enumerate(bars.values()):
        left = 0.0
        for name in LABELS:
            width = parts.get(name, 0.0)
            axes.barh(
                place, width, left=left, height=0.62, color=COLOURS[name], label=LABELS[name] if not place else None
            )
            if width > LETTERED_FROM * longest:
                axes.text(left + width / 2, place, f"{width:,.0f}", ha="center", va="center", color="white", fontsize=9)
            left += width
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.set_xlabel("ms per batch")
    axes.set_xlim(0, longest * 1.02)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    sentence = profile.diagnosis.sentence
    title = textwrap.fill(sentence[0].upper() + sentence[1:], 115, break_on_hyphens=False)
    axes.set_title(title, loc="left", fontsize=10)
    figure.legend(loc="outside lower center", ncols=len(LABELS), frameon=False, fontsize=8.5, handlelength=1)
    return figure
