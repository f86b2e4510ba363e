"""How fast an exported model runs, beside PyTorch, both on the CPU and on the same number of threads."""

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
    """img/s with `batch` images at once: the exported file's, and PyTorch's (eager, NHWC)."""

    batch: int
    exported: float
    eager: float


def measure(exported: tuple[Run, torch.Tensor], eager: tuple[Run, torch.Tensor]) -> list[Speed]:
    """Each runs its own images, [n, ...], in turns; the median of the rounds."""
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
    """How often a round runs; the first runs, in which runtimes plan and compile, are over then."""
    for _ in range(3):
        run(images)
    return max(1, round(_ROUND_SECONDS / _seconds(run, images, 1)))


def _seconds(run: Run, images: torch.Tensor, times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        run(images)
    return (time.perf_counter() - began) / times
