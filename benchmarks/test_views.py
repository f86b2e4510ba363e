"""Several views of each photograph, as self-supervised training needs them: SimCLR's two, DINO's two and six.

img/s counts photographs, not views. Rounds in which each runs once in turn, and medians over them.
"""

from __future__ import annotations

import inspect
import statistics

import pytest
from rounds import measure_rates, median_ratio

import fasttrain

TASKS = {
    "simclr": ("2 x 224 px", "native, 2 views", "torchvision v2, two passes", "torchvision v2, 2 views"),
    "dino": ("2 x 224 and 6 x 96 px", "native, 2 + 6 views", "torchvision v2, 2 + 6 views"),
}
"""The views, ours, the others. Two passes decode each photograph twice; the rest decode once and crop n times."""


@pytest.mark.parametrize("task", TASKS)
def test_views(task, photographs, contenders, short, results):
    if "views" not in inspect.signature(fasttrain.Loader).parameters:
        pytest.skip("fasttrain.Loader has no views yet")
    views, ours, *others = TASKS[task]
    running = {name: process for name in (ours, *others) if (process := contenders(name, photographs))}
    rates = measure_rates(running, rounds=2 if short else 5)
    for process in running.values():
        process.close()
    part = {
        name: {"img/s": statistics.median(each), "ours / this": median_ratio(rates[ours], each)}
        for name, each in rates.items()
    }
    results.add(f"views_{task}", part)
    rows = [[name, f"{found['img/s']:,.0f}", f"{found['ours / this']:.2f}"] for name, found in part.items()]
    results.add_table(f"views_{task}", [views, "photographs/s", f"{ours} is so many times as fast"], rows)
