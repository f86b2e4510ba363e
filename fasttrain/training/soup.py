"""`--average`: average the weights of the best epochs if that is better: a greedy soup (Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fasttrain.config.monitor import MONITORS

STATISTICS_BATCHES = 200
"""The greatest number of training batches from which an average's BatchNorm statistics are recomputed."""

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Candidate:
    """An epoch whose weights may become part of the average.

    `epoch`: from 0. `value`: the monitored metric of that epoch. `weights`: the state_dict after that epoch, in
    CPU memory on rank 0; None on other ranks.
    """

    epoch: int
    value: float
    weights: Weights | None


class Candidates:
    """The `count` best epochs so far, the best first. Among equally good epochs the earlier one comes first.

    Only rank 0 has their weights.
    """

    def __init__(self, count: int, monitor: str) -> None:
        self._count, self._monitor = count, MONITORS[monitor]
        self.best_first: list[Candidate] = []

    def offer(self, epoch: int, value: float, weights: Callable[[], Weights | None]) -> None:
        """Keep the epoch if it is among the best. `weights` returns a copy of its weights.

        `epoch`: from 0. `value`: its monitored metric. An epoch with NaN is never kept.
        """
        if value != value:
            return
        better = sum(not self._monitor.is_better(value, each.value) for each in self.best_first)
        if better < self._count:
            self.best_first.insert(better, Candidate(epoch, value, weights()))
            del self.best_first[self._count :]

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the candidates as plain data and tensors.

        The first candidate is the best epoch and has no weights here, because the checkpoint stores these on their own.
        """
        return [
            {"epoch": each.epoch, "value": each.value, "weights": each.weights if number else None}
            for number, each in enumerate(self.best_first)
        ]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]], best: Candidate | None) -> None:
        """Restore the candidates from `state`, which `state_dict` returned.

        `best`: the best epoch with its weights. It is the only candidate if `state` is empty, as in older checkpoints.
        """
        self.best_first = [Candidate(each["epoch"], each["value"], each["weights"]) for each in state][: self._count]
        if best is not None and self._count:
            self.best_first[:1] = [best]


def greedy_soup(
    candidates: Sequence[Candidate], monitor: str, evaluate: Callable[[Weights | None], float]
) -> tuple[list[int], float]:
    """Return the positions of the candidates to average, and the monitored metric of their average.

    The average starts with the first candidate, and takes in each following one that makes it better by the metric
    `monitor`. `evaluate` returns that metric for the given weights. Every rank calls it, with weights on rank 0 only
    and None on the others.
    """
    chosen, best = [0], candidates[0].value
    for number in range(1, len(candidates)):
        value = evaluate(averaged([candidates[each].weights for each in (*chosen, number)]))
        if MONITORS[monitor].is_better(value, best):
            chosen, best = [*chosen, number], value
    return chosen, best


def averaged(weights: Sequence[Weights | None]) -> Weights | None:
    """Return the average of several state_dicts, or None if all of them are None, as on ranks above 0.

    Floating-point tensors are averaged in float64. All other tensors are those of the first state_dict.
    """
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
