"""`lr-find`: the learning-rate range test of Smith (2015), with fastai's sweep, stop and suggestion.

The smoothing is another: fastai's and Lightning's exponential mean lags by half of a sweep of 100 steps, and its first
values are the noise of a few batches, so that its steepest fall is seldom the loss's.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from fasttrain.config.load import load_config
from fasttrain.config.location import user_path
from fasttrain.config.schema import TrainConfig
from fasttrain.errors import UserError, of_os
from fasttrain.model.freeze import keep_frozen
from fasttrain.shards.atomic import make_folder, require_place
from fasttrain.terminal import make_console
from fasttrain.training.accumulation import Groups
from fasttrain.training.device import release_memory
from fasttrain.training.distributed import Agreed, Ranks
from fasttrain.training.loop import Step
from fasttrain.training.resume import RunStart
from fasttrain.training.setup import RunParts
from fasttrain.training.state import Totals, TrainingState

_DIVERGED = 4.0  # times the least median
_MEDIAN = 5  # steps: single batches must neither end the sweep nor make the slope
_LEAST_STEPS = 20


@dataclass(frozen=True)
class LrFindResult:
    """One entry a step: its learning rate, its loss, and the smoothed loss. `suggestion`: where that falls the steepest
    over the logarithm of the rate (see `steepest`); None where it doesn't fall. `diverged`: it ended early.
    `photographs`: how many the train split has, from which the steps took theirs."""

    learning_rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None
    diverged: bool
    photographs: int
    picture: Path | None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "split": "train", "picture": str(self.picture) if self.picture else None}


def lr_find(
    config: TrainConfig | str | Path | None = None,
    /,
    *,
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 100,
    smoothing: float = 4.0,
    picture: str | Path | None = None,
    console: Console | None = None,
    **settings: Any,
) -> LrFindResult:
    """Trains for `steps` steps while the learning rate grows from `start` to `end`, a constant factor each step.

    `config` and `settings` are `train`'s; the model is thrown away, and no run is left. The sweep ends where the median
    of five steps exceeds four times its least. `smoothing`: the width of a Gaussian, in steps (see `smooth`). `picture`
    is a PNG to write. `console`: where progress is told, None for nowhere. Raises UserError.
    """
    picture = None if picture is None else user_path(picture)
    _check(start, end, steps, smoothing)
    asked = load_config(config, settings)
    if asked.resume is not None:
        raise UserError(f"resume = '{asked.resume}': lr-find begins afresh; leave it out")
    if asked.linear_probe:
        raise UserError("linear_probe has no learning rate, as it solves for the head; leave it out")
    if Ranks.of_environment().size > 1:
        raise UserError("lr-find runs in one process: start it without torchrun")
    if picture is not None:
        try:
            require_place(picture)
        except OSError as error:
            raise of_os(error, mend="choose another --picture") from error
    console = console or make_console(quiet=True)
    constant = {"scheduler": "constant", "warmup_epochs": 0.0, "ema_decay": None, "compile": "off"}
    parts = RunParts(RunStart(asked.model_copy(update=constant)), console, Ranks())
    try:
        parts.say_parts()
        parts.fold_frozen()
        rates = np.geomspace(start, end, steps).tolist()
        columns = TextColumn("range test"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}")
        hidden = not (console.is_terminal or console.is_jupyter)
        with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
            task = progress.add_task("", total=steps, said="")

            def show(rate: float, loss: float) -> None:
                progress.update(task, advance=1, said=f"learning rate {rate:.1e}  loss {loss:.3f}")

            losses = _sweep(parts.state, parts.step, rates, show)
    finally:
        parts.loaders.close()
        release_memory(parts.device)
    if len(losses) < _MEDIAN:
        raise UserError(f"--start {start:g}: the loss diverges at once; give a smaller one")
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
        _draw(result, picture)
    return result


def smooth(losses: list[float], width: float) -> list[float]:
    """The running median of five `losses`, then a Gaussian of `width` steps over it: neither lags."""
    from scipy.ndimage import gaussian_filter1d, median_filter  # type: ignore[import-untyped]

    calm = median_filter(np.asarray(losses, np.float64), _MEDIAN, mode="nearest")
    smoothed: list[float] = (gaussian_filter1d(calm, width, mode="nearest") if width else calm).tolist()
    return smoothed


def steepest(rates: list[float], smoothed: list[float]) -> float | None:
    """The rate at which `smoothed` falls the steepest over log(rate) in its first fall. None where it doesn't fall.

    The first tenth, the noise of the first batches, doesn't count.
    """
    fall = slice(len(rates) // 10, _end_of_first_fall(smoothed) + 1)
    if len(rates[fall]) < 3:
        return None
    slopes = np.gradient(np.asarray(smoothed[fall]), np.log(rates[fall]))
    least = int(slopes.argmin())
    return rates[fall][least] if slopes[least] < 0 else None


def _end_of_first_fall(smoothed: list[float]) -> int:
    """Where the loss is the least, before it first rises by half of what it fell, if that was a tenth or more.

    Beyond that the network is wrecked, and falls anew at a rate that nobody wants: to saying the same of all pictures.
    """
    for end in range(1, len(smoothed)):
        least = int(np.argmin(smoothed[:end]))
        fallen = max(smoothed[: least + 1]) - smoothed[least]
        if fallen > 0.1 * smoothed[0] and smoothed[end] - smoothed[least] > fallen / 2:
            return least
    return int(np.argmin(smoothed))


def _check(start: float, end: float, steps: int, smoothing: float) -> None:
    if not 0 < start < end:
        raise UserError(f"--start {start:g} --end {end:g}: the first must be above 0 and below the second")
    if steps < _LEAST_STEPS:
        raise UserError(f"--steps {steps} is too few to see a slope; the nearest valid value is {_LEAST_STEPS}")
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
        groups = Groups.of(state.loader, step.accumulate)
        for images, labels, ids in step.batches(state.loader):
            _set_rate(state, rates[len(losses)])
            if not step(state, images, labels, ids, Agreed(len(labels), 1.0, None), groups):
                continue
            loss, _ = state.totals.means()
            state.totals = Totals(step.device)
            if not math.isfinite(loss) or state.watch.look(state.scaler):
                return losses
            losses.append(loss)
            show(rates[len(losses) - 1], loss)
            recent = statistics.median(losses[-_MEDIAN:])
            if len(losses) >= _MEDIAN:
                least = min(least, recent)
            if len(losses) == len(rates) or recent > _DIVERGED * least:
                return losses
        state.epoch += 1


def _set_rate(state: TrainingState, rate: float) -> None:
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def _draw(result: LrFindResult, picture: Path) -> None:
    from fasttrain.report.figure_file import write_figure
    from fasttrain.tuning.figures import lr_find_figure

    try:
        make_folder(picture.parent)
        write_figure(picture, lr_find_figure(result))
    except OSError as error:
        raise of_os(error, picture, "choose another --picture") from error
