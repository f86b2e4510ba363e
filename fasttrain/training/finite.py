"""Check that losses and gradients are finite, without making each step wait for the device.

The device records the values, and the host reads them every few batches. From the first value that is not finite, a
flag on the device keeps the weights unchanged until the host has noticed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from fasttrain.errors import Diverged

if TYPE_CHECKING:
    from collections.abc import Iterable

LOOK_EVERY = 10  # batches between two checks; each makes the host wait for the device
LEAST_SCALE = 1e-4  # the least fp16 loss scale, like fairseq's --min-loss-scale; GradScaler halves it from 65,536 on
_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


@dataclass(frozen=True)
class BatchNote:
    """A training batch, noted before it runs.

    `epoch`: from 0. `step`: the number of optimizer steps made before the batch. `step_begin`, `begin`, `end`: the
    positions in the epoch, in samples over all ranks, where the batch's optimizer step begins, and where the batch
    begins and ends. `rng`: the states of torch's generators, from which dropout draws: the CPU's and, on CUDA, the
    device's.
    """

    epoch: int
    step: int
    step_begin: int
    begin: int
    end: int
    learning_rate: float
    rng: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class DivergenceCause:
    """The reason for which a run diverged: usually the first value that was not finite.

    `kind`: "loss" for a batch's training loss, "gradient" for a gradient's norm after a finite loss, "scale" if fp16's
    loss scale fell too low, "validation" for the validation loss. `loss`: the loss of the batch or validation.
    `gradient`: the norm for the kind "gradient", otherwise None. `note`: where in the run the
    batch is, and its samples; None for a validation. `scale`: the
    loss scale, 1 without fp16.
    """

    kind: Literal["loss", "gradient", "scale", "validation"]
    loss: float
    gradient: float | None = None
    note: BatchNote | None = None
    scale: float = 1.0


class StepDiverged(Diverged):
    """Raised if a loss or a gradient is NaN or infinite, or if fp16's loss scale fell too low.

    `cause` holds the value and the batch.
    """

    def __init__(self, cause: DivergenceCause, epoch: int, learning_rate: float) -> None:
        self.cause = cause
        where = f"in epoch {epoch + 1}" + (f" at step {cause.note.step + 1}" if cause.note else "")
        rate = f"at learning_rate = {learning_rate:g}"
        fix = "lower --learning-rate, or set --clip-grad 1"
        messages = {
            "loss": f"the loss became {cause.loss} {where}, {rate}; {fix}",
            "gradient": f"the gradient's norm became {cause.gradient} {where} (the loss: {cause.loss:.4g}), {rate}; "
            "lower --learning-rate",
            "scale": f"fp16's loss scale fell to {cause.scale:.1g} {where}, {rate}, because the gradients overflow "
            "at any scale; use --amp-dtype bf16 (--no-amp on a GPU without it), or lower --learning-rate",
            "validation": f"the validation loss became {cause.loss} {where}, {rate}; {fix}",
        }
        super().__init__(messages[cause.kind])


class FiniteCheck:
    """Checks losses and gradients for values that are not finite.

    The device records each loss and gradient norm. The host reads them every `LOOK_EVERY` batches. Until then a flag
    on the device keeps the weights as they were before the first value that was not finite.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._broken = torch.zeros((), device=device)  # 1 from the first step that was not finite
        self._none = torch.zeros((), device=device)
        self._one = torch.ones((), device=device)
        self._notes: list[BatchNote] = []
        self._losses: list[torch.Tensor] = []
        self._norms: list[torch.Tensor] = []

    def begin(self, epoch: int, step: int, step_begin: int, begin: int, end: int, learning_rate: float) -> None:
        """Note that a batch is about to run. The arguments are the fields of `BatchNote`."""
        rng: tuple[torch.Tensor, ...] = (torch.get_rng_state(),)
        if self._device.type == "cuda":
            rng += (torch.cuda.get_rng_state(self._device),)
        self._notes.append(BatchNote(epoch, step, step_begin, begin, end, learning_rate, rng))

    def loss(self, loss: torch.Tensor) -> None:
        """Record the loss, float [], of the batch that began last."""
        loss = loss.detach().to(torch.float32, copy=True)  # the next run of a CUDA graph overwrites this tensor
        self._losses.append(loss)
        self._norms.append(self._none)
        self._break_unless(loss)

    def gradient(self, norm: torch.Tensor, scaler: torch.amp.GradScaler) -> None:
        """Record the gradient's norm, float [], of the step that ends with the last batch."""
        if not scaler.is_enabled() and self._norms:
            self._norms[-1] = norm = norm.to(self._device, torch.float32)
            self._break_unless(norm)

    def scaled(self, loss: torch.Tensor, scaler: torch.amp.GradScaler) -> torch.Tensor:
        """Return `loss` scaled by `scaler`.

        Once a loss or a gradient was not finite, the result is not finite either, so that `scaler` skips each step.
        """
        return scaler.scale(loss / (1 - self._broken) if scaler.is_enabled() else loss)

    def update(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
        """Run `optimizer`'s step, unless a loss or gradient checked so far was not finite.

        The result of the checks is a flag on the device. Torch's fused optimizers read it there. For other optimizers
        the host reads it, and waits for the device in each step, as `GradScaler` does.
        """
        if scaler.is_enabled():
            scaler.step(optimizer)
        elif isinstance(optimizer, _FUSED) and optimizer.defaults.get("fused"):
            optimizer.found_inf = self._broken  # type: ignore[union-attr]
            optimizer.step()
        elif not self._broken:
            optimizer.step()

    def look(self, scaler: torch.amp.GradScaler) -> DivergenceCause | None:
        """Return the cause if a value since the last call was not finite, or if the loss scale fell too low.

        Returns None if all is well. Waits for the device.
        """
        if not self._losses:
            return None
        values = torch.stack([*self._losses, *self._norms]).tolist()
        count = len(self._losses)
        notes = self._notes[-count:]
        scale = scaler.get_scale() if scaler.is_enabled() else 1.0
        for note, loss, norm in zip(notes, values[:count], values[count:], strict=True):
            if not math.isfinite(loss):
                return DivergenceCause("loss", loss, None, note, scale)
            if not math.isfinite(norm):
                return DivergenceCause("gradient", loss, norm, note, scale)
        if scale < LEAST_SCALE:
            return DivergenceCause("scale", values[count - 1], None, notes[-1], scale)
        for noted in (self._notes, self._losses, self._norms):
            noted.clear()
        return None

    def _break_unless(self, value: torch.Tensor) -> None:
        if self._device.type == "mps":  # mps has the operation below only from torch 2.8
            self._broken.masked_fill_(~torch.isfinite(value), 1.0)
        else:  # the check that GradScaler uses, in one operation; it multiplies the value by 1
            torch._amp_foreach_non_finite_check_and_unscale_([value], self._broken, self._one)


def gradient_norm(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the 2-norm of all gradients together, float [], on the gradients' device.

    The norm is not finite if any gradient isn't. It is 0, on the CPU, if there are no gradients.

    The result is that of `torch.nn.utils.get_total_norm` for tensors on one device, but it takes less time, because the
    tensors are not sorted by device.
    """
    gradients = [each.grad for each in parameters if each.grad is not None]
    if not gradients:
        return torch.tensor(0.0)
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm


def non_finite(tensors: dict[str, Any]) -> list[str]:
    """Return the names of the tensors that have a value that is not finite."""
    return [name for name, each in tensors.items() if each.is_floating_point() and not torch.isfinite(each).all()]
