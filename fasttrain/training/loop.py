"""The training loop: one epoch, plainly."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn.parallel import DistributedDataParallel

from fasttrain.augment.batch import BatchAugment
from fasttrain.augment.mix import PlannedMixup
from fasttrain.errors import Diverged
from fasttrain.loaders.base import Loader
from fasttrain.model.freeze import keep_frozen
from fasttrain.training.accumulation import Groups
from fasttrain.training.device import Autocast
from fasttrain.training.distributed import Agreed
from fasttrain.training.state import TrainingState

_LOOK_EVERY = 10  # steps between reads of the running loss: each makes the host wait for the device


@dataclass(frozen=True)
class Step:
    """What one training step needs besides the state that it changes. Its phases are methods: `phases` times them."""

    device: torch.device
    preprocess: torch.nn.Module
    criterion: torch.nn.Module
    autocast: Autocast
    clip_grad: float | None
    frozen: list[torch.nn.Module]
    augment: BatchAugment | None = None
    mix: PlannedMixup | None = None
    class_weights: torch.Tensor | None = None
    parallel: DistributedDataParallel | None = None
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
        images, targets = self.copy(images, labels)
        inputs, targets = self.prepare(images, targets, ids, state.epoch)
        complete = groups.complete(_delivered(state))
        # Ranks average their gradients once for a group, not once for each of its batches.
        with contextlib.nullcontext() if complete or self.parallel is None else self.parallel.no_sync():
            loss, logits = self.forward(state.model, inputs, targets)
            self.backward(state, loss, part, groups)
        self.count(state, loss, logits, targets, part)
        if not complete:
            return False
        self.update(state)
        return True

    def batches(self, loader: Loader) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """What `loader` gives, in order."""
        return iter(loader)

    def copy(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both on the device."""
        return images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def prepare(
        self, images: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor, epoch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's inputs, float [n, 3, H, W], and its targets, int64 [n], or float [n, classes] where mixed."""
        if self.augment is not None and len(ids):
            images = self.augment(images, ids.numpy(), epoch)
        inputs = self.preprocess(images)
        return self.mix(inputs, labels, ids.numpy(), epoch) if self.mix is not None and len(ids) else (inputs, labels)

    def forward(
        self, model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss and the logits."""
        with self.autocast():
            logits = (self.parallel or model)(inputs)
            return (self.criterion(logits, targets) if len(targets) else logits.sum()), logits

    def backward(self, state: TrainingState, loss: torch.Tensor, part: Agreed, groups: Groups) -> None:
        """Adds the batch's gradients, weighted by its share of the ranks' and of its group's samples."""
        mean = loss * (part.share * self.ranks) if self.ranks > 1 else loss
        if self.accumulate > 1:
            mean = mean * groups.share(_delivered(state), part.samples)
        state.scaler.scale(mean).backward()

    def count(
        self, state: TrainingState, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, part: Agreed
    ) -> None:
        """Adds to the epoch's sums."""
        state.totals.update(loss, logits, targets, part if self.ranks > 1 else None)

    def update(self, state: TrainingState) -> None:
        """Clips, steps, and moves the schedule and the EMA on."""
        if self.clip_grad is not None:
            state.scaler.unscale_(state.optimizer)
            torch.nn.utils.clip_grad_norm_(state.model.parameters(), self.clip_grad)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.schedule.after_step()
        if state.ema is not None:
            state.ema.update(state.model, step=state.step)

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
    for number, (images, labels, ids) in enumerate(step.batches(state.loader)):
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


def _delivered(state: TrainingState) -> int:
    return state.loader.state_dict()["samples"]


def require_finite(loss: float, state: TrainingState) -> None:
    """Diverged, a UserError that says where and what to change, if `loss` is NaN or infinite."""
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss became {loss} in epoch {state.epoch + 1}, by step {state.step}, at learning_rate = "
            f"{state.schedule.learning_rate:g}; lower --learning-rate, or set --clip-grad 1"
        )
