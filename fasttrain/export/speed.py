"""Measure the speed of an exported file and of PyTorch, both on the CPU with the same number of threads."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from fasttrain.export.base import Run

BATCHES = (1, 32)
_ROUNDS = 5
_ROUND_SECONDS = 0.15


@dataclass(frozen=True)
class Speed:
    """The speeds with batches of `batch` images, in images per second.

    `exported`: the speed of the exported file. `eager`: the speed of PyTorch in eager mode with channels-last memory.
    """

    batch: int
    exported: float
    eager: float


def measure(exported: tuple[Run, torch.Tensor], eager: tuple[Run, torch.Tensor]) -> list[Speed]:
    """Measure the speed of an exported file and of PyTorch for each batch size in BATCHES.

    Each argument is a function and the images to run it on, [n, ...], which are repeated or cut to a batch. The two
    functions run in turns for several rounds, and the median speed counts.
    """
    found = []
    for batch in BATCHES:
        runs = [(run, _repeated(images, batch)) for run, images in (exported, eager)]
        times = [_times(run, images) for run, images in runs]
        rates: list[list[float]] = [[], []]
        for _ in range(_ROUNDS):
            for which, (run, images) in enumerate(runs):
                rates[which].append(batch / _seconds(run, images, times[which]))
        found.append(Speed(batch, *(statistics.median(each) for each in rates)))
    return found


def _repeated(images: torch.Tensor, count: int) -> torch.Tensor:
    repeats = -(-count // len(images))
    return images.repeat(repeats, *[1] * (images.ndim - 1))[:count].contiguous()


def _times(run: Run, images: torch.Tensor) -> int:
    """Return the number of runs per round, after some warm-up runs in which runtimes plan and compile."""
    for _ in range(3):
        run(images)
    return max(1, round(_ROUND_SECONDS / _seconds(run, images, 1)))


def _seconds(run: Run, images: torch.Tensor, times: int) -> float:
    """Return the mean duration of a run, in seconds."""
    began = time.perf_counter()
    for _ in range(times):
        run(images)
    return (time.perf_counter() - began) / times
