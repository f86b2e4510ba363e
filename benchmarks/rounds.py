"""Rounds in which each contender runs once in turn."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from peers.process import ContenderProcess


def measure_rates(running: Mapping[str, ContenderProcess], rounds: int, repeats: int = 1) -> dict[str, list[float]]:
    """Return img/s of each contender in each round, after an epoch that doesn't count."""
    rates: dict[str, list[float]] = {name: [] for name in running}
    for process in running.values():
        process.epoch()
    for _ in range(rounds):
        for name, process in running.items():
            found = process.epoch(repeats=repeats)
            rates[name].append(found["images"] / found["seconds"])
    return rates


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
