"""The results of a run of the benchmarks: JSON, one table, one picture."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

OURS, THEIRS, FLOOR = "#1b7837", "#8c96a3", "#d95f02"


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


def draw_bars(path: Path, title: str, rates: dict[str, float], floor: float) -> None:
    """img/s of each contender, the fastest first, ours coloured, with a line at the decode-only floor."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = sorted(rates, key=lambda name: rates[name])
    figure, axes = plt.subplots(figsize=(9, 0.36 * len(names) + 1.4), layout="constrained")
    bars = axes.barh(names, [rates[name] for name in names], color=[OURS if "native" in n else THEIRS for n in names])
    axes.bar_label(bars, labels=[f"{rates[name]:,.0f}" for name in names], padding=4, fontsize=9, zorder=3)
    axes.axvline(floor, color=FLOOR, linewidth=1.2, linestyle=":")
    said = f"decoding every pixel and nothing else: {floor:,.0f}"
    axes.text(max(rates.values()) * 1.1, -0.3, said, color=FLOOR, fontsize=9, ha="right")
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("img/s")
    axes.set_xlim(0, max(rates.values()) * 1.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140, facecolor="white")
    plt.close(figure)
