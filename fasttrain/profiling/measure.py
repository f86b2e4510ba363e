"""Measures a run's real steps, phase by phase; its loader alone; and its step alone, on a batch held in memory."""

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
from fasttrain.ranks import Agreed
from fasttrain.training.loop import train_epoch
from fasttrain.training.state import TrainingState
from fasttrain.training.step import COPY, DATA, FORWARD, LOGGING, PHASES, Step

WARM_UP = 5  # more than a loader reads ahead; compiling and cuDNN's tuning are over by then
_TAIL = 3  # steps at a pass's end, when the loader has nothing left to do, that don't count either
_COPIES = 20


@dataclass(frozen=True)
class PhaseTime:
    """Seconds a step: the median and the mean. `share` of all the time that the steps took, in [0, 1]."""

    median: float
    mean: float
    share: float


@dataclass(frozen=True)
class StepTimes:
    """`steps` of them: seconds of each of `PHASES`, and images a second over all of them."""

    steps: int
    phases: dict[str, PhaseTime]
    rate: float


@dataclass(frozen=True)
class Measured:
    """`together`: loader and step as in training. Rates in images a second: what the loader gives when nothing else
    runs, what a copy to the device allows (None where there is none), and what the step alone takes in mixed
    precision (None where that was not tried)."""

    together: StepTimes
    step_alone: StepTimes
    loader_rate: float
    copy_rate: float | None
    amp_rate: float | None = None


def measure(
    state: TrainingState, step: Step, steps: int, say: Callable[[str], None], amp: Autocast | None = None
) -> Measured:
    """Drives `train_epoch` for `steps` steps, and a third as many with the step alone, after `WARM_UP` steps that do
    not count. `state` is a different one afterwards. Each part takes epochs of its own, so none of them finds the
    other's photographs in the page cache where they were not there before. `amp`: a precision to try, too.
    """
    epochs = _Epochs(state)
    pictures = state.loader
    say(f"{steps} steps, loader and step together")
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
    """One batch over and over, in place of what `pictures` would give: a loader that takes no time."""

    name = "held"

    def __init__(self, pictures: Loader, images: torch.Tensor) -> None:
        """`images`, uint8 [n, H, W, 3]: a whole batch."""
        super().__init__(pictures.shards, pictures.ids, pictures.settings)
        self._images = images

    def _load(self, batches: Sequence[Batch]) -> Iterator[tuple[torch.Tensor, BadSamples]]:
        for batch in batches:
            yield self._images[: len(batch)], ()


class Stopwatch:
    """Notes when each phase begins and ends.

    On CUDA by events on the current stream, read at the end: they tell how long the device was at each phase, and how
    long it idled in it, without making the host wait, so that what overlaps in training overlaps here too (untested on
    a GPU). Elsewhere by the host's clock, on MPS once the device has caught up.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[str, Any, Any]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begun = self._mark()
        yield
        self._spans.append((name, begun, self._mark()))

    def seconds(self, phase: str) -> list[float]:
        """Of each time that `phase` was entered."""
        self._catch_up()
        return [_seconds(begun, ended) for name, begun, ended in self._spans if name == phase]

    def steps(self) -> list[dict[str, float]]:
        """Seconds of each phase of each whole step, in order; what lies between phases counts as `LOGGING`."""
        self._catch_up()
        starts = [number for number, (name, *_) in enumerate(self._spans) if name == DATA]
        steps = []
        for first, after in pairwise(starts):
            spent = dict.fromkeys(PHASES, 0.0)
            for name, begun, ended in self._spans[first:after]:
                spent[name] += _seconds(begun, ended)
            spent[LOGGING] += _seconds(self._spans[first][1], self._spans[after][1]) - sum(spent.values())
            if any(name == FORWARD for name, *_ in self._spans[first:after]):  # else it found the epoch at its end
                steps.append(spent)
        return steps

    def _catch_up(self) -> None:
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


def _seconds(begun: Any, ended: Any) -> float:
    return ended - begun if isinstance(begun, float) else begun.elapsed_time(ended) / 1e3


class _Epochs:
    """Passes over a loader, each in an epoch that was not used before and with a bounded number of batches."""

    def __init__(self, state: TrainingState) -> None:
        self._state = state
        self._limit = state.loader.settings.limit_batches

    def next(self, loader: Loader, batches: int) -> None:
        self._state.epoch += 1
        loader.set_epoch(self._state.epoch)
        limit = batches if self._limit is None else min(batches, self._limit)
        loader.settings = replace(loader.settings, limit_batches=limit)


def _time_steps(state: TrainingState, step: Step, steps: int, epochs: _Epochs) -> StepTimes:
    watch = Stopwatch(step.device)
    images: list[int] = []

    def agree(samples: int, weight: float) -> Agreed:
        images.append(samples)
        return Agreed(samples, weight, None)

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


def _nothing(*told: object) -> None:
    """For what a run would show, check or save."""


def _drain(loader: Loader, batches: int, epochs: _Epochs) -> tuple[float, torch.Tensor]:
    """Images a second, and a copy of a whole batch: with page-locked memory on the host where that is what there is."""
    arrived: list[tuple[float, int]] = []
    held = None
    while (missing := WARM_UP + batches + _TAIL - len(arrived)) > 0:
        epochs.next(loader, missing)
        for images, _, _ in loader:
            if images.device.type == "cuda":  # its copy may still be under way
                torch.cuda.current_stream(images.device).synchronize()
            arrived.append((time.perf_counter(), len(images)))
            if held is None or len(images) > len(held):
                held = images.clone()
    assert held is not None
    first, last = WARM_UP - 1, WARM_UP + batches - 1
    seconds = arrived[last][0] - arrived[first][0]
    return sum(count for _, count in arrived[first + 1 : last + 1]) / seconds, held


def _copy_rate(images: torch.Tensor, device: torch.device) -> float | None:
    """Images a second from page-locked memory to `device`; None on a CPU, where nothing is copied."""
    if device.type == "cpu":
        return None
    source = images.cpu().pin_memory() if device.type == "cuda" else images.cpu()
    watch = Stopwatch(device)
    for _ in range(_COPIES):
        with watch.phase(COPY):
            copy_to(device, source)
    return len(images) / statistics.median(watch.seconds(COPY))
