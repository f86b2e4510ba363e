"""Measure a run's training steps by phase, its loader alone, and its step alone on a batch in memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from fasttrain.device import copy_to
from fasttrain.loaders.base import Loader
from fasttrain.loaders.plan import BadSamples, Batch
from fasttrain.model.precision import Autocast
from fasttrain.ranks import StepAgreement
from fasttrain.text import counted
from fasttrain.training.loop import train_epoch
from fasttrain.training.state import TrainingState
from fasttrain.training.step import COPY, DATA, FORWARD, LOGGING, PHASES, Step

WARM_UP = 5  # uncounted steps at the start: more than a loader reads ahead, and enough for compiling and cuDNN's tuning
_TAIL = 3  # uncounted steps at the end of a pass, when the loader has no more work
_COPIES = 20


@dataclass(frozen=True)
class PhaseTime:
    """The time of one phase of a step: its median and mean in seconds, and its share of the step's time, in [0, 1]."""

    median: float
    mean: float
    share: float


@dataclass(frozen=True)
class StepTimes:
    """The times of `steps` measured steps: the time of each phase by its name, and the rate in images per second."""

    steps: int
    phases: dict[str, PhaseTime]
    rate: float


@dataclass(frozen=True)
class Measured:
    """The result of `measure`. Rates are in images per second.

    `together`: the times with loader and step as in training. `step_alone`: the times on a batch in memory, without
    the loader. `loader_rate`: the rate of the loader without the step. `copy_rate`: the rate of copies to the device;
    None on a CPU. `amp_rate`: the rate of the step alone in mixed precision; None if it was not measured.
    """

    together: StepTimes
    step_alone: StepTimes
    loader_rate: float
    copy_rate: float | None
    amp_rate: float | None = None


def measure(
    state: TrainingState, step: Step, steps: int, say: Callable[[str], None], amp: Autocast | None = None
) -> Measured:
    """Measure `steps` training steps, then the loader alone, then the step alone for a third as many steps.

    Each measurement begins with `WARM_UP` steps that don't count. It continues with later epochs than the measurement
    before. `state`: the run's state, which is trained and changed. `say`: called with a line before each measurement.
    `amp`: the autocast of a precision in which to measure the step alone once more, or None.
    """
    epochs = _Epochs(state)
    pictures = state.loader
    say(f"{counted(steps, 'step')}, loader and model together")
    together = _time_steps(state, step, steps, epochs)
    say("the loader alone")
    loader_rate, held = _drain(pictures, steps, epochs)
    say("the step alone, on a batch held in memory")
    state.loader = HeldLoader(pictures, held)
    fewer = max(steps // 3, 1)
    step_alone = _time_steps(state, step, fewer, epochs)
    amp_rate = None
    if amp is not None:
        say("the step alone, in mixed precision")
        amp_rate = _time_steps(state, replace(step, autocast=amp), fewer, epochs).rate
    return Measured(together, step_alone, loader_rate, _copy_rate(held, step.device), amp_rate)


class HeldLoader(Loader):
    """A loader that takes no time: it repeats one batch in memory instead of the batches of `pictures`."""

    name = "held"

    def __init__(self, pictures: Loader, images: torch.Tensor) -> None:
        """Make a loader for the samples of `pictures`. `images`: the batch to repeat, uint8 [n, H, W, 3], full."""
        super().__init__(pictures.shards, pictures.ids, pictures.settings)
        self._images = images

    def _load(self, batches: Sequence[Batch]) -> Iterator[tuple[torch.Tensor, BadSamples]]:
        for batch in batches:
            yield self._images[: len(batch)], ()


class Stopwatch:
    """Records when each phase of a step begins and ends.

    On CUDA it records events on the current stream and reads these at the end. So the host needn't wait for the device,
    and host and device overlap as in training. On other devices it uses the host's clock, on MPS after waiting for the
    device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[str, Any, Any]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Record the time of this context as the phase `name`, one of `PHASES`."""
        start = self._mark()
        yield
        self._spans.append((name, start, self._mark()))

    def seconds(self, phase: str) -> list[float]:
        """Return how many seconds each recorded `phase` took, in the order of the recording."""
        self._synchronize()
        return [_seconds(start, end) for name, start, end in self._spans if name == phase]

    def steps(self) -> list[dict[str, float]]:
        """Return a dict for each complete step: the seconds of each phase, by its name.

        The time between phases counts as `LOGGING`.
        """
        self._synchronize()
        starts = [number for number, (name, *_) in enumerate(self._spans) if name == DATA]
        steps = []
        for first, after in pairwise(starts):
            spent = dict.fromkeys(PHASES, 0.0)
            for name, start, end in self._spans[first:after]:
                spent[name] += _seconds(start, end)
            spent[LOGGING] += _seconds(self._spans[first][1], self._spans[after][1]) - sum(spent.values())
            if any(name == FORWARD for name, *_ in self._spans[first:after]):  # otherwise the epoch had ended
                steps.append(spent)
        return steps

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _mark(self) -> Any:
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            return event
        if self._device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()


def _seconds(start: Any, end: Any) -> float:
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1e3


class _Epochs:
    """Gives a loader a new epoch and a limited number of batches for each pass."""

    def __init__(self, state: TrainingState) -> None:
        self._state = state
        self._limit = state.loader.settings.limit_batches

    def next(self, loader: Loader, batches: int) -> None:
        """Set `loader` to the next epoch, with at most `batches` batches."""
        self._state.epoch += 1
        loader.set_epoch(self._state.epoch)
        limit = batches if self._limit is None else min(batches, self._limit)
        loader.settings = replace(loader.settings, limit_batches=limit)


def _time_steps(state: TrainingState, step: Step, steps: int, epochs: _Epochs) -> StepTimes:
    watch = Stopwatch(step.device)
    images: list[int] = []

    def agree(samples: int, weight: float) -> StepAgreement:
        images.append(samples)
        return StepAgreement(samples, weight, None)

    while (missing := WARM_UP + steps + _TAIL - len(images)) > 0:
        epochs.next(state.loader, missing * step.accumulate)
        train_epoch(state, replace(step, phase=watch.phase), agree=agree, after_step=_nothing, show=_nothing)
    counted = slice(WARM_UP, WARM_UP + steps)
    times = watch.steps()[counted]
    seconds = sum(sum(spent.values()) for spent in times)
    return StepTimes(
        steps,
        {
            phase: PhaseTime(
                statistics.median(spent[phase] for spent in times),
                statistics.mean(spent[phase] for spent in times),
                sum(spent[phase] for spent in times) / seconds,
            )
            for phase in PHASES
        },
        sum(images[counted]) / seconds,
    )


def _nothing(*arguments: object) -> None:
    """Do nothing, in place of the functions with which a run shows its progress, checks and saves."""


def _drain(loader: Loader, batches: int, epochs: _Epochs) -> tuple[float, torch.Tensor]:
    """Measure a loader alone. Return images per second, and a copy of its largest batch.

    The copy is in page-locked memory if the loader's batches are.
    """
    arrived: list[tuple[float, int]] = []
    held = None
    while (missing := WARM_UP + batches + _TAIL - len(arrived)) > 0:
        epochs.next(loader, missing)
        for images, _, _ in loader:
            if images.device.type == "cuda":  # its copy may still be in progress
                torch.cuda.current_stream(images.device).synchronize()
            arrived.append((time.perf_counter(), len(images)))
            if held is None or len(images) > len(held):
                held = images.clone()
    assert held is not None
    first, last = WARM_UP - 1, WARM_UP + batches - 1
    seconds = arrived[last][0] - arrived[first][0]
    return sum(count for _, count in arrived[first + 1 : last + 1]) / seconds, held


def _copy_rate(images: torch.Tensor, device: torch.device) -> float | None:
    """Return how many images per second are copied to `device`, on CUDA from page-locked memory. None for a CPU."""
    if device.type == "cpu":
        return None
    source = images.cpu().pin_memory() if device.type == "cuda" else images.cpu()
    watch = Stopwatch(device)
    for _ in range(_COPIES):
        with watch.phase(COPY):
            copy_to(device, source)
    return len(images) / statistics.median(watch.seconds(COPY))
