"""images/s of each loader on the same photographs: RandomResizedCrop 224, flip, batch 64, one worker a core."""

from __future__ import annotations

import resource

import pytest

from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.registry import LOADERS, loader_class
from fasttrain.training.device import choose_workers


def cpu_seconds() -> float:
    """User and system seconds of this process and of the workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@pytest.mark.parametrize("name", list(LOADERS))
def test_training_epoch(name, shards, benchmark):
    kind = loader_class(name)
    if reason := kind.unavailable(shards, "cpu"):
        pytest.skip(reason)
    settings = LoaderSettings(64, 224, Crop(), workers=choose_workers(None))
    loader = kind(shards, shards.ids("train"), settings)
    epochs = iter(range(1_000_000))

    def epoch() -> int:
        loader.set_epoch(next(epochs))
        return sum(len(labels) for _, labels, _ in loader)

    before = cpu_seconds()
    images = benchmark.pedantic(epoch, rounds=3, warmup_rounds=1)
    loader.close()
    benchmark.extra_info["img/s"] = round(images / benchmark.stats["median"])
    benchmark.extra_info["cpu_ms_per_image"] = round((cpu_seconds() - before) / (4 * images) * 1000, 3)
    print(f"\n{name}: {benchmark.extra_info}")
