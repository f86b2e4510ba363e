"""The interface and the common parts of all loaders, which turn planned batches into `(images, labels, ids)`."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fasttrain.errors import UserError, no_memory
from fasttrain.loaders.checksums import Checksums
from fasttrain.loaders.plan import BadSamples, Batch, CropRule, EpochPlan, View
from fasttrain.loaders.to_device import copied_ahead

if TYPE_CHECKING:
    import torch

    from fasttrain.shards.reader import Located, ShardSet

log = logging.getLogger("fasttrain")


@dataclass(frozen=True)
class LoaderSettings:
    """The settings of a loader, besides the shards.

    `batch_size`: the batch size of each rank. `image_size`: the side of the square images in pixels. `crop`: the rule
    for crops and flips in training. If it is None, the loader evaluates: with centre crops, in the order of the index.
    `further_views`: additional images of each photograph, besides the one that `image_size` and `crop` describe.
    `workers`: the number of decoding threads or processes. `device`: the device of the images. `rank`, `world_size`:
    this process delivers part `rank`, counted from 0, of the `world_size` parts of each global batch. `limit_batches`:
    the most batches per epoch, None for all.

    `shuffle`: "full" mixes all samples; "shards" mixes the samples of a few shards at a time (see `plan.epoch_order`),
    for data larger than the page cache; "none" keeps the order of the index. `sampling`: "balanced" delivers every
    class equally often in each shuffled epoch (see `plan.balanced_order`). `on_bad_sample`: "error" stops at the first
    sample that has changed since its conversion or can't be decoded; "skip" leaves such samples out of their batches,
    reports each once, and stops if there are too many. `report`: called with a line about each skipped sample.
    """

    batch_size: int
    image_size: int
    crop: CropRule | None
    seed: int = 0
    workers: int = 0
    device: str = "cpu"
    rank: int = 0
    world_size: int = 1
    limit_batches: int | None = None
    shuffle: Literal["full", "shards", "none"] = "full"
    sampling: Literal["none", "balanced"] = "none"
    on_bad_sample: Literal["error", "skip"] = "error"
    further_views: tuple[View, ...] = ()
    report: Callable[[str], None] = log.warning

    def most_bad(self, samples: int) -> int:
        """Return how many bad samples an epoch may have on each rank: 1 % of the rank's `samples`, but at least 10."""
        return max(10, samples // (100 * self.world_size))


class Loader(ABC):
    """Iterate over `(uint8 [n, H, W, 3] images, int64 [n] labels, int64 [n] ids)`, including a short last batch.

    Labels of multi-label shards are float32 [n, classes], 1 for each class of a photograph. Images are on
    `settings.device` if that is CUDA; labels and ids are on the CPU.

    A subclass only turns planned batches into pixels (`_load`). This class does everything else: the order, the crop
    boxes and flips, counting, resuming, and skipping bad samples. A sample is bad if its bytes have changed or can't be
    decoded. Bad samples are left out of their batch, even if the batch becomes empty.

    `bad_samples`: a dict with the id and the reason of each bad sample that this process met in the current epoch.
    `why`: the reason for choosing this loader, if it was chosen automatically, otherwise "".
    """

    name: str
    why: str = ""
    _checksums: Checksums | None = None

    def __init__(self, shards: ShardSet, ids: NDArray[np.int64], settings: LoaderSettings) -> None:
        self.shards = shards
        self.ids = ids
        self.settings = settings
        self.epoch = 0
        self._delivered = 0
        self._resume_at = 0
        self.bad_samples: dict[int, str] = {}
        self._bad_before = 0
        self._reported: set[int] = set()

    @abstractmethod
    def _load(self, batches: Sequence[Batch]) -> Iterator[tuple[torch.Tensor, BadSamples]]:
        """Yield the pixels, uint8 [n, H, W, 3], and the bad samples of each planned batch, in order."""

    def plan(self) -> EpochPlan:
        """Return the plan of the current epoch: the order, crops and flips of all samples, for all ranks."""
        sizes, settings = self.shards.sizes(), self.settings
        if settings.crop is None:
            return EpochPlan.evaluation(self.ids, sizes, size=settings.image_size)
        seed, epoch, size, crop = settings.seed, self.epoch, settings.image_size, settings.crop
        if settings.shuffle == "none":
            return EpochPlan.in_order(self.ids, sizes, seed=seed, epoch=epoch, size=size, crop=crop)
        shards = self.shards.index["shard"][self.ids].astype(np.int64) if settings.shuffle == "shards" else None
        return EpochPlan.training(
            self.ids,
            sizes,
            seed=seed,
            epoch=epoch,
            size=size,
            crop=crop,
            shards=shards,
            balanced=self.shards.class_numbers(self.ids) if settings.sampling == "balanced" else None,
        )

    def plans(self) -> list[EpochPlan]:
        """Return the current epoch's plans, one for each view: a view is an augmented copy of every photograph.

        A plan holds the order of the samples and their crops. All plans have the same samples in the same order.
        """
        first, settings = self.plan(), self.settings
        seed, epoch, sizes = settings.seed, self.epoch, self.shards.sizes()
        return [first] + [
            EpochPlan.in_order(
                first.ids,
                sizes,
                seed=seed,
                epoch=epoch,
                size=view.size,
                crop=view.crop,
                view=number,
                draws=first.draws,
            )
            for number, view in enumerate(settings.further_views, 1)
        ]

    def __len__(self) -> int:
        """Return the number of batches in a full epoch on this rank. A resumed epoch may have fewer."""
        per_step = self.settings.batch_size * self.settings.world_size
        return self._limited(-(-len(self.ids) // per_step))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        with closing(self.views()) as batches:
            for (images, *_), labels, ids in batches:
                yield images, labels, ids

    def views(self) -> Generator[tuple[list[torch.Tensor], torch.Tensor, torch.Tensor], None, None]:
        """Yield (images, labels, ids) as `__iter__` does, but `images` is a list: uint8 [n, H, W, 3] for each view."""
        import torch

        settings = self.settings
        step = settings.batch_size * settings.world_size
        plans, first = [plan.rest(self._resume_at) for plan in self.plans()], self._resume_at // step
        left = len(plans[0])
        # Nothing is left if an epoch with this batch size, limited to fewer batches, would already have ended.
        count = max(self._limited(plans[0].batch_count(settings.batch_size, settings.world_size) + first) - first, 0)
        share = settings.batch_size, settings.rank, settings.world_size
        batches = [[plan.batch(each, *share) for plan in plans] for each in range(count)]
        if not self._resume_at:
            self._bad_before = 0
        self.bad_samples = {}
        self._delivered, self._resume_at = self._resume_at, 0
        for number, (ids, images) in enumerate(self._decoded(batches)):
            self._delivered += min(step, left - number * step)
            # Empty batches are delivered, too: other ranks take this step, or it ends an accumulation group.
            yield images, torch.from_numpy(self.shards.labels(ids)), torch.from_numpy(ids)

    def decode_batch(self, batch: Batch) -> torch.Tensor:
        """Return the images of one batch that isn't empty. The position of the iteration doesn't change."""
        ((_, (images,)),) = self._decoded([[batch]])
        return images

    def _decoded(self, batches: list[list[Batch]]) -> Iterator[tuple[NDArray[np.int64], list[torch.Tensor]]]:
        """Yield the ids and the images of each view for each batch, without its bad samples."""
        import torch

        planned = [views for views in batches if len(views[0])]
        in_turn = [batch for views in planned for batch in views]
        # Close it here, so that a decoder's pending work does not wait for the garbage collector after an error.
        with closing(copied_ahead(self._load(in_turn), self.settings.device)) as pixels:
            # Start the checksums after the loader: they use a thread, and `_load` may fork.
            first_views = [views[0] for views in planned]
            changed: Iterable[BadSamples]
            changed = self._checksums.changed_samples(first_views) if self._checksums else [()] * len(planned)
            by_batch = _grouped(pixels, 1 + len(self.settings.further_views))
            for batch, (pictures, bad), other in zip(first_views, by_batch, changed, strict=True):
                yield self._without_bad(batch, pictures, {**bad, **dict(other)})
        for views in batches[len(planned) :]:  # this rank has no share of the last global batch
            yield views[0].ids, [torch.empty((0, *view.size, 3), dtype=torch.uint8) for view in views]

    @property
    def bad_count(self) -> int:
        """The number of samples left out of the epoch so far. After a resume, rank 0 also counts the samples left out
        before."""
        return self._bad_before + len(self.bad_samples)

    def _without_bad(
        self, batch: Batch, pictures: list[torch.Tensor], bad: dict[int, str]
    ) -> tuple[NDArray[np.int64], list[torch.Tensor]]:
        """Return the ids and images of `batch` without bad samples, and report the bad samples.

        `bad`: the positions of the bad samples in the batch, with the reasons.
        """
        if not bad:
            return batch.ids, pictures
        import torch

        for position in sorted(bad):
            self._record_bad(int(batch.ids[position]), bad[position])
        bounds = [-1, *sorted(bad), len(batch)]
        # Use slices, because a list of positions would be copied to the GPU while the host waits.
        kept = [slice(before + 1, after) for before, after in pairwise(bounds)]
        ids = np.concatenate([batch.ids[each] for each in kept])
        return ids, [torch.cat([images[each] for each in kept]) for images in pictures]

    def _record_bad(self, sample: int, reason: str) -> None:
        """Record and report a bad sample. Raises UserError if `on_bad_sample` is "error", or if there are too many bad
        samples."""
        settings, problem = self.settings, f"{self.shards.describe(sample)}: {reason}"
        lists = f"`fasttrain inspect {self.shards.location} --verify` lists everything that is broken"
        if no_memory(reason):
            raise MemoryError(f"at {problem}")
        if settings.on_bad_sample == "error":
            raise UserError(f"{problem}; {lists}; copy the file again, or skip such samples with --on-bad-sample skip")
        self.bad_samples[sample] = reason
        if sample not in self._reported:
            self._reported.add(sample)
            settings.report(f"bad sample left out: {problem}")
        # The count from before a resume covers all ranks.
        met = self.bad_count if settings.world_size == 1 else len(self.bad_samples)
        if met > (most := settings.most_bad(len(self.ids))):
            raise UserError(
                f"{problem}; more than {most:,} bad samples in one epoch; {lists}; copy or convert the data again"
            )

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration. If it changes, the position from `load_state_dict` is dropped."""
        if epoch != self.epoch:
            self._delivered = self._resume_at = self._bad_before = 0
            self.bad_samples = {}
        self.epoch = epoch

    def set_image_size(self, side: int) -> None:
        """Set the image side, in px, for the next iteration. Anything the loader holds for another size is rebuilt."""
        self.settings = replace(self.settings, image_size=side)

    def state_dict(self) -> dict[str, int]:
        """Return the position of the iteration: "epoch", and "samples", the number delivered over all ranks.

        Prefetched samples are not counted. "bad_samples" is the number of samples left out, if there were any.
        """
        bad = {"bad_samples": self.bad_count} if self.bad_count else {}
        return {"epoch": self.epoch, "samples": self._delivered, **bad}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration continue right after the samples delivered when `state` was taken."""
        self.epoch = state["epoch"]
        self._delivered = self._resume_at = state["samples"]
        self._bad_before = state.get("bad_samples", 0) if self.settings.rank == 0 else 0
        self.bad_samples = {}

    def holding_memory(self, batch_size: int) -> AbstractContextManager[None]:
        """Return a context that holds the GPU memory that this loader needs to decode batches of `batch_size`.

        In it one can measure whether the model fits beside the loader. Only `DaliLoader` on a GPU needs such memory.
        """
        return nullcontext()

    def close(self) -> None:
        """End worker processes and threads."""
        if self._checksums is not None:
            self._checksums.close()

    def _limited(self, count: int) -> int:
        """Return `count`, or the limit of batches if that is smaller."""
        return count if self.settings.limit_batches is None else min(count, self.settings.limit_batches)


def _grouped(
    pixels: Iterable[tuple[torch.Tensor, BadSamples]], views: int
) -> Iterator[tuple[list[torch.Tensor], dict[int, str]]]:
    """Yield the images of `views` batches at a time, with the bad samples of all of them."""
    pictures: list[torch.Tensor] = []
    bad: dict[int, str] = {}
    for images, problems in pixels:
        pictures.append(images)
        del images  # its memory is reused once the consumer releases it
        bad.update(problems)
        if len(pictures) == views:
            yield pictures, bad
            pictures, bad = [], {}


class ShardLoader(Loader):
    """A loader that decodes the photographs of shards, checks their bytes, and can be chosen by name."""

    def __init__(self, shards: ShardSet, ids: NDArray[np.int64], settings: LoaderSettings) -> None:
        super().__init__(shards, ids, settings)
        self._checksums = Checksums(shards, self._locate)

    @classmethod
    @abstractmethod
    def unavailable(cls, shards: ShardSet, device: str) -> str | None:
        """Return why this loader can't read these shards on this machine, with the fix, or None if it can."""

    @classmethod
    @abstractmethod
    def preference(cls, device: str) -> int:
        """Return how fast this loader is on `device` compared with others: `auto` chooses the greatest number."""

    def _locate(self, samples: NDArray[np.int64]) -> Located:
        """Return where this loader reads the bytes of `samples`, int64 [n]."""
        return self.shards.locate(samples)
