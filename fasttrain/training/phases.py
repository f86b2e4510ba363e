"""The phases of a training step, for whoever times or names them; the loop itself knows nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from fasttrain.loaders.base import Loader
from fasttrain.training.loop import Step

DATA, COPY, AUGMENT, FORWARD, BACKWARD, LOGGING, OPTIMIZER = PHASES = (
    "data",
    "copy",
    "augment",
    "forward",
    "backward",
    "logging",
    "optimizer",
)
"""In the order of a step. `data` waits for the loader; `augment` has Normalise and Mixup in it, `forward` the loss,
`optimizer` clipping, schedule and EMA, `logging` the sums for loss and top1."""

Around = Callable[[str], AbstractContextManager[Any]]


@dataclass(frozen=True)
class PhasedStep(Step):
    """A step that enters `around(phase)` for each of its phases, `DATA` first."""

    around: Around = nullcontext

    def batches(self, loader: Loader) -> Generator[Any, None, None]:
        batches = super().batches(loader)
        while True:
            with self.around(DATA):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def copy(self, *given: Any) -> Any:
        with self.around(COPY):
            return super().copy(*given)

    def prepare(self, *given: Any) -> Any:
        with self.around(AUGMENT):
            return super().prepare(*given)

    def forward(self, *given: Any) -> Any:
        with self.around(FORWARD):
            return super().forward(*given)

    def backward(self, *given: Any) -> None:
        with self.around(BACKWARD):
            super().backward(*given)

    def count(self, *given: Any) -> None:
        with self.around(LOGGING):
            super().count(*given)

    def update(self, *given: Any) -> None:
        with self.around(OPTIMIZER):
            super().update(*given)


def phased(step: Step, around: Around) -> PhasedStep:
    """The same step, each of its phases inside `around(phase)`."""
    return PhasedStep(**vars(step), around=around)
