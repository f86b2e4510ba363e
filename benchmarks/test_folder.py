"""A loader straight from a folder of JPEGs that were never converted: RandomResizedCrop(224), flip, batch 64.

Rounds in which each runs once in turn, and medians over them.
"""

from __future__ import annotations

import inspect
import statistics

import pytest
from rounds import measure_rates, median_ratio

import fasttrain

OURS, SHARDS = "native, folder", "native"
PEERS = ("torchvision v2", "SPDL")


def test_folder(photographs, contenders, short, results):
    """The same photographs as shards are a row too: what `convert` would give."""
    if "convert" not in inspect.signature(fasttrain.Loader).parameters:
        pytest.skip("fasttrain.Loader reads no folder without converting it yet")
    running = {name: process for name in (OURS, SHARDS, *PEERS) if (process := contenders(name, photographs))}
    rates = measure_rates(running, rounds=2 if short else 5)
    part = {
        name: {"img/s": statistics.median(each), "ours / this": median_ratio(rates[OURS], each)}
        for name, each in rates.items()
    }
    results.add("folder", part)
    rows = [[name, f"{found['img/s']:,.0f}", f"{found['ours / this']:.2f}"] for name, found in part.items()]
    results.add_table("folder", ["a folder of JPEGs", "img/s", f"{OURS} is so many times as fast"], rows)
