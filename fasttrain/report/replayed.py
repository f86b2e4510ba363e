"""Print the findings of `replay` in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fasttrain.text import counted

if TYPE_CHECKING:
    from fasttrain.training.replay import Named, Replay, Tried

_KEYS = 8  # the most photographs that are named


def replay_summary(found: Replay) -> RenderableType:
    """Return the text to print: the step that failed, and a table with a column for each precision of the replay.

    Below the table are the photographs, the cause and the fix.
    """
    facts = found.facts
    happened = {
        "loss": f"the loss became {facts['loss']}",
        "gradient": f"the gradient's norm became {facts['gradient']}",
        "scale": f"the loss scale fell to {facts['scale']:.1g}",
        "validation": f"the validation loss became {facts['loss']}",
    }[facts["kind"]]
    title = Text(f"epoch {facts['epoch'] + 1}, step {facts['step'] + 1}: {happened}", style="bold")
    about = Text(
        f"{facts['config']['model']}, {facts['precision']} on {facts['device']}, {counted(found.batch, 'photograph')}, "
        f"learning_rate {facts['learning_rate']:g}",
        style="dim",
    )
    rows = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    rows.add_column("again in", no_wrap=True)
    for tried in found.tried:
        rows.add_column(tried.precision, overflow="fold")
    rows.add_row("loss", *(f"{tried.loss:.4g}" for tried in found.tried))
    if facts["kind"] != "validation":
        rows.add_row("gradient's norm", *(f"{tried.gradient:.4g}" for tried in found.tried))
    rows.add_row("first not finite", *(Text(_first(tried)) for tried in found.tried))
    rows.add_row("greatest output", *(Text(_named(tried.activations)) for tried in found.tried))
    if facts["kind"] != "validation":
        rows.add_row("greatest gradient", *(Text(_named(tried.gradients)) for tried in found.tried))
    texts = Table.grid(padding=(0, 2))
    texts.add_column(style="bold", no_wrap=True)
    texts.add_column(overflow="fold")
    if len(found.keys) == found.batch > 1:
        names = "all of them"
    else:
        names = ", ".join(found.keys[:_KEYS]) + (f" and {len(found.keys) - _KEYS:,} more" * (len(found.keys) > _KEYS))
    texts.add_row("photographs", Text(names))
    texts.add_row("why", Text(found.why))
    texts.add_row("fix", Text(found.fix))
    if found.sheet is not None:
        texts.add_row("sheet", Text(str(found.sheet)))
    return Group(title, about, Padding(rows, (1, 0)), texts)


def _first(tried: Tried) -> str:
    """Return the name of the first module or gradient that isn't finite, or "none"."""
    return tried.module or (f"{tried.broken_gradients[-1]} (gradient)" if tried.broken_gradients else "none")


def _named(listed: list[Named]) -> str:
    return f"{listed[0].value:.3g}\n{listed[0].name}" if listed else "none is finite"
