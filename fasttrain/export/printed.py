"""Print the result of an export: a description of the file, and a table that compares it with the model."""

from __future__ import annotations

import shlex

from rich.table import Table
from rich.text import Text

from fasttrain.checkpoint.weights import EXPORTED
from fasttrain.evaluation.metrics import Interval
from fasttrain.export.export import ExportResult
from fasttrain.export.speed import Speed
from fasttrain.text import counted


def facts(result: ExportResult) -> Table:
    """Return a table of the file's path, its input and output, and the comparison with the model."""
    table = Table.grid(padding=(0, 2))
    table.add_row("file", f"{result.path!s}, {result.bytes / 1e6:,.1f} MB")
    table.add_row("takes", result.metadata["input"])
    table.add_row("gives", result.metadata["output"])
    if (quantization := result.metadata.get("quantization")) is not None:
        table.add_row("integers", quantization)
    if result.max_difference is None or result.max_logit is None:
        table.add_row("not checked", result.unchecked)
    else:
        share = result.max_difference / max(1.0, result.max_logit)
        table.add_row("checked", f"{counted(result.photographs, 'photograph')}, {result.source}")
        table.add_row("", f"the same likeliest class for {result.same_top1} of {result.photographs}")
        table.add_row(
            "",
            f"largest logit difference {result.max_difference:.2g}, {_percent(share)} of the greatest logit; allowed: "
            + ("any, as the accuracy counts" if result.tolerance is None else _percent(result.tolerance)),
        )
    if (accuracy := result.accuracy) is not None:
        table.add_row(
            "accuracy",
            f"{_points(accuracy.difference)} points of {accuracy.measure} (95 %: "
            f"{' to '.join(map(_points, accuracy.difference_interval))}) on "
            f"{counted(accuracy.photographs, 'photograph')} of the validation split",
        )
    return table


def figures(result: ExportResult) -> Table:
    """Return a table of size, accuracy and speed, with a row for the model in PyTorch and a row for the file."""
    threads = counted(result.threads, "thread")
    table = Table(box=None, padding=(0, 1, 0, 0))  # 80 columns are just enough
    table.add_column(f"on {threads}" if result.speeds else "", no_wrap=True)
    columns = ["MB"]
    if result.accuracy is not None:
        columns.append(f"{result.accuracy.measure}, % (95 %)")
    for each in result.speeds:
        columns += [f"ms, batch {each.batch}", "img/s"]
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    model = _share(result.accuracy.model, result.accuracy.model_interval) if result.accuracy else None
    exported = _share(result.accuracy.exported, result.accuracy.exported_interval) if result.accuracy else None
    _add_row(table, "PyTorch", result.model_bytes, model, [(each, each.eager) for each in result.speeds])
    _add_row(table, result.runtime, result.bytes, exported, [(each, each.exported) for each in result.speeds])
    return table


def next_steps(result: ExportResult) -> Table | None:
    """Return a table of commands that use the file, or None if it is of a format that fasttrain doesn't run."""
    if not result.path.name.endswith(EXPORTED):
        return None
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    file = shlex.quote(str(result.path))
    table.add_row("next", Text(f"fasttrain predict --checkpoint {file} PHOTOGRAPH"))
    table.add_row("", Text(f"fasttrain serve {file}"))
    return table


def _share(share: float, interval: Interval) -> str:
    return f"{100 * share:.1f} ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share >= 1e-4 else "under 0.01 %"


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


def _add_row(table: Table, name: str, size: int, accuracy: str | None, rates: list[tuple[Speed, float]]) -> None:
    cells = [f"{size / 1e6:,.1f}", *([] if accuracy is None else [accuracy])]
    for speed, rate in rates:
        cells += [f"{1000 * speed.batch / rate:,.1f}", f"{rate:,.0f}"]
    table.add_row(name, *cells)
