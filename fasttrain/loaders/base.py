"""What every loader is: planned batches in, `(images, labels, ids)` out, resumable at any batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fasttrain.errors import UserError
from fasttrain.loaders.plan import Batch, Crop, EpochPlan
from fasttrain.loaders.to_device import copied_ahead

if TYPE_CHECKING:
    import torch

    from fasttrain.shards.reader import ShardSet

BadSamples = Sequence[tuple[int, str]]
"""(position in the batch, reason) of each photograph that could not be decoded."""


@dataclass(frozen=True)
class LoaderSettings:
    """What a loader needs beyond the shards. `crop` is None for evaluation (centre crops, index order).

    shuffle: "full" mixes all samples, "shards" those of a few shards at a time (see `plan.epoch_order`), for data
    larger than the memory that is left for the page cache.
    """

    batch_size: int
    image_size: int
    crop: Crop | None
    seed: int = 0
    workers: int = 0
    device: str = "cpu"
    rank: int = 0
    world_size: int = 1
    limit_batches: int | None = None
    shuffle: Literal["full", "shards"] = "full"


class Loader(ABC):
    """Iterates `(uint8 [n, H, W, 3] images, int64 [n] labels, int64 [n] ids)`, the short last batch included.

    Images lie on `settings.device` where that is CUDA; labels and ids are on the CPU. A subclass only turns planned
    batches into pixels (`_load`); order, boxes, flips, counting and resuming are the same for all of them.
    """

    name: ClassVar[str]

    def __init__(self, shards: ShardSet, ids: NDArray[np.int64], settings: LoaderSettings) -> None:
        self.shards = shards
        self.ids = ids
        self.settings = settings
        self.epoch = 0
        self._delivered = 0
        self._resume_at = 0

    @classmethod
    @abstractmethod
    def unavailable(cls, shards: ShardSet, device: str) -> str | None:
        """Why this loader can't read these shards on this machine, and the mend; None where it can."""

    @classmethod
    @abstractmethod
    def preference(cls, device: str) -> int:
        """`auto` takes the available loader with the greatest number."""

    @abstractmethod
    def _load(self, batches: Callable[[], Iterator[Batch]]) -> Iterator[tuple[torch.Tensor, BadSamples]]:
        """Pixels, uint8 [n, H, W, 3], and the bad samples of each planned batch, in order."""

    def plan(self) -> EpochPlan:
        """The whole current epoch, for all ranks."""
        sizes, settings = self.shards.sizes(), self.settings
        if settings.crop is None:
            return EpochPlan.evaluation(self.ids, sizes, size=settings.image_size)
        return EpochPlan.training(
            self.ids,
            sizes,
            seed=settings.seed,
            epoch=self.epoch,
            size=settings.image_size,
            crop=settings.crop,
            shards=self.shards.index["shard"][self.ids].astype(np.int64) if settings.shuffle == "shards" else None,
        )

    def __len__(self) -> int:
        """Batches in a whole epoch on this rank, wherever a resumed one starts."""
        per_step = self.settings.batch_size * self.settings.world_size
        return self._limited(-(-len(self.ids) // per_step))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        import torch

        settings = self.settings
        plan = self.plan().rest(self._resume_at)
        first_batch = self._resume_at // (settings.batch_size * settings.world_size)
        count = self._limited(plan.batch_count(settings.batch_size, settings.world_size) + first_batch) - first_batch
        self._delivered, self._resume_at = self._resume_at, 0
        labels = self.shards.labels()

        def part(number: int) -> Batch:
            return plan.batch(number, settings.batch_size, settings.rank, settings.world_size)

        def planned() -> Iterator[Batch]:
            return filter(len, map(part, range(count)))

        def decoded() -> Iterator[tuple[Batch, torch.Tensor, BadSamples]]:
            pixels = copied_ahead(self._load(planned), settings.device)
            for batch, (images, bad) in zip(planned(), pixels, strict=True):
                yield batch, images, bad
            if count and not len(last := part(count - 1)):  # only of the last global batch
                yield last, torch.empty((0, *plan.size, 3), dtype=torch.uint8), ()

        for number, (batch, images, bad) in enumerate(decoded()):
            for position, reason in bad:
                raise UserError(self.shards.describe(int(batch.ids[position])) + f": {reason}; run convert again")
            step = settings.batch_size * settings.world_size
            self._delivered += min(step, len(plan.ids) - number * step)
            yield images, torch.from_numpy(labels[batch.ids]), torch.from_numpy(batch.ids)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration runs; a resume point in another epoch is dropped."""
        if epoch != self.epoch:
            self._delivered = self._resume_at = 0
        self.epoch = epoch

    def set_image_size(self, side: int) -> None:
        """The next iteration gives pictures of `side` px; what a loader holds for the former size, it makes again."""
        self.settings = replace(self.settings, image_size=side)

    def state_dict(self) -> dict[str, int]:
        """Where the iteration stands: samples delivered over all ranks, not those prefetched."""
        return {"epoch": self.epoch, "samples": self._delivered}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration goes on right after the samples delivered when `state` was taken."""
        self.epoch = state["epoch"]
        self._delivered = self._resume_at = state["samples"]

    def close(self) -> None:  # noqa: B027 - most loaders hold nothing that outlives an iteration
        """Ends worker processes and threads."""

    def _limited(self, count: int) -> int:
        return count if self.settings.limit_batches is None else min(count, self.settings.limit_batches)
