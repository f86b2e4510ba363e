"""The results of a run of the benchmarks: JSON, one table, one picture."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

OURS, THEIRS, DECODE = "#1b7837", "#8c96a3", "#c24e00"
FIVE = ("native", "simplejpeg", "FFCV, 512 px", "torchvision v2", "DALI")
SHOWN = {"floor": "full decode"}
"""What tables and charts call a contender, where its name alone wouldn't tell a reader what it does."""


class Results:
    """Each benchmark adds its own part; the file is written anew each time, so that a run cut short leaves some."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: dict[str, Any] = {"machine": machine()}

    def add(self, name: str, part: Any) -> None:
        self.parts[name] = part
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "results.json").write_text(json.dumps(self.parts, indent=1) + "\n")

    def add_table(self, name: str, header: list[str], rows: list[list[str]]) -> None:
        """Printed, and kept as Markdown."""
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        print(f"\n{name}\n{text}")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.md").write_text(text + "\n")


def machine() -> dict[str, Any]:
    import os

    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
    }


def draw_loaders(folder: Path, part: dict[str, Any]) -> None:
    """Draw loaders.png, of five loaders, and loaders_all.png. `part` is the contest's in results.json."""
    rates = {name: found["img/s"] for name, found in part.items() if name != "floor"}
    title = "RandomResizedCrop(224), area (0.08, 1), flip, batch 64, two cores"
    few = {name.removesuffix(", 512 px"): rates[name] for name in FIVE if name in rates}
    sized = {name if "px" in name else f"{name}, 512 px": rate for name, rate in rates.items()}
    draw_bars(folder / "loaders.png", f"Photographs of at most 512 px: {title}", few, part["floor"]["img/s"])
    draw_bars(folder / "loaders_all.png", f"{title}. px: longest side", sized, part["floor"]["img/s"])


def draw_bars(path: Path, title: str, rates: dict[str, float], decode: float) -> None:
    """Draw img/s of each contender, the fastest first and ours coloured, with a line at the rate of a full decode.

    The figures stand beside the axes, where the line is not.
    """
    from matplotlib.figure import Figure

    names = sorted(rates, key=lambda name: rates[name])
    figure = Figure(figsize=(9, 0.36 * len(names) + 1.5), layout="constrained")
    axes = figure.subplots()
    axes.axvline(decode, color=DECODE, linewidth=1.2, linestyle=":", zorder=0)
    shown = [name.replace("native", "fasttrain, native") for name in names]
    axes.barh(shown, [rates[name] for name in names], 0.72, color=[OURS if "native" in n else THEIRS for n in names])
    for place, name in enumerate(names):
        text, how = f"{rates[name]:,.0f}", {"ha": "right", "va": "center", "fontsize": 9.5}
        axes.annotate(text, (1, place), (46, 0), axes.get_yaxis_transform(), "offset points", **how)
    caption = f"the most that a full decode of 512 px can do: {decode:,.0f}"
    axes.annotate(caption, (decode, 1), (0, 3), axes.get_xaxis_transform(), "offset points", color=DECODE, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    axes.set_xlabel("images a second")
    axes.set_xlim(0, max(rates.values()))
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140, facecolor="white")


if __name__ == "__main__":  # draw what is stored, without measuring
    stored = Path(__file__).parents[1] / "docs" / "benchmarks"
    draw_loaders(stored, json.loads((stored / "results.json").read_text())["contest"])
