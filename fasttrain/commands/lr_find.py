"""`lr-find`: the learning-rate range test of Smith (2015), with the sweep and the stopping rule of fastai."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from fasttrain.config.load import load_config
from fasttrain.config.location import user_path
from fasttrain.config.model_name import model_name
from fasttrain.config.schema import TrainConfig
from fasttrain.device import release_memory
from fasttrain.environment import require_one_process
from fasttrain.errors import UserError
from fasttrain.model.freeze import keep_frozen
from fasttrain.model.own import OwnModel, passed_object
from fasttrain.ranks import Ranks, StepAgreement
from fasttrain.report.figure_file import require_picture, write_picture
from fasttrain.terminal import make_console
from fasttrain.training.loop import step_batches
from fasttrain.training.resume import RunStart
from fasttrain.training.setup import make_parts
from fasttrain.training.state import Totals, TrainingState
from fasttrain.training.step import Step
from fasttrain.tuning.figures import lr_find_figure
from fasttrain.tuning.range_test import MEDIAN_OF, LrFindResult, smooth, steepest

_DIVERGED = 4.0  # times the least median
_LEAST_STEPS = 20


def lr_find(
    config: TrainConfig | str | Path | None = None,
    /,
    *,
    model: str | OwnModel | None = None,
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 100,
    smoothing: float = 4.0,
    picture: str | Path | None = None,
    console: Console | None = None,
    **settings: Any,
) -> LrFindResult:
    """Train for `steps` steps while the learning rate grows exponentially from `start` to `end`, and suggest a rate.

    `config`, `model` and `settings` are those of `train`. A copy of the model is trained and discarded; no run is
    created. The sweep ends early if the loss diverges: if the median loss of the last five steps exceeds four times the
    lowest median so far. `smoothing`: the width of the Gaussian that smooths the loss, in steps. `picture`: a PNG file
    to write with the curve. `console`: shows the progress; None shows nothing.

    Raises UserError for invalid settings or arguments, and if the loss diverges in the first steps.
    """
    picture = None if picture is None else user_path(picture)
    _check(start, end, steps, smoothing)
    if model is not None:
        settings["model"] = model_name(model)
    asked = load_config(config, settings)
    if asked.resume is not None:
        raise UserError(f"resume = '{asked.resume}': lr-find can't resume a run; leave resume out")
    if asked.linear_probe:
        raise UserError("linear_probe solves for the head without a learning rate; leave linear_probe out")
    require_one_process("lr-find runs in one process")
    if (asked.gpus or 1) > 1:
        raise UserError(
            f"gpus = {asked.gpus}: lr-find runs in one process; give --gpus 1 and the batch size of one GPU"
        )
    if picture is not None:
        require_picture(picture)
    console = console or make_console(quiet=True)
    constant = {
        "scheduler": "constant",
        "warmup_epochs": 0.0,
        "ema_decay": None,
        "compile": "off",
        "head_epochs": 0,
        "refit": False,
    }
    own = copy.deepcopy(passed_object(model))
    parts = make_parts(RunStart(asked.model_copy(update=constant), model=own), console, Ranks())
    try:
        parts.describe(console)
        parts.fold_frozen()
        rates = np.geomspace(start, end, steps).tolist()
        columns = TextColumn("range test"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}")
        hidden = not (console.is_terminal or console.is_jupyter)
        with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
            task = progress.add_task("", total=steps, status="")

            def show(rate: float, loss: float) -> None:
                progress.update(task, advance=1, status=f"learning rate {rate:.1e}  loss {loss:.3f}")

            losses = _sweep(parts.state, parts.step, rates, show)
    finally:
        parts.loaders.close()
        release_memory(parts.device)
    if len(losses) < MEDIAN_OF:
        raise UserError(f"--start {start:g}: the loss diverges in the first steps; give a lower rate")
    smoothed = smooth(losses, smoothing)
    result = LrFindResult(
        rates[: len(losses)],
        losses,
        smoothed,
        steepest(rates[: len(losses)], smoothed),
        diverged=len(losses) < steps,
        photographs=len(parts.loaders.train.ids),
        picture=picture,
    )
    if picture is not None:
        write_picture(picture, lr_find_figure(result))
    return result


def _check(start: float, end: float, steps: int, smoothing: float) -> None:
    if not 0 < start < end:
        raise UserError(f"--start {start:g} --end {end:g}: give a start above 0 and an end above the start")
    if steps < _LEAST_STEPS:
        raise UserError(f"--steps {steps} is too few to find a slope; the nearest valid value is {_LEAST_STEPS}")
    if not 0 <= smoothing <= steps / 4:
        nearest = 0 if smoothing < 0 else steps / 4
        raise UserError(f"--smoothing {smoothing:g} is out of range: the nearest valid value is {nearest:g}")


def _sweep(state: TrainingState, step: Step, rates: list[float], show: Callable[[float, float], None]) -> list[float]:
    state.model.train()
    keep_frozen(step.frozen)
    losses: list[float] = []
    least = math.inf
    while True:
        state.loader.set_epoch(state.epoch)
        for batches in step_batches(state.loader, step.accumulate):
            _set_rate(state, rates[len(losses)])
            samples, weight = step.size(batches)
            if not samples:
                continue
            step(state, batches, StepAgreement(samples, weight, None))
            loss, _ = state.totals.means()
            state.totals = Totals(step.device)
            if not math.isfinite(loss) or state.finite_check.look(state.scaler):
                return losses
            losses.append(loss)
            show(rates[len(losses) - 1], loss)
            recent = statistics.median(losses[-MEDIAN_OF:])
            if len(losses) >= MEDIAN_OF:
                least = min(least, recent)
            if len(losses) == len(rates) or recent > _DIVERGED * least:
                return losses
        state.epoch += 1


def _set_rate(state: TrainingState, rate: float) -> None:
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
