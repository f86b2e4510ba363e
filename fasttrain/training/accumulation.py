"""Gradient accumulation: which batches make one optimizer step, and how each of them counts in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasttrain.loaders.base import Loader


@dataclass(frozen=True)
class Groups:
    """Groups of batches over an epoch, or over what a resumed one has left; its last group may be smaller.

    first: samples delivered before. total: the epoch's. size: a whole group's. All of them over all ranks.
    """

    first: int
    total: int
    size: int

    @staticmethod
    def of(loader: Loader, batches: int) -> Groups:
        """Groups of `batches` batches of what `loader` has still to deliver in its epoch."""
        per_batch = loader.settings.batch_size * loader.settings.world_size
        total = min(len(loader.ids), len(loader) * per_batch)
        return Groups(loader.state_dict()["samples"], total, batches * per_batch)

    def share(self, delivered: int, samples: int) -> float:
        """Of its group's samples, the share of the batch of `samples` with which `delivered` of the epoch's have come.

        Means over batches, weighted so, add up to the mean over the group.
        """
        begun = self.begin(delivered, samples) - self.first
        return samples / min(self.size, self.total - self.first - begun)

    def begin(self, delivered: int, samples: int) -> int:
        """How many of the epoch's samples had come before the group of that batch."""
        return self.first + (delivered - samples - self.first) // self.size * self.size

    def complete(self, delivered: int) -> bool:
        """Whether the batch with which `delivered` samples have come is the last of its group."""
        return (delivered - self.first) % self.size == 0 or delivered >= self.total
