"""Measure a run's real steps by phase, its loader alone, and its step alone on a batch held in memory."""

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
from fasttrain.training.loop import train_epoch
from fasttrain.training.state import TrainingState
from fasttrain.training.step import COPY, DATA, FORWARD, LOGGING, PHASES, Step

WARM_UP = 5  # more than a loader reads ahead; compiling and cuDNN's tuning are done by then
_TAIL = 3  # steps at the end of a pass, when the loader has nothing left to do, don't count either
_COPIES = 20


@dataclass(frozen=True)
class PhaseTime:
    """Seconds per step: the median, the mean, and the share of the total time, in [0, 1]."""

    median: float
    mean: float
    share: float


@dataclass(frozen=True)
class StepTimes:
    """The times of `steps` steps: those of each phase in `PHASES`, and the overall rate in images per second."""

    steps: int
    phases: dict[str, PhaseTime]
    rate: float


@dataclass(frozen=True)
class Measured:
    """The result of a measurement. Rates are in images per second.

    `together`: loader and step as in training. `step_alone`: the step without the loader. `loader_rate`: the loader
    alone. `copy_rate`: copies to the device; None if there are none. `amp_rate`: the step alone in mixed precision;
    None if it was not tried.
    """

    together: StepTimes
    step_alone: StepTimes
    loader_rate: float
    copy_rate: float | None
    amp_rate: float | None = None


def measure(
    state: TrainingState, step: Step, steps: int, say: Callable[[str], None], amp: Autocast | None = None
) -> Measured:
    """Run `train_epoch` for `steps` steps, and the step alone for a third as many, each after `WARM_UP` uncounted
    steps.

    `state` changes. Each part uses its own epochs, so that none finds another's photographs in the page cache. `amp`:
    a precision to try as well.
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
    """A loader that takes no time: it repeats one batch instead of reading those of `pictures`."""

    name = "held"

    def __init__(self, pictures: Loader, images: torch.Tensor) -> None:
        """`images`, uint8 [n, H, W, 3], is a full batch."""
        super().__init__(pictures.shards, pictures.ids, pictures.settings)
        self._images = images

    def _load(self, batches: Sequence[Batch]) -> Iterator[tuple[torch.Tensor, BadSamples]]:
        for batch in batches:
            yield self._images[: len(batch)], ()


class Stopwatch:
    """Records when each phase begins and ends.

    On CUDA it uses events on the current stream, which are read at the end. They measure how long the device worked
    and idled in each phase, without making the host wait, so that work overlaps as in training (untested on a GPU).
    Elsewhere it uses the host's clock, on MPS after the device has caught up.
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
        """Return the duration of each time that `phase` was entered."""
        self._catch_up()
        return [_seconds(begun, ended) for name, begun, ended in self._spans if name == phase]

    def steps(self) -> list[dict[str, float]]:
        """Return the seconds of each phase of each complete step, in order. Time between phases counts as `LOGGING`."""
        self._catch_up()
        starts = [number for number, (name, *_) in enumerate(self._spans) if name == DATA]
        steps = []
        for first, after in pairwise(starts):
            spent = dict.fromkeys(PHASES, 0.0)
            for name, begun, ended in self._spans[first:after]:
                spent[name] += _seconds(begun, ended)
            spent[LOGGING] += _seconds(self._spans[first][1], self._spans[after][1]) - sum(spent.values())
            if any(name == FORWARD for name, *_ in self._spans[first:after]):  # otherwise it found the end of the epoch
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
    """Passes over a loader, each in an unused epoch and with a bounded number of batches."""

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
    """Do nothing, in the place of what a run would show, check or save."""


def _drain(loader: Loader, batches: int, epochs: _Epochs) -> tuple[float, torch.Tensor]:
    """Return images per second, and a copy of a full batch, in page-locked memory if the loader uses that."""
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
    """Return images per second for copies from page-locked memory to `device`, or None on a CPU, where nothing is
    copied."""
    if device.type == "cpu":
        return None
    source = images.cpu().pin_memory() if device.type == "cuda" else images.cpu()
    watch = Stopwatch(device)
    for _ in range(_COPIES):
        with watch.phase(COPY):
            copy_to(device, source)
    return len(images) / statistics.median(watch.seconds(COPY))
