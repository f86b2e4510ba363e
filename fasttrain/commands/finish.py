"""Finish a run: write its result to its folder and to MLflow, and print it."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from rich.console import Console

from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.checkpoint.trained import load_trained
from fasttrain.config.monitor import MONITORS
from fasttrain.errors import UserError, fixable
from fasttrain.evaluation.evaluate import Predictions
from fasttrain.evaluation.label_sets import SetPredictions
from fasttrain.evaluation.prediction_file import stored, write_predictions
from fasttrain.report.figures import write_figures
from fasttrain.report.html import Report, write_page
from fasttrain.report.mistakes import write_mistakes
from fasttrain.report.of_run import report_of_run
from fasttrain.report.photographs import first_batch, mistake_maps
from fasttrain.report.summary import run_summary
from fasttrain.report.verdict import baseline_warning
from fasttrain.shards.reader import ShardSet
from fasttrain.terminal import tell
from fasttrain.tracking.tracker import NullTracker
from fasttrain.training.parts import RunParts
from fasttrain.training.progressive import side_of_epoch
from fasttrain.training.result import TrainResult

log = logging.getLogger("fasttrain")


def write_result(
    result: TrainResult,
    predictions: Mapping[str, Predictions | SetPredictions],
    split: str,
    parts: RunParts,
    folder: RunFolder,
    tracker: NullTracker,
    console: Console,
) -> None:
    """Write the `result` of a run to the run's folder and to the tracker.

    `split`: the split on which the result was evaluated. `predictions`: the predictions by the name of the split, for
    `split` and perhaps "val".
    """
    folder.write_model_spec(parts.spec)
    kept = [(name, each) for name, each in predictions.items() if isinstance(each, Predictions)]
    if kept:  # single-label only, as no command uses stored multi-label predictions
        write_predictions(folder.predictions, stored(kept, parts.shards))
    page = functools.partial(page_of, parts, tracker, result, predictions[split], split, _warning(result, parts))
    _write_pictures(result, predictions[split], folder, console, page, parts.shards)
    tracker.log_artifacts([*folder.artifacts(), folder.evaluation])
    # Written last, as a run without this file counts as unfinished.
    folder.write_evaluation(
        result.evaluation.to_dict(),
        split=split,
        seconds=result.seconds,
        best_epoch=result.best_epoch,
        monitor=result.monitor,
        monitored=result.best[MONITORS[result.monitor].field],
        refit_epochs=result.refit_epochs,
        averaged=None if result.averaged is None else (result.averaged.epochs, result.averaged.value),
    )
    tracker.sync()


def _warning(result: TrainResult, parts: RunParts) -> str | None:
    pretrained = parts.config.pretrained or parts.config.weights is not None
    return baseline_warning(result.evaluation, result.history, pretrained=pretrained)


def print_result(
    result: TrainResult, split: str, parts: RunParts, folder: RunFolder, tracker: NullTracker, console: Console
) -> None:
    """Wait until the tracker has sent the run to its store, then print the summary of the run."""
    with contextlib.ExitStack() as waiting:
        waiting.callback(_print_summary, result, split, folder, tracker, console, _warning(result, parts))
        if tracker.uri is not None and console.is_terminal:
            waiting.enter_context(console.status("sending the run to MLflow"))
        tracker.finish()


def _print_summary(
    result: TrainResult, split: str, folder: RunFolder, tracker: NullTracker, console: Console, warning: str | None
) -> None:
    summary = run_summary(result, split=split, artifacts=folder.artifacts(), tracker=tracker, warning=warning)
    values = {"folder": folder.path, "split": split, "best_epoch": result.best_epoch, "monitor": result.monitor}
    values |= {"seconds": result.seconds, "warning": warning}
    tell(console, "finished", {**values, **result.evaluation.scalars()}, summary)


def _write_pictures(
    result: TrainResult,
    predictions: Predictions | SetPredictions,
    folder: RunFolder,
    console: Console,
    page: Callable[[tuple[int, str]], Report],
    shards: ShardSet,
) -> None:
    """Write the figures, the list of mistakes and the report. If this fails, print a warning and raise nothing."""
    try:
        write_figures(folder, result.evaluation, predictions, result.history, result.best_epoch)
        wrong = write_mistakes(folder.mistakes, result.evaluation, predictions, shards)
        write_page(folder.report, page((wrong, folder.mistakes.name)))
    except Exception as error:
        log.exception("the report of %s failed", folder.path)
        why = fixable(error) or (error if isinstance(error, UserError) else type(error).__name__)
        line = f"the report could not be written ({why}); all other results are complete, see {folder.log}"
        console.print(line, style="yellow", soft_wrap=True)


def page_of(
    parts: RunParts,
    tracker: NullTracker,
    result: TrainResult,
    predictions: Predictions | SetPredictions,
    split: str,
    warning: str | None,
    mistakes: tuple[int, str],
) -> Report:
    """Return the report of a run, with a picture of the first batch as the model saw it.

    `split`: the split that was evaluated. `warning`: a line about a model that is hardly better than chance, or None.
    `mistakes`: the number of misclassified photographs, and the name of the file that lists these.
    """
    config = parts.config
    settings = replace(parts.loaders.train.settings, image_size=side_of_epoch(config, 0))
    augmentation = parts.step.augmentation
    epoch = next((at for at, each in enumerate(result.history) if "l2" not in each), 0)  # the first on photographs
    batch = () if config.linear_probe else first_batch(parts.shards, settings, augmentation, parts.device, epoch)
    report = functools.partial(
        report_of_run,
        result,
        predictions,
        split=split,
        config=config,
        shards=parts.shards,
        spec=parts.spec,
        model=parts.model,
        loader=parts.loader_name,
        device=parts.device,
        ranks=parts.ranks.size,
        store=tracker.uri,
        batch=batch,
        warning=warning,
        mistakes=mistakes,
    )
    if config.explain:
        try:
            trained, _ = load_trained(result.folder, parts.start.model)
            return report(maps=mistake_maps(trained.to(parts.device), parts.spec, parts.shards, parts.device))
        except UserError as error:  # known only once the model has run: the report is written without maps
            parts.warn(str(error))
    return report()
