"""The training loop: one epoch, plainly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fasttrain.augment.batch import BatchAugment
from fasttrain.augment.mix import PlannedMixup
from fasttrain.errors import UserError
from fasttrain.model.freeze import keep_frozen
from fasttrain.training.accumulation import Groups
from fasttrain.training.device import Autocast
from fasttrain.training.distributed import Agreed
from fasttrain.training.state import TrainingState

_LOOK_EVERY = 10  # steps between reads of the running loss: each makes the host wait for the device


@dataclass(frozen=True)
class Step:
    """What one training step needs besides the state that it changes."""

    device: torch.device
    preprocess: torch.nn.Module
    criterion: torch.nn.Module
    autocast: Autocast
    clip_grad: float | None
    frozen: list[torch.nn.Module]
    augment: BatchAugment | None = None
    mix: PlannedMixup | None = None
    class_weights: torch.Tensor | None = None
    parallel: torch.nn.Module | None = None
    ranks: int = 1
    accumulate: int = 1

    def __call__(
        self,
        state: TrainingState,
        images: torch.Tensor,
        labels: torch.Tensor,
        ids: torch.Tensor,
        part: Agreed,
        groups: Groups,
    ) -> bool:
        """`images` uint8 [n, H, W, 3], `labels` int64 [n], on any device, `ids` int64 [n] on the host:
        augment, forward, backward, and, where the batch is the last of its group of `accumulate`, update; says if so.

        `class_weights` are the criterion's, on the host. With several `ranks`, `parallel` is the model that averages
        their gradients, and `part` this rank's part of the batch, which may be empty: weighted by its share, the
        gradient is that of the mean over the whole batch.
        """
        images = images.to(self.device, non_blocking=True)
        if self.augment is not None and len(ids):
            images = self.augment(images, ids.numpy(), state.epoch)
        inputs = self.preprocess(images)
        targets = labels.to(self.device, non_blocking=True)
        if self.mix is not None and len(ids):
            inputs, targets = self.mix(inputs, targets, ids.numpy(), state.epoch)
        with self.autocast():
            logits = (self.parallel or state.model)(inputs)
            loss = self.criterion(logits, targets) if len(ids) else logits.sum()
        mean = loss * (part.share * self.ranks) if self.ranks > 1 else loss
        delivered = state.loader.state_dict()["samples"]
        if self.accumulate > 1:
            mean = mean * groups.share(delivered, part.samples)
        state.scaler.scale(mean).backward()
        state.totals.update(loss, logits, targets, part if self.ranks > 1 else None)
        if not groups.complete(delivered):
            return False
        if self.clip_grad is not None:
            state.scaler.unscale_(state.optimizer)
            torch.nn.utils.clip_grad_norm_(state.model.parameters(), self.clip_grad)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.schedule.after_step(state.step)
        if state.ema is not None:
            state.ema.update(state.model)
        return True

    def weight(self, labels: torch.Tensor) -> float:
        """What the criterion divides the loss of `labels`, int64 [n] on the host, by."""
        if self.class_weights is None or self.mix is not None:
            return float(len(labels))
        return float(self.class_weights[labels].sum())


def train_epoch(
    state: TrainingState,
    step: Step,
    *,
    agree: Callable[[int, float], Agreed],
    after_step: Callable[[Agreed], None],
    show: Callable[[int, float, float, float], None],
) -> None:
    """Runs the rest of the current epoch of `state.loader`.

    `agree(samples, weight)` says what this rank's part of a step is; `after_step` may save or raise to stop;
    `show(images so far, loss, img/s, share of time waiting)` draws progress. Raises UserError when the loss is no
    longer finite.
    """
    state.model.train()
    keep_frozen(step.frozen)
    images_done = 0
    groups = Groups.of(state.loader, step.accumulate)
    epoch_start = asked = time.perf_counter()
    seconds_before, wait_before = state.epoch_seconds, state.epoch_wait
    waited = 0.0
    for number, (images, labels, ids) in enumerate(state.loader):
        part = agree(len(labels), step.weight(labels) if step.ranks > 1 else 0.0)
        waited += time.perf_counter() - asked
        updated = step(state, images, labels, ids, part, groups)
        images_done += part.samples
        state.epoch_seconds = seconds_before + time.perf_counter() - epoch_start
        state.epoch_wait = wait_before + waited
        if number % _LOOK_EVERY == 0:
            loss, _ = state.totals.means()
            require_finite(loss, state)
            now = time.perf_counter() - epoch_start
            show(images_done, loss, images_done / now, waited / now)
        if updated:  # a checkpoint in mid-group would lose the gradients so far
            after_step(part)
        asked = time.perf_counter()
    require_finite(state.totals.means()[0], state)
    state.epoch_seconds = seconds_before + time.perf_counter() - epoch_start


def require_finite(loss: float, state: TrainingState) -> None:
    """UserError that says where and what to change, if `loss` is NaN or infinite."""
    if not math.isfinite(loss):
        raise UserError(
            f"the loss became {loss} in epoch {state.epoch + 1}, by step {state.step}, at learning_rate = "
            f"{state.schedule.learning_rate:g}; lower --learning-rate, or set --clip-grad 1"
        )
