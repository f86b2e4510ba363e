"""Measure what DALI in a thread of its own saves the training loop: RandomResizedCrop 224, flip, batch 64, cut shards.

The loop waits for a GPU, which a pause stands for, longer than DALI takes to decode: so nobody waits for data, and what
the loop spends between two steps is the loader's own work. Epochs with the thread and without it take turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from fasttrain.device import choose_workers
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.dali import DaliLoader
from fasttrain.loaders.plan import Batch, Crop
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet

BATCH = 64
ROUNDS = 5
STEPS = 8
FIRST = 2  # batches that DALI is given as an epoch begins, and the one that is waited for


def batches_of(loader: DaliLoader, planned: list[Batch], threaded: bool) -> Iterator[object]:
    return iter(loader._load(planned)) if threaded else loader._decoded_batches(planned)


def spent(loader: DaliLoader, planned: list[Batch], threaded: bool, step: float) -> list[tuple[float, float]]:
    """Return the seconds, and those of them on a core, that the loop's thread takes to get each batch."""
    found = []
    with closing(batches_of(loader, planned, threaded)) as batches:
        for _ in planned:
            wall, core = time.perf_counter(), time.thread_time()
            next(batches)
            found.append((time.perf_counter() - wall, time.thread_time() - core))
            time.sleep(step)
    return found[FIRST:]


def test_dali_thread(photographs, tmp_path, benchmark):
    pytest.importorskip("nvidia.dali")
    convert(str(photographs), tmp_path / "shards", progress=False)
    shards = ShardSet.open(tmp_path / "shards")
    loader = DaliLoader(shards, shards.ids("train"), LoaderSettings(BATCH, 224, Crop(), workers=choose_workers(None)))
    plan = loader.plan()
    planned = [plan.batch(number, BATCH) for number in range(min(STEPS, len(plan) // BATCH))]
    began = time.perf_counter()
    decoded = sum(1 for _ in loader._load(planned))
    step = 1.5 * (time.perf_counter() - began) / decoded
    times: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    rates: dict[bool, list[float]] = {True: [], False: []}
    rounds = iter(range(1_000_000))

    def both() -> None:
        for threaded in (True, False) if next(rounds) % 2 else (False, True):
            times[threaded] += spent(loader, planned, threaded, step)
            start = time.perf_counter()
            spent(loader, planned, threaded, 0)
            rates[threaded].append(BATCH * len(planned) / (time.perf_counter() - start))

    benchmark.pedantic(both, rounds=ROUNDS, warmup_rounds=0)
    loader.close()
    found = benchmark.extra_info
    for threaded, name in ((False, "in the loop"), (True, "in a thread")):
        wall, core = (statistics.median(each) * 1e3 for each in zip(*times[threaded], strict=True))
        found[f"{name}: ms a batch"], found[f"{name}: ms of a core"] = round(wall, 2), round(core, 2)
        found[f"{name}: img/s without a step"] = round(statistics.median(rates[threaded]))
    print(f"\n{found}")
    assert found["in a thread: ms of a core"] < found["in the loop: ms of a core"]
