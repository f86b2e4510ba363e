"""Measure DALI's gain from slices, on the CPU: RandomResizedCrop 224, flip, batch 64, the same pixels in both."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest

from fasttrain.device import choose_workers
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.dali import DaliLoader
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.slices import can_slice, complete_jpegs, sliced_jpegs
from fasttrain.photos.cut import jpeg_info
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet

BATCH = 64
ROUNDS = 3
MCU = {"4:2:0": (16, 16), "4:2:2": (8, 16), "4:4:0": (16, 8), "4:1:1": (8, 32), "4:4:4": (8, 8), "grey": (8, 8)}


def mcus(jpeg: np.ndarray) -> int:
    info = jpeg_info(jpeg)
    height, width = MCU[info["sampling"]]
    return -(-info["height"] // height) * -(-info["width"] // width)


def shares_fed(shards: ShardSet, loader: DaliLoader) -> dict[str, float]:
    """MCUs and bytes in an epoch's slices, over those of the whole photographs."""
    plan = loader.plan()
    counts = np.zeros((2, 2))
    for number in range(plan.batch_count(BATCH)):
        batch = plan.batch(number, BATCH)
        for row, feed in enumerate((sliced_jpegs, complete_jpegs)):
            jpegs, _ = feed(shards, batch)
            counts[row] += [sum(map(mcus, jpegs)), sum(map(len, jpegs))]
    of_mcus, of_bytes = (counts[0] / counts[1]).round(3).tolist()
    return {"share_of_mcus": of_mcus, "share_of_bytes": of_bytes}


@pytest.mark.parametrize("cut", ["mcu", "row"])
def test_dali_slices(cut, photographs, tmp_path, benchmark):
    pytest.importorskip("nvidia.dali")
    convert(str(photographs), tmp_path / cut, progress=False, cut=cut)
    shards = ShardSet.open(tmp_path / cut)
    assert can_slice(shards)
    settings = LoaderSettings(BATCH, 224, Crop(), workers=choose_workers(None))
    loaders = {}
    for sliced in (True, False):
        loaders[sliced] = DaliLoader(shards, shards.ids("train"), settings)
        loaders[sliced].sliced = sliced
    seconds: dict[bool, list[float]] = {True: [], False: []}
    rounds = iter(range(1_000_000))

    def both() -> None:
        # In turns, so that a busy moment of the machine hits both.
        number = next(rounds)
        for sliced in (True, False) if number % 2 else (False, True):
            loaders[sliced].set_epoch(number // 2)
            start = time.perf_counter()
            for _ in loaders[sliced]:
                pass
            seconds[sliced].append(time.perf_counter() - start)

    benchmark.pedantic(both, rounds=ROUNDS, warmup_rounds=1)
    images = len(shards.ids("train"))
    speed = {sliced: images / statistics.median(each[1:]) for sliced, each in seconds.items()}
    benchmark.extra_info.update(
        {"img/s sliced": round(speed[True]), "img/s whole": round(speed[False])},
        **shares_fed(shards, loaders[True]),
    )
    for loader in loaders.values():
        loader.close()
    print(f"\ncut {cut}: {benchmark.extra_info}")
