"""Print a list of runs with two lines each, in 80 columns."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.text import Text

from fasttrain.machine import relative_path
from fasttrain.report.summary import duration
from fasttrain.text import counted
from fasttrain.tracking.runs import RATE, TrackedRun

_MARKS = {"finished": ("✓", "green"), "running": ("▶", "cyan"), "failed": ("✗", "red"), "killed": ("■", "yellow")}
_COLUMNS = (("val", 8), ("test", 8), ("epochs", 9), ("img/s", 8), ("time", 13))  # title and width


def runs_table(runs: Sequence[TrackedRun], width: int) -> Text:
    """Return a table of runs: name and metrics, and below them experiment, model, loader, time and folder.

    `width`: the terminal's width in characters. A mark shows each run's status: ✓ finished, ▶ running, ■ killed,
    ✗ failed, ? silent for so long that it was probably killed.
    """
    longest = max((len(run.name) for run in runs), default=0)
    name_width = max(min(longest, width - 2 - sum(size for _, size in _COLUMNS)), 12)
    table = Text("  " + "run".ljust(name_width), style="bold", no_wrap=True)
    for name, size in _COLUMNS:
        table.append(name.rjust(size))
    for run in runs:
        mark, colour = ("?", "yellow") if run.silent else _MARKS[run.status]
        table.append(f"\n{mark} ", colour)
        name = run.name if len(run.name) <= name_width else run.name[: name_width - 1] + "…"
        table.append(name.ljust(name_width), "not bold")
        for value, (_, size) in zip(_values(run), _COLUMNS, strict=True):
            table.append(value.rjust(size), "not bold")
        for line in _details(run):
            table.append("\n  " + (line if len(line) <= width - 2 else line[: width - 3] + "…"), "not bold dim")
    return table


def _values(run: TrackedRun) -> tuple[str, ...]:
    """Return the text in each of _COLUMNS."""
    plain = run.to_dict()
    val, test = (f"{plain[name]:.2%}" if plain[name] is not None else "–" for name in ("val/top1", "test/top1"))
    planned = f"/{plain['epochs_asked']}" if plain["epochs_asked"] else ""
    rate = f"{plain[RATE]:,.0f}" if plain[RATE] is not None else "–"
    return val, test, f"{run.epochs}{planned}", rate, "–" if run.seconds is None else duration(run.seconds)


def _details(run: TrackedRun) -> list[str]:
    """Return the lines below a run: experiment, model, loader, time and folder, and then any problems."""
    parts = [run.experiment or "", run.params.get("model", ""), run.params.get("loader", "")]
    if run.start is not None:
        parts.append(f"{datetime.fromtimestamp(run.start):%Y-%m-%d %H:%M}")
    if run.folder is not None:
        parts.append(_place(run.folder, run.name))
    lines = [" · ".join(part for part in parts if part)]
    if run.silent and run.heard is not None:
        lines.append(f"marked as running, but silent for {duration(time.time() - run.heard)}: probably killed")
    elif run.status == "running" and not run.alive and run.heard is not None:
        lines.append(f"running, last heard from {duration(time.time() - run.heard)} ago")
    elif run.status in ("running", "killed"):
        lines.append(run.status)
    if run.waiting:
        lines.append(f"{counted(run.waiting, 'entry', 'entries')} not delivered yet: run fasttrain runs --deliver")
    if run.error:
        lines.append(" ".join(run.error.split()))
    return lines


def _place(folder: Path, name: str) -> str:
    """Return the run's folder, relative to the current one if that is shorter, without repeating the run's name."""
    shown = min(str(folder), relative_path(folder), key=len)
    gone = "" if folder.is_dir() else " (gone)"
    return (f"in {os.path.dirname(shown) or '.'}" if folder.name == name else shown) + gone  # noqa: PTH120
