"""Compare runs side by side: the settings that differ, and the metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fasttrain.errors import UserError
from fasttrain.evaluation.paired import Paired, compare_pairs
from fasttrain.evaluation.prediction_file import StoredPredictions, read_predictions
from fasttrain.report.summary import duration
from fasttrain.text import counted
from fasttrain.tracking.runs import RATE, TrackedRun

_ALWAYS_DIFFER = ("run_name", "out", "resume")
_GREATER, _LESS, _NEITHER = 1, -1, 0


@dataclass(frozen=True)
class MetricRow:
    """One metric of several runs.

    `values`: one per run, None if a run doesn't have the metric. `better`: 1 if greater is better, -1 if less is
    better, 0 if neither. `shown`: formats a value.
    """

    name: str
    values: tuple[float | None, ...]
    better: int
    shown: Callable[[float], str]

    def best(self) -> set[int]:
        """Return the positions of the best values. The set is empty if all values are equal, or if neither greater nor
        less is better."""
        known = [value for value in self.values if value is not None]
        if not self.better or len(set(known)) < 2:
            return set()
        top = max(known) if self.better > 0 else min(known)
        return {position for position, value in enumerate(self.values) if value == top}


def label(position: int) -> str:
    """Return the letter of the run at `position`, from 0: A to Z, and then numbers from 27."""
    return chr(ord("A") + position) if position < 26 else str(position + 1)


def differences(runs: Sequence[TrackedRun]) -> dict[str, list[str | None]]:
    """Return the settings that differ between runs: for each name a list with one value per run.

    The value is None if a run doesn't have the setting. The entry "shards" has the checksums of the data, which may
    differ although the setting `data` is the same.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.params))
    rows = {name: [run.params.get(name) for run in runs] for name in names if name not in _ALWAYS_DIFFER}
    rows["shards"] = [run.tags.get("shards", "").removeprefix("sha256:")[:12] or None for run in runs]
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def metric_rows(runs: Sequence[TrackedRun]) -> list[MetricRow]:
    """Return the metrics of `runs`. A metric that is recorded in each epoch has the value of the run's best epoch."""

    rows = [
        _row("epochs", [run.epochs for run in runs], _NEITHER, _integer),
        _row("val_best/epoch", [run.best_epoch for run in runs], _NEITHER, _integer),
    ]
    curves = ("val/top1", "val/map", "val/loss", "train/top1", "train/loss")
    at_best = {name: [run.at_best(name) for run in runs] for name in curves}
    rows += [_row(name, values, *_kind(name)) for name, values in at_best.items()]
    for group in ("val_best", "test"):
        for name in ("top1", "top3", "top5", "map", "loss", "micro_f1", "macro_f1"):
            values = [run.metrics.get(f"{group}/{name}") for run in runs]
            if values != at_best.get(f"val/{name}"):  # usually equal, because the weights are the best epoch's
                rows.append(_row(f"{group}/{name}", values, *_kind(name)))
    rows.append(_row(RATE, [run.mean(RATE) for run in runs], _GREATER, _integer))
    share = [run.mean("speed/wait_share") for run in runs]
    rows.append(_row("speed/wait_share", share, _LESS, lambda value: f"{value:.1%}"))
    rows.append(_row("speed/training_seconds", [run.seconds for run in runs], _LESS, duration))
    return [each for each in rows if any(value is not None for value in each.values)]


def paired_with_first(runs: Sequence[TrackedRun]) -> list[Paired | str]:
    """Compare each further run with the first, photograph by photograph.

    Returns one result for each further run: a `Paired`, or a line that says why the two runs can't be compared.
    """
    found: list[StoredPredictions | str] = [_predictions(run) for run in runs] if len(runs) > 1 else []
    return [_paired(found[0], other) for other in found[1:]]


def _paired(first: StoredPredictions | str, other: StoredPredictions | str) -> Paired | str:
    if isinstance(first, str):
        return first
    return other if isinstance(other, str) else compare_pairs(first, other)


def _predictions(run: TrackedRun) -> StoredPredictions | str:
    if run.folder is None:
        return f"{run.name}: the run's folder isn't known, so its predictions can't be compared"
    try:
        return read_predictions(run.folder / "predictions.npz")
    except UserError as error:
        return str(error)


def comparison_dict(runs: Sequence[TrackedRun]) -> dict[str, Any]:
    """Return the comparison of `runs` for JSON, with the curves of metrics over the epochs."""
    pairs = paired_with_first(runs)
    return {
        "runs": [run.to_dict() for run in runs],
        "differences": differences(runs),
        "metrics": {row.name: list(row.values) for row in metric_rows(runs)},
        "paired_with_first": [{"why": each} if isinstance(each, str) else each.to_dict() for each in pairs],
        "curves": [{name: dict(values) for name, values in run.curves.items()} for run in runs],
    }


def comparison_table(runs: Sequence[TrackedRun]) -> RenderableType:
    """Return a table of the runs, the settings that differ, and the metrics, with the best values highlighted."""
    legend = Table.grid(padding=(0, 2))
    for position, run in enumerate(runs):
        mark = "" if run.status == "finished" else "  (silent: probably killed)" if run.silent else f"  ({run.status})"
        legend.add_row(Text(label(position), style="bold"), Text.assemble(run.name, (mark, "yellow")))
    different = differences(runs)
    settings = _columns("setting", len(runs))
    for name, values in different.items():
        settings.add_row(name, *("–" if value is None else Text(value, overflow="fold") for value in values))
    figures = _columns("metric", len(runs))
    for row in metric_rows(runs):
        best = row.best()
        cells = [Text("–" if value is None else row.shown(value)) for value in row.values]
        for position in best:
            cells[position].stylize("bold green")
        figures.add_row(row.name, *cells)
    none = Text("no setting differs", style="dim")
    lines = [line for number, pair in enumerate(paired_with_first(runs), 1) for line in pair_lines(pair, label(number))]
    return Group(legend, Text(), settings if different else none, Text(), figures, *([Text(), *lines] if lines else []))


def pair_lines(pair: Paired | str, other: str) -> list[Text]:
    """Return lines that compare the accuracy of the first run, A, with that of the run with the letter `other`.

    `pair`: a result of `paired_with_first`.
    """
    if isinstance(pair, str):
        return [Text(f"A and {other} photograph by photograph: {pair}", style="yellow")]
    lines = []
    if not pair.same:
        evaluated = f"A evaluated {counted(pair.first, 'photograph')} and {other} {pair.second:,}"
        both = f", both evaluated {pair.photographs + pair.relabelled:,} of these"
        relabelled = f", {pair.relabelled:,} of them with different labels" if pair.relabelled else ""
        compared = f"only {pair.photographs:,} are compared" if pair.photographs else "none can be compared"
        lines.append(Text(f"{evaluated}{both}{relabelled}: {compared}", style="yellow"))
    if pair.photographs:
        first, second = pair.top1
        low, high = pair.interval
        lines += [
            Text(f"top1 on the same {counted(pair.photographs, 'photograph')}: A {first:.2%}, {other} {second:.2%}"),
            Text(
                f"{other} - A = {100 * pair.difference:+.2f} points, 95 %: {100 * low:+.2f} to {100 * high:+.2f}; "
                f"right in A alone {pair.only_first:,}, in {other} alone {pair.only_second:,}, "
                f"McNemar's exact test p = {pair.p:.3g}"
            ),
        ]
    return lines


def _columns(first: str, runs: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column(first, style="dim", no_wrap=True)
    for position in range(runs):
        table.add_column(label(position), justify="right", overflow="fold")
    return table


def _row(name: str, values: Sequence[float | None], better: int, shown: Callable[[float], str]) -> MetricRow:
    return MetricRow(name, tuple(values), better, shown)


def _kind(name: str) -> tuple[int, Callable[[float], str]]:
    """Return whether greater (1) or less (-1) is better for the metric `name`, and the function that formats it."""
    if name.endswith("loss"):
        return _LESS, lambda value: f"{value:.4f}"
    return _GREATER, (lambda value: f"{value:.4f}") if name.endswith("f1") else (lambda value: f"{value:.2%}")


def _integer(value: float) -> str:
    return f"{value:,.0f}"
