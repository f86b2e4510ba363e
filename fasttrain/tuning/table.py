"""Format the trials of a search as a table for the terminal, the best first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fasttrain.tuning.result import TuneResult


def trials_table(result: TuneResult) -> Table:
    """Return a table with a row per trial: first complete trials, then pruned ones, then failed ones, each by top1."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("trial", justify="right", header_style="bold")
    for name in ("learning rate", "weight decay", "batch", "epochs", "val/top1"):
        table.add_column(name, justify="right", header_style="bold")
    table.add_column("", header_style="bold")
    rank = {"complete": 0, "pruned": 1}
    for trial in sorted(result.trials, key=lambda each: (rank.get(each.state, 2), -(each.top1 or 0.0), each.number)):
        best = result.best is not None and trial.number == result.best.number
        table.add_row(
            str(trial.number),
            f"{trial.settings['learning_rate']:.2e}",
            f"{trial.settings['weight_decay']:.2e}",
            str(trial.settings["batch_size"]),
            str(trial.epochs),
            "" if trial.top1 is None else f"{trial.top1:.2%}",
            Text("best", "green") if best else Text("" if trial.state == "complete" else trial.state, "yellow"),
            style="bold" if best else None,
        )
    return table
