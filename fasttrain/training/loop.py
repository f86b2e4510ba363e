"""The training loop: one epoch, plainly."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch.nn.parallel import DistributedDataParallel

from fasttrain.augment.batch import BatchAugment
from fasttrain.augment.mix import PlannedMixup
from fasttrain.errors import UserError
from fasttrain.loaders.base import Loader
from fasttrain.model.batch_norm import running_statistics
from fasttrain.model.freeze import keep_frozen
from fasttrain.training.accumulation import Groups
from fasttrain.training.device import Autocast
from fasttrain.training.distributed import Agreed
from fasttrain.training.finite import LOOK_EVERY, Sign, StepDiverged, gradient_norm
from fasttrain.training.state import TrainingState


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
        gradient is that of the mean over the whole batch. A batch of one photograph, where others have more, has no
        statistics for BatchNorm, which takes its running ones.
        """
        delivered = _delivered(state)
        samples = delivered - state.watch.before(state.epoch, delivered, groups.first)  # with those that were left out
        group, rate = groups.begin(delivered, samples), state.schedule.learning_rate
        state.watch.begin(state.epoch, state.step, delivered, samples, group, rate)
        images, targets = self.copy(images, labels)
        inputs, targets = self.prepare(images, targets, ids, state.epoch)
        complete = groups.complete(delivered)
        lone = len(labels) == 1 < state.loader.settings.batch_size
        # Ranks average their gradients once for a group, not once for each of its batches.
        with (
            contextlib.nullcontext() if complete or self.parallel is None else self.parallel.no_sync(),
            running_statistics(state.model) if lone else contextlib.nullcontext(),
        ):
            loss, logits = self.forward(state.model, inputs, targets)
            state.watch.loss(loss)
            self.backward(state, loss, part, groups)
        self.count(state, loss, logits, targets, part)
        if not complete:
            return False
        self.update(state)
        return True

    def batches(self, loader: Loader) -> Generator[tuple[torch.Tensor, torch.Tensor, torch.Tensor], None, None]:
        """What `loader` gives, in order."""
        yield from loader

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
            try:
                logits = (self.parallel or model)(inputs)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                side = inputs.shape[-1]
                raise UserError(
                    f"batch_size = {len(inputs)}: at {side} px one photograph is too little for BatchNorm to train on; "
                    "use a greater --batch-size or --image-size"
                ) from error
            return (self.criterion(logits, targets) if len(targets) else logits.sum()), logits

    def backward(self, state: TrainingState, loss: torch.Tensor, part: Agreed, groups: Groups) -> None:
        """Adds the batch's gradients, weighted by its share of the ranks' and of its group's samples."""
        mean = loss * (part.share * self.ranks) if self.ranks > 1 else loss
        if self.accumulate > 1:
            mean = mean * groups.share(_delivered(state), part.samples)
        state.watch.scaled(mean, state.scaler).backward()

    def count(
        self, state: TrainingState, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, part: Agreed
    ) -> None:
        """Adds to the epoch's sums."""
        state.totals.update(loss, logits, targets, part if self.ranks > 1 else None)

    def update(self, state: TrainingState) -> None:
        """Clips, steps, and moves the schedule and the EMA on."""
        if self.clip_grad is not None:
            state.scaler.unscale_(state.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), self.clip_grad)
        else:
            norm = gradient_norm(state.model.parameters())
        state.watch.gradient(norm, state.scaler)
        if state.scaler.is_enabled():
            state.totals.skipped(norm, self.ranks)
        state.watch.update(state.optimizer, state.scaler)
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
    `show(images so far, loss, img/s, share of time waiting)` draws progress. Raises StepDiverged, at most `LOOK_EVERY`
    batches after the first whose loss or gradient was not finite; the weights are those before it.
    """
    state.model.train()
    keep_frozen(step.frozen)
    images_done = 0
    groups = Groups.of(state.loader, step.accumulate)
    epoch_start = asked = time.perf_counter()
    seconds_before, wait_before = state.epoch_seconds, state.epoch_wait
    waited = 0.0
    with contextlib.closing(step.batches(state.loader)) as batches:
        for number, (images, labels, ids) in enumerate(batches):
            part = agree(len(labels), step.weight(labels) if step.ranks > 1 else 0.0)
            waited += time.perf_counter() - asked
            if not len(labels) and step.ranks == step.accumulate == 1:  # all of it was left out: no step
                asked = time.perf_counter()
                continue
            updated = step(state, images, labels, ids, part, groups)
            images_done += part.samples
            state.epoch_seconds = seconds_before + time.perf_counter() - epoch_start
            state.epoch_wait = wait_before + waited
            if number % LOOK_EVERY == 0:
                state.require_finite()
                loss, _ = state.totals.means()
                now = time.perf_counter() - epoch_start
                show(images_done, loss, images_done / now, waited / now)
            if updated:  # a checkpoint in mid-group would lose the gradients so far
                after_step(part)
            asked = time.perf_counter()
    state.require_finite()
    state.epoch_seconds = seconds_before + time.perf_counter() - epoch_start


def _delivered(state: TrainingState) -> int:
    return state.loader.state_dict()["samples"]


def require_finite(validation_loss: float, state: TrainingState) -> None:
    """StepDiverged, a UserError that says where and what to change, if `validation_loss` is NaN or infinite."""
    if not math.isfinite(validation_loss):
        raise StepDiverged(Sign("validation", validation_loss), state.epoch, state.schedule.learning_rate)
