"""The training loop: one epoch, one optimizer step at a time."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator

from fasttrain.evaluation.of_spec import AnyEvaluation
from fasttrain.loaders.base import Loader
from fasttrain.model.freeze import keep_frozen
from fasttrain.ranks import StepAgreement
from fasttrain.training.finite import LOOK_EVERY, DivergenceCause, StepDiverged
from fasttrain.training.state import TrainingState
from fasttrain.training.step import DATA, Step, StepBatch
from fasttrain.training.waiting import DataWait


def train_epoch(
    state: TrainingState,
    step: Step,
    *,
    agree: Callable[[int, float], StepAgreement],
    after_step: Callable[[StepAgreement], None],
    show: Callable[[int, float, float, float], None],
) -> bool:
    """Run the rest of the current epoch of `state.loader`.

    Returns True at the end of the epoch, or False if the ranks agreed to end the epoch early. `agree(samples, weight)`
    returns the sums of a step's samples and weights over all ranks. `after_step` is called after each step; it may save
    a checkpoint, or raise to stop. `show(images so far, loss, img/s, share of time waiting)` displays progress.

    Raises StepDiverged if a loss or gradient is not finite, at most `LOOK_EVERY` batches (or one step, if that is
    longer) later. The weights are then those from before that loss or gradient.
    """
    state.model.train()
    keep_frozen(step.frozen)
    images_done, unchecked, completed, loss = 0, LOOK_EVERY, True, math.nan
    wait = DataWait(step.device)
    epoch_start = time.perf_counter()
    seconds_before, wait_before = state.epoch_seconds, state.epoch_wait
    with contextlib.closing(step_batches(state.loader, step.accumulate)) as steps:
        while True:
            wait.begin()
            with step.phase(DATA):
                batches = next(steps, None)
            if batches is None:
                break
            agreed = agree(*step.size(batches))
            wait.end()
            if agreed.ended:
                completed = False
                break
            if not agreed.samples:  # all were left out as bad samples
                continue
            step(state, batches, agreed)
            images_done += agreed.samples
            state.epoch_seconds = seconds_before + time.perf_counter() - epoch_start
            state.epoch_wait = wait_before + wait.seconds()
            unchecked += len(batches)
            if unchecked >= LOOK_EVERY:
                unchecked = 0
                state.require_finite()
                loss, _ = state.totals.means()
            now = time.perf_counter() - epoch_start
            show(images_done, loss, images_done / now, wait.seconds() / now)
            del batches  # otherwise they stay in memory next to the next step's
            after_step(agreed)
    state.require_finite()
    state.epoch_seconds = seconds_before + time.perf_counter() - epoch_start
    state.epoch_wait = wait_before + wait.seconds()
    return completed


def step_batches(loader: Loader, accumulate: int) -> Generator[list[StepBatch], None, None]:
    """Yield the batches of each optimizer step: `accumulate` batches, or fewer in the last step of the epoch."""
    begin = loader.state_dict()["samples"]
    batches: list[StepBatch] = []
    with contextlib.closing(iter(loader)) as delivered:  # type: ignore[type-var]
        for images, labels, ids in delivered:
            end = loader.state_dict()["samples"]
            batches.append(StepBatch(images, labels, ids, begin, end))
            begin = end
            if len(batches) == accumulate:
                yield batches
                batches = []
    if batches:
        yield batches


def require_finite_validation(validation: AnyEvaluation | None, state: TrainingState) -> None:
    """Raise StepDiverged if there is a `validation` and its loss is NaN or infinite."""
    if validation is not None and not math.isfinite(validation.loss):
        raise StepDiverged(DivergenceCause("validation", validation.loss), state.epoch, state.schedule.learning_rate)
