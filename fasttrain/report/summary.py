"""Format the lines that a run prints, in 80 columns: two after each epoch, and a summary at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fasttrain.evaluation.baseline import majority_baseline
from fasttrain.evaluation.label_sets import SetEvaluation
from fasttrain.machine import relative_path
from fasttrain.shards.format import ALL
from fasttrain.text import counted

if TYPE_CHECKING:
    from fasttrain.evaluation.metrics import Evaluation
    from fasttrain.tracking.tracker import NullTracker
    from fasttrain.training.result import TrainResult

WORST = 5  # classes in the list of the worst
_SHOWN = {".safetensors": "the trained model", ".html": "the run on one page", ".gz": "for https://ui.perfetto.dev"}
"""The files of a run that its summary names, by their suffix. The others are counted."""


def epoch_parameter(record: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the setting that changes from epoch to epoch: its field in `record`, its name and its short name.

    For a linear probe, which tries a different L2 penalty in each epoch, it is the penalty; otherwise it is the
    learning rate.
    """
    return ("l2", "L2 penalty", "l2") if "l2" in record else ("learning_rate", "learning rate", "lr")


def in_drawn_order(history: Sequence[Mapping[str, Any]]) -> tuple[str, list[Mapping[str, Any]]]:
    """Return the field by which the records of `history` are drawn, and the records in the order of that field.

    The field is "l2", the L2 penalty, for a linear probe, which tries penalties in another order. Otherwise it is
    "epoch".
    """
    field = "l2" if is_probe(history) else "epoch"
    return field, sorted(history, key=lambda record: record[field])


def is_probe(history: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the run was a linear probe: each epoch only fitted the classifier, with an L2 penalty.

    `history`: one record per epoch, as in `history.json`. False if it is empty.
    """
    return bool(history) and all("l2" in record for record in history)


def is_multi_label(record: Mapping[str, Any]) -> bool:
    """Return whether an epoch's record is that of a multi-label run."""
    return "train_subset_accuracy" in record


def accuracy_rows(record: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the main metric of training and that of validation, each as its field in `record` and its display name.

    `record`: an epoch's record, as in `history.json`.
    """
    if is_multi_label(record):
        return (("train_subset_accuracy", "subset accuracy"), ("val_map", "mAP"))
    return (("train_top1", "accuracy"), ("val_top1", "accuracy"))


def epoch_line(record: Mapping[str, Any], *, epochs: int, monitored: str = "val loss") -> Text:
    """Return two lines about an epoch, which is called a try in a linear probe.

    `record`: the epoch's record, as in `history.json`. `epochs`: the most epochs that the run may have. `monitored`:
    the short name of the metric that chooses the best epoch (see `Monitor`).
    """
    width = len(str(epochs))
    head_first = record.get("phase") == "head"
    word = "try" if "l2" in record and not head_first else "epoch"
    head = f"{word} {record['epoch']:>{width}}/{epochs}" + (" head" if head_first else "")
    text = Text(head, style="bold")
    text.append(_trained(record) + _validated(record), style="not bold")
    if record.get("phase") == "refit":
        outcome, colour = "refit", "green"
    else:
        outcome, colour = (f"best {monitored}", "green") if record["improved"] else ("no better", "yellow")
    text.append(f"\n  {outcome:<13}", colour)
    field, _, short = epoch_parameter(record)
    text.append(
        f"  {short} {record[field]:.2e}  {duration(record['epoch_seconds'])}"
        f"  {record['img/s']:,.0f} img/s  data wait {record['wait_share']:.1%}",
        style="not bold",
    )
    if record.get("bad_samples"):
        text.append(f"  {record['bad_samples']:,} bad left out", "yellow")
    if "cuda_peak_bytes" in record:
        gib = record["cuda_peak_bytes"] / 2**30
        text.append(f"  {gib:.{1 if gib < 10 else 0}f} GiB", style="not bold")
    return text


def _trained(record: Mapping[str, Any]) -> str:
    accuracy = "" if is_multi_label(record) else f" acc {record['train_top1']:6.2%}"
    return f"  train loss {record['train_loss']:.4f}{accuracy}"


def _validated(record: Mapping[str, Any]) -> str:
    if "val_loss" not in record:
        return ""
    if is_multi_label(record):
        rest = f"mAP {record['val_map']:.4f} micro F1 {record['val_micro_f1']:.4f}"
    else:
        rest = f"acc {record['val_top1']:6.2%}"
    return f"  val loss {record['val_loss']:.4f} {rest}"


def split_title(split: str) -> str:
    """Return "val split" for "val", and "all splits" for "all"."""
    return "all splits" if split == ALL else f"{split} split"


def evaluation_table(
    evaluation: Evaluation | SetEvaluation, *, split: str, warning: str | None = None
) -> RenderableType:
    """Return tables of the evaluation's metrics and of its worst classes.

    `split`: the split's name, or "all". `warning`: a line about the evaluation.
    """
    title = Text(f"{split_title(split)}, {counted(evaluation.samples, 'sample')}", style="bold")
    warnings = () if warning is None else (Text(f"  {warning}", style="yellow"),)  # `Padding` would crop it
    if isinstance(evaluation, SetEvaluation):
        return Group(title, *warnings, *(_indented(part) for part in _set_tables(evaluation)))
    figures = _grid()
    figures.add_row("top-1 / 3 / 5", f"{evaluation.top1:.2%} / {evaluation.top3:.2%} / {evaluation.top5:.2%}")
    if evaluation.top1_interval is not None:
        figures.add_row("top-1, 95 %", f"{span(evaluation.top1_interval)} by bootstrap")
    baseline = majority_baseline(evaluation)
    figures.add_row("baseline", Text(f"{baseline.share:.2%}, always {baseline.name}, the most frequent class here"))
    figures.add_row("loss", f"{evaluation.loss:.4f}")
    if evaluation.ece is not None and evaluation.uncalibrated_ece is not None:
        figures.add_row("ECE", f"{evaluation.ece:.2%}  (without the temperature {evaluation.uncalibrated_ece:.2%})")
    for average in ("macro", "weighted"):
        precision, recall, f1 = (getattr(evaluation, f"{average}_{name}") for name in ("precision", "recall", "f1"))
        figures.add_row(average, f"F1 {f1:.4f}  precision {precision:.4f}  recall {recall:.4f}")
    worst = Table(box=None, padding=(0, 1), pad_edge=False, show_edge=False)
    worst.add_column("worst classes", overflow="ellipsis", no_wrap=True, max_width=25, header_style="bold")
    for name in ("F1", "precision", "recall", "recall, 95 %", "samples"):
        worst.add_column(name, justify="right", header_style="bold")
    for each in evaluation.worst(WORST):
        worst.add_row(
            Text(each.name),
            f"{each.f1:.3f}",
            f"{each.precision:.3f}",
            f"{each.recall:.3f}",
            "{:.2f}–{:.2f}".format(*each.recall_interval) if each.recall_interval else "",
            f"{each.support:,}",
        )
    _add_absent(figures, evaluation)
    return Group(title, *warnings, _indented(figures), _indented(worst))


def _add_absent(figures: Table, evaluation: Evaluation | SetEvaluation) -> None:
    """Add a row that names the classes without samples, if there are any."""
    if absent := [each.name for each in evaluation.classes if not each.support]:
        named = ", ".join(absent[:WORST]) + (f" and {len(absent) - WORST:,} more" * (len(absent) > WORST))
        figures.add_row("no samples of", Text(f"{len(absent):,} of {len(evaluation.classes):,} classes: {named}"))


def _set_tables(evaluation: SetEvaluation) -> tuple[Table, Table]:
    """Return tables of a multi-label model's metrics and of its worst classes."""
    figures = _grid()
    figures.add_row("mAP", f"{evaluation.map:.4f}  (random scores: {evaluation.chance:.4f})")
    if evaluation.map_interval is not None:
        figures.add_row("mAP, 95 %", "{:.4f}–{:.4f} by bootstrap".format(*evaluation.map_interval))
    figures.add_row("loss", f"{evaluation.loss:.4f}")
    figures.add_row("F1", f"micro {evaluation.micro_f1:.4f}  macro {evaluation.macro_f1:.4f}")
    figures.add_row("subset accuracy", f"{evaluation.subset_accuracy:.2%}")
    figures.add_row("Hamming loss", f"{evaluation.hamming_loss:.4f}")
    _add_absent(figures, evaluation)
    worst = Table(box=None, padding=(0, 1), pad_edge=False, show_edge=False)
    worst.add_column("worst classes", overflow="ellipsis", no_wrap=True, max_width=30, header_style="bold")
    for name in ("AP", "threshold", "precision", "recall", "samples"):
        worst.add_column(name, justify="right", header_style="bold")
    for each in evaluation.worst(WORST):
        shares = (f"{share:.3f}" for share in (each.ap, each.threshold, each.precision, each.recall))
        worst.add_row(Text(each.name), *shares, f"{each.support:,}")
    return figures, worst


def span(interval: tuple[float, float]) -> str:
    """Return "71.2 to 78.9 %" for (0.712, 0.789)."""
    low, high = interval
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def throughput(history: Sequence[Mapping[str, Any]]) -> float:
    """Return the photographs per second of all epochs of `history` together, during training."""
    seconds = sum(record["epoch_seconds"] for record in history)
    return sum(record["img/s"] * record["epoch_seconds"] for record in history) / seconds if seconds else 0.0


def summary_dict(result: TrainResult, *, split: str, artifacts: Sequence[Path], tracker: NullTracker) -> dict[str, Any]:
    """Return the summary of a run for JSON: best epoch, time, evaluation, and where files and trackers are.

    `split`: the split that was evaluated last. `artifacts`: the files that the run wrote. `tracker`: the run's tracker.
    This waits for MLflow's run id, for at most 30 seconds.
    """
    best = result.best
    (train, _), (val, _) = accuracy_rows(best)
    return {
        "best_epoch": result.best_epoch,
        "monitor": result.monitor,
        "refit_epochs": result.refit_epochs,
        "averaged": None if result.averaged is None else list(result.averaged.epochs),
        "best": {name: best[name] for name in ("train_loss", train, "val_loss", val)},
        "epochs": len(result.history),
        "training_seconds": result.seconds,
        "total_seconds": result.total_seconds,
        "img/s": throughput(result.history),
        "split": split,
        "evaluation": result.evaluation.scalars(),
        "worst_classes": [each.name for each in result.evaluation.worst(WORST)],
        "run_folder": str(result.folder.resolve()),
        "artifacts": {path.name: str(path.resolve()) for path in artifacts},
        "mlflow": {"run_id": tracker.wait_for_run(), "store": tracker.uri},
        "trackers": dict(tracker.places),
    }


def run_summary(
    result: TrainResult, *, split: str, artifacts: Sequence[Path], tracker: NullTracker, warning: str | None = None
) -> RenderableType:
    """Return the lines at the end of a run: best metrics, time, evaluation, worst classes and the files' places.

    The arguments are those of `summary_dict`. `warning`: a line about the evaluation.
    """
    values = summary_dict(result, split=split, artifacts=artifacts, tracker=tracker)
    best = values["best"]
    run = _grid()
    run.add_row(
        "best try" if is_probe(result.history) else "best epoch",
        f"{values['best_epoch']} of {values['epochs']}, {result.chosen_by}",
    )
    (train, train_name), (val, val_name) = accuracy_rows(best)
    run.add_row("validation", f"loss {best['val_loss']:.4f}  {val_name} {best[val]:.2%}{_macro_f1(result.best)}")
    if result.refit_epochs:
        run.add_row("weights", Text(result.weights_text))
    if result.averaged is not None:
        run.add_row("weights", Text(f"{result.averaged.description}: {result.monitor} {result.averaged.value:.4f}"))
    run.add_row("training", f"loss {best['train_loss']:.4f}  {train_name} {best[train]:.2%}")
    run.add_row("time", f"{time_of(result)} ({values['img/s']:,.0f} img/s)")
    if bad := max(record.get("bad_samples", 0) for record in result.history):
        run.add_row("bad samples", Text(f"{bad:,} left out of an epoch; fasttrain inspect --verify lists them"))
    places = _grid()
    places.add_row("run folder", _path(result.folder))
    for path in (each for each in artifacts if each.suffix in _SHOWN):
        places.add_row("", Text(f"{_below(path, result.folder)}, {_SHOWN[path.suffix]}"))
    if more := sum(each.suffix not in _SHOWN for each in artifacts):
        places.add_row("", f"and {counted(more, 'more file')}")
    if tracker.uri is not None:
        places.add_row("MLflow run", values["mlflow"]["run_id"] or "not yet made")
        places.add_row("MLflow store", _path(tracker.uri))
    for title, place in tracker.places.items():
        places.add_row(title, _path(place))
    return Group(
        Text(),
        Text("summary", style="bold green"),
        _indented(run),
        evaluation_table(result.evaluation, split=split, warning=warning),
        Text("artifacts", style="bold"),
        _indented(places),
        Text("next", style="bold"),
        _indented(_next_steps(result.folder, artifacts, tracked=tracker.uri is not None)),
    )


def _macro_f1(record: Mapping[str, Any]) -> str:
    return f"  macro F1 {record['val_macro_f1']:.4f}" if "val_macro_f1" in record else ""


def _next_steps(folder: Path, artifacts: Sequence[Path], *, tracked: bool) -> RenderableType:
    steps = _grid()
    for page in (path for path in artifacts if path.suffix == ".html"):
        steps.add_row("look", _path(page))
    if tracked:
        steps.add_row("compare", "fasttrain ui, for MLflow's page")
    steps.add_row("use", Text(f"fasttrain predict --checkpoint {folder} PHOTOGRAPH", overflow="fold"))
    steps.add_row("export", Text(f"fasttrain export --checkpoint {folder}", overflow="fold"))
    return steps


def percent(share: float, digits: int = 1) -> str:
    """Return "12.3 %" for 0.1234, with a non-breaking space."""
    return f"{100 * share:.{digits}f}\u00a0%"


def duration(seconds: float) -> str:
    """Format seconds as "8.3 s", "4 min 09 s" or "2 h 05 min"."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, remainder = divmod(round(seconds), 60)
    return f"{minutes} min {remainder:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def time_of(result: TrainResult) -> str:
    """Return a phrase such as "1 min 03 s, of which training 26.9 s"."""
    training = f"training {duration(result.seconds)}"
    return training if result.total_seconds is None else f"{duration(result.total_seconds)}, of which {training}"


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def _indented(content: RenderableType) -> Padding:
    return Padding(content, (0, 0, 0, 2), expand=False)


def _path(path: Path | str) -> Text:
    return Text(str(path), style="cyan", overflow="fold")


def _below(path: Path, folder: Path) -> str:
    return relative_path(path, folder)
