"""Loaders of a known speed, in the place of those that decode."""

from __future__ import annotations

from time import sleep

import torch

from fasttrain.loaders.base import ShardLoader


class Clock:
    """Stands still but for what sleeps, and a microsecond each time it is read."""

    def __init__(self) -> None:
        self._now = 0.0

    def perf_counter(self) -> float:
        self._now += 1e-6
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds


class InstantLoader(ShardLoader):
    """Noise at once: of grey pictures BatchNorm's gradients overflow."""

    name = "instant"

    @classmethod
    def unavailable(cls, shards, device):
        return None

    @classmethod
    def preference(cls, device):
        return 1000

    def _load(self, batches):
        for batch in batches:
            seeded = torch.Generator().manual_seed(int(batch.ids[0]))
            yield torch.randint(0, 256, (len(batch), *batch.size, 3), dtype=torch.uint8, generator=seeded), ()


class SlowLoader(InstantLoader):
    """The same, a fifth of a second a batch."""

    name = "slow"
    SECONDS = 0.2

    @classmethod
    def preference(cls, device):
        return -1

    def _load(self, batches):
        for pictures in super()._load(batches):
            sleep(self.SECONDS)
            yield pictures
