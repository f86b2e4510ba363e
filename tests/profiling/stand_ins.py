"""Loaders of a known speed, in the place of those that decode."""

from __future__ import annotations

import time

import torch

from fasttrain.loaders.base import Loader


class InstantLoader(Loader):
    """Grey pictures at once."""

    name = "instant"

    @classmethod
    def unavailable(cls, shards, device):
        return None

    @classmethod
    def preference(cls, device):
        return 1000

    def _load(self, batches):
        for batch in batches():
            yield torch.full((len(batch), *batch.size, 3), 128, dtype=torch.uint8), ()


class SlowLoader(InstantLoader):
    """The same, a fifth of a second a batch."""

    name = "slow"
    SECONDS = 0.2

    @classmethod
    def preference(cls, device):
        return -1

    def _load(self, batches):
        for pictures in super()._load(batches):
            time.sleep(self.SECONDS)
            yield pictures
