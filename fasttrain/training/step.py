"""One training step: forward and backward for each of its batches, then one update of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_

from fasttrain.augment.augmentation import Augmentation
from fasttrain.device import copy_to
from fasttrain.errors import UserError
from fasttrain.model.batch_norm import batches_counted_together, running_statistics_if_lone, statistics_kept
from fasttrain.model.criterion import Criterion
from fasttrain.model.precision import Autocast
from fasttrain.ranks import StepAgreement
from fasttrain.training.finite import gradient_norm
from fasttrain.training.sam import climbed
from fasttrain.training.state import HEAD, TrainingState
from fasttrain.training.teacher import Teacher

DATA, COPY, AUGMENT, FORWARD, BACKWARD, LOGGING, OPTIMIZER = PHASES = (
    "data",
    "copy",
    "augment",
    "forward",
    "backward",
    "logging",
    "optimizer",
)
"""The phases of a step, in order.

`data` waits for the loader. `augment` includes normalization and Mixup, `forward` the loss and the teacher,
`optimizer` clipping, schedule and EMA, and `logging` the sums for loss and top1.
"""

Phase = Callable[[str], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True)
class StepBatch:
    """A batch from a loader.

    `images`: uint8 [n, H, W, 3], on any device. `labels`: int64 [n], or float32 [n, classes] if multi-label, on the
    host. `ids`: int64 [n], on the host. `begin`, `end`: the first position of the batch in the epoch, and the first
    after it, in samples over all ranks.
    """

    images: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    begin: int
    end: int


@dataclass(frozen=True)
class Step:
    """Everything a training step needs, except the state that it changes.

    `preprocess`: normalizes images on the device. `clip_grad`: the greatest norm of the gradient, or None. `frozen`:
    modules that stay in eval mode. `class_weights`: a copy of the criterion's class weights on the host, or None.
    `teacher`: a model whose probabilities the student learns instead of the labels, or beside them. `parallel`: with
    several `ranks`, the model that averages their gradients. `accumulate`: batches per step. `sam`: the radius of
    sharpness-aware minimization, or 0. `phase(name)`: returns a context manager that is entered around each part of a
    step (see `PHASES`), for a profiler or a timer.
    """

    device: torch.device
    preprocess: torch.nn.Module
    criterion: Criterion
    autocast: Autocast
    clip_grad: float | None
    frozen: list[torch.nn.Module]
    augmentation: Augmentation = field(default_factory=Augmentation)
    class_weights: torch.Tensor | None = None
    teacher: Teacher | None = None
    parallel: DistributedDataParallel | None = None
    ranks: int = 1
    accumulate: int = 1
    sam: float = 0.0
    phase: Phase = contextlib.nullcontext

    def __call__(self, state: TrainingState, batches: Sequence[StepBatch], agreed: StepAgreement) -> None:
        """Add up the gradients of `batches` and update the weights once.

        `agreed` holds the numbers of samples and their weights, summed over all ranks for this step. Each batch counts
        by its share of the step's weight, so the gradient is that of the mean over all samples of the step. Ranks
        exchange gradients with the last batch only. With `sam` the batches run twice: first at the current weights,
        where each rank's own gradient leads to worse weights nearby, then at those nearby weights. Losses, metrics and
        BatchNorm's statistics come from the first pass.
        """
        # a batch may consist only of bad samples
        present = [each for each in batches if self.parallel is not None or len(each.labels)]
        for batch in present:
            begin, rate = batches[0].begin, state.schedule.learning_rate
            state.finite_check.begin(state.epoch, state.step, begin, batch.begin, batch.end, rate)
            with self._exchanging(batch is batches[-1] and not self.sam):
                loss, logits, targets = self._add_gradient(state, batch, agreed)
            with self.phase(LOGGING):
                state.totals.update(loss, logits, targets, self._share(batch, agreed) * agreed.samples)
        if self.sam:
            with climbed(state.parameters, self.sam), statistics_kept(state.model):
                for batch in present:
                    with self._exchanging(batch is batches[-1]):
                        self._add_gradient(state, batch, agreed, again=True)
        with self.phase(OPTIMIZER):
            self.update(state)

    def size(self, batches: Sequence[StepBatch]) -> tuple[int, float]:
        """Return the number of samples of `batches` on this rank, and the sum of their weights in the mean loss."""
        return sum(len(batch.labels) for batch in batches), sum(self._weight(batch.labels) for batch in batches)

    def _weight(self, labels: torch.Tensor) -> float:
        """Return the divisor of the criterion's mean over a batch's `labels`, which are on the host.

        It is their number, or the sum of their class weights.
        """
        if self.class_weights is None or self.augmentation.mix is not None or labels.ndim == 2:
            return float(len(labels))
        return float(self.class_weights[labels].sum())

    def loss(
        self, model: torch.nn.Module, batch: StepBatch, epoch: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the mean loss of `batch`, float [], its logits, float [n, classes], and its targets.

        Targets are int64 [n], or float [n, classes] for multi-label data and after Mixup or CutMix.
        """
        with self.phase(COPY):
            images = copy_to(self.device, batch.images)
            labels = copy_to(self.device, batch.labels)
        with self.phase(AUGMENT):
            inputs, targets = self.augmentation(images, labels, batch.ids.numpy(), epoch, self.preprocess)
        with self.phase(FORWARD), self.autocast():
            logits = self.forward(self.parallel or model, inputs)
            if not len(targets):  # a rank without samples still takes part in the backward pass
                loss = logits.sum()
            elif self.teacher is None:
                loss = self.criterion(logits, targets)
            else:
                loss = self.teacher.loss(self.criterion, inputs, logits, targets)
            return loss, logits, targets

    def forward(self, model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits, float [n, classes], for `inputs`, float [n, 3, H, W].

        Raises UserError for a batch that BatchNorm can't train on.
        """
        try:
            logits: torch.Tensor = model(inputs)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                f"batch_size = {len(inputs)}: at {inputs.shape[-1]} px one photograph is not enough for BatchNorm to "
                "train on; use a greater --batch-size or --image-size"
            ) from error
        return logits

    def _exchanging(self, exchange: bool) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which backward passes exchange gradients between ranks if `exchange` is true."""
        return contextlib.nullcontext() if exchange or self.parallel is None else self.parallel.no_sync()

    def _share(self, batch: StepBatch, agreed: StepAgreement) -> float:
        """Return the share, in [0, 1], of `batch` in the step's weight."""
        return self._weight(batch.labels) / (agreed.weight or 1.0)

    def _add_gradient(
        self, state: TrainingState, batch: StepBatch, agreed: StepAgreement, *, again: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Add the gradient of `batch` and return what `loss` returns. `again`: its loss has already been recorded."""
        share = self._share(batch, agreed)
        with running_statistics_if_lone(state.model, len(batch.labels), state.loader.settings.batch_size):
            with batches_counted_together(state.norms):
                loss, logits, targets = self.loss(state.model, batch, state.epoch)
            if not again:
                state.finite_check.loss(loss)
            with self.phase(BACKWARD):
                # DistributedDataParallel divides by the number of ranks.
                weighted = loss if share * self.ranks == 1 else loss * (share * self.ranks)
                state.finite_check.scaled(weighted, state.scaler).backward()
        return loss, logits, targets

    def update(self, state: TrainingState) -> None:
        """Clip the gradient and update the weights, unless the gradient isn't finite.

        The schedule and the EMA are updated even if the weights are not.
        """
        if self.clip_grad is not None:
            state.scaler.unscale_(state.optimizer)
        norm = gradient_norm(state.parameters)
        if self.clip_grad is not None:
            clip_grads_with_norm_(state.parameters, self.clip_grad, norm)
        state.finite_check.gradient(norm, state.scaler)
        if state.scaler.is_enabled():
            state.totals.skipped(norm, self.ranks)
        state.finite_check.update(state.optimizer, state.scaler)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        if state.pace is None or state.phase == HEAD:
            state.schedule.after_step()
        else:
            state.schedule.move_to(state.pace.after_step(state.loader.settings.image_size))
        state.average()
