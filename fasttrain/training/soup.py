"""`--average`: the best epochs' weights, averaged where that is better: a greedy soup (Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fasttrain.config.monitor import MONITORS

STATISTICS_BATCHES = 200
"""Batches of photographs over which BatchNorm's statistics of an average are taken anew, at most."""

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Candidate:
    """An epoch, from 0, the monitored metric's value then, and its weights on the host; None above rank 0."""

    epoch: int
    value: float
    weights: Weights | None


class Candidates:
    """The `count` best epochs so far, the best first and of equal ones the earlier first. Only rank 0 has weights."""

    def __init__(self, count: int, monitor: str) -> None:
        self._count, self._monitor = count, MONITORS[monitor]
        self.best_first: list[Candidate] = []

    def offer(self, epoch: int, value: float, weights: Callable[[], Weights | None]) -> None:
        """Keep the epoch if it is one of the best. `weights` makes a copy of its weights."""
        if value != value:
            return
        better = sum(not self._monitor.is_better(value, each.value) for each in self.best_first)
        if better < self._count:
            self.best_first.insert(better, Candidate(epoch, value, weights()))
            del self.best_first[self._count :]

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the candidates, the first without its weights: they are the best epoch's, which a checkpoint holds."""
        return [
            {"epoch": each.epoch, "value": each.value, "weights": each.weights if number else None}
            for number, each in enumerate(self.best_first)
        ]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]], best: Candidate | None) -> None:
        """Restore the candidates. `best` is the best epoch; where `state` is empty, it is the only candidate."""
        self.best_first = [Candidate(each["epoch"], each["value"], each["weights"]) for each in state][: self._count]
        if best is not None and self._count:
            self.best_first[:1] = [best]


def greedy_soup(
    candidates: Sequence[Candidate], monitor: str, evaluate: Callable[[Weights | None], float]
) -> tuple[list[int], float]:
    """Return the positions of the candidates to average, and the value of the monitored metric of their average.

    Starts from the first candidate, and adds each following one that makes the average better. `evaluate` returns the
    metric of the weights that it is given; every rank calls it, with weights on rank 0 alone.
    """
    chosen, best = [0], candidates[0].value
    for number in range(1, len(candidates)):
        value = evaluate(averaged([candidates[each].weights for each in (*chosen, number)]))
        if MONITORS[monitor].is_better(value, best):
            chosen, best = [*chosen, number], value
    return chosen, best


def averaged(weights: Sequence[Weights | None]) -> Weights | None:
    """Return the mean of floating-point tensors, computed in float64; of others the first. None above rank 0."""
    known = [each for each in weights if each is not None]
    if not known:
        return None
    return {name: _mean([each[name] for each in known]) for name in known[0]}


def _mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    first = tensors[0]
    if not first.is_floating_point():
        return first
    total = first.to(torch.float64, copy=True)
    for each in tensors[1:]:
        total += each
    return (total / len(tensors)).to(first.dtype)
