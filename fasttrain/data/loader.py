"""`fasttrain.Loader`: the data pipeline, for custom training loops and for `train`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.data.crops import PlannedCrop, as_crop
from fasttrain.data.splits import check_split, split_ids
from fasttrain.data.transforms import BEFORE_NORMALIZE, Normalize, Transform, Transforms
from fasttrain.device import choose_device, choose_workers
from fasttrain.errors import UserError
from fasttrain.loaders import base
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import BadSamples, Batch, CenterShare, centre_boxes
from fasttrain.loaders.registry import choose_loader, loader_class
from fasttrain.photos.cut import native_available
from fasttrain.shards.convert import ensure_shards
from fasttrain.shards.reader import ShardSet
from fasttrain.shards.unconverted import open_photographs

log = logging.getLogger("fasttrain")


class Loader(base.Loader):
    """Iterate over batches of decoded, cropped and resized photographs: `(images, labels)`.

        loader = Loader("shards", batch_size=256, crop=RandomResizedCrop(224), hflip=0.5, device="cuda")
        for epoch in range(10):
            for images, labels in loader:
                ...

    Each pass is the next epoch, with other crops in another order. Crops and order depend only on (seed, epoch,
    photograph), so they are the same for any loader, number of workers and number of ranks.

    `images` are uint8 [n, H, W, 3], or with `output` "float" normalized float32 [n, 3, H, W] in channels-last memory.
    They are on `device` if that is CUDA, otherwise on the CPU. `labels` are int64 [n], positions in `classes`; for
    multi-label shards they are float32 [n, classes], 1 for each class of a photograph.
    """

    batch_sampler = None  # Lightning reads it if there is a `sampler`

    def __init__(
        self,
        data: str | Path | ShardSet,
        *,
        convert: bool = True,
        split: str = "train",
        batch_size: int = 256,
        crop: PlannedCrop | int | None = None,
        views: Sequence[PlannedCrop] | None = None,
        hflip: float | None = None,
        vflip: float = 0.0,
        transforms: Sequence[Transform] = (),
        output: Literal["uint8", "float"] = "uint8",
        shuffle: bool | Literal["shards"] | None = None,
        sampling: Literal["none", "balanced"] = "none",
        drop_last: bool = False,
        limit: int | None = None,
        ids: Sequence[int] | NDArray[np.int64] | None = None,
        loader: str = "auto",
        workers: int | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
        with_ids: bool = False,
        extra_labels: Sequence[str] = (),
        on_bad_sample: Literal["error", "skip"] = "error",
        rank: int | None = None,
        world_size: int | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """Open the data. Threads or processes start with the first pass.

        `data`: a folder of shards, their URL, an open `ShardSet`, or a folder of photographs, which is converted once
        into the cache. `convert`: False reads photographs directly from their folder instead. `split`: "train", "val",
        "test" or "all". `ids`: use only these samples, given as rows of the index.

        `crop`, `hflip`, `shuffle`: the defaults are `RandomResizedCrop(224)`, 0.5 and True for "train", and
        `CenterCrop(224)`, 0 and False for other splits. A number is the size of such a crop. Crops are bilinear unless
        they have `interpolation="bicubic"`. `hflip`, `vflip`: the probabilities of a horizontal and a vertical flip.
        `shuffle` "shards" mixes a few shards at a time, for data that does not fit into memory. `sampling`: "balanced"
        repeats and leaves out photographs so that every class comes equally often in a pass, which has as many
        photographs as before.

        `views`: several crops of each photograph instead of `crop`; `images` is then a list with a tensor for each.
        `transforms`: applied to a batch on its device, in this order: `RandAugment` or `TrivialAugment`, `ColorJitter`,
        `RandomErasing`, `Normalize`, `Mixup` or `CutMix`, your own functions of the images. After `Mixup` or `CutMix`,
        labels are float32 [n, classes]. `output`: "float" adds `Normalize()`.

        `drop_last`: leave out a short last batch. `limit`: the maximum number of batches per pass. `loader`: "auto",
        "native", "dali", "ffcv" or "torchvision". `workers`: threads or processes, by default one per core. `with_ids`:
        also yield int64 [n], row numbers of the index. `extra_labels`: columns of the table that the photographs were
        converted from; each batch then ends with a dictionary of these columns, with tensors for numbers and booleans,
        and lists for anything else. `on_bad_sample`: "skip" leaves out photographs that have changed or can't be
        decoded, and passes a line about each to `report`, by default the log. `rank`, `world_size`: by default those of
        `torch.distributed`.

        Raises UserError, one line, for invalid or unavailable settings.
        """
        check_split(split)
        training = split == "train"
        if views is not None and crop is not None:
            raise UserError("crop and views exclude each other; leave one of them out")
        if views is not None and not views:
            raise UserError("views is empty; give at least one crop")
        crops = [as_crop(each, training=training) for each in ([crop] if views is None else views)]
        hflip = (0.5 if training else 0.0) if hflip is None else hflip
        shuffle = training if shuffle is None else shuffle
        for name, value, least in (("batch_size", batch_size, 1), ("limit", limit, 1), ("workers", workers, 0)):
            if value is not None and value < least:
                raise UserError(f"{name} = {value}: give at least {least}")
        _check_arguments(hflip, vflip, shuffle, sampling, output, on_bad_sample)
        rank, world_size = _ranks(rank, world_size)
        shards = data if isinstance(data, ShardSet) else _open(data, convert)
        if sampling == "balanced" and shards.multi_label:
            raise UserError(
                f"sampling = balanced needs one class per photograph, and {shards.location} is multi-label; weight "
                "rare classes with class_weights = balanced"
            )
        samples = split_ids(shards, split, shards.location) if ids is None else _check_ids(shards, ids)
        self._device = choose_device(str(device))
        kind, self.why = choose_loader(loader, shards, str(self._device))
        if kind.name == "ffcv" and len(np.unique(shards.index["split"][samples])) > 1:
            raise UserError("loader = 'ffcv' reads one split at a time: give split='train', or another loader")
        full = len(samples) // (batch_size * world_size) if drop_last else None
        first, *further = (each.view(hflip, vflip) for each in crops)
        settings = LoaderSettings(
            batch_size=batch_size,
            image_size=first.size,
            crop=first.crop,
            further_views=tuple(further),
            seed=seed,
            workers=choose_workers(workers),
            device=str(self._device),
            rank=rank,
            world_size=world_size,
            limit_batches=min((each for each in (limit, full) if each is not None), default=None),
            shuffle="shards" if shuffle == "shards" else "full" if shuffle else "none",
            sampling=sampling,
            on_bad_sample=on_bad_sample,
            report=report or log.warning,
        )
        super().__init__(shards, samples, settings)
        self.name = kind.name
        self._back_end = kind(shards, samples, settings)
        self._checksums = self._back_end._checksums
        self._random_access: base.ShardLoader | None = None
        self._yield_views = views is not None
        self._with_ids = with_ids
        self._extra = _columns(shards, extra_labels)
        if output == "float" and not any(isinstance(each, Normalize) for each in transforms):
            transforms = _with_normalize(transforms)
        self._transforms = Transforms(
            transforms, samples, seed=seed, classes=len(shards.classes), views=len(crops), device=self._device
        )
        self._pass: Generator[tuple[Any, ...], None, None] | None = None
        self._epoch_chosen = False

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Start a pass and end the previous one. If the previous pass was stopped early, its epoch starts again."""
        if self._pass is not None:
            self._pass.close()
        if not self._epoch_chosen and self._all_delivered():
            super().set_epoch(self.epoch + 1)
        self._epoch_chosen = False
        self._pass = self._batches()
        return self._pass

    def _batches(self) -> Generator[tuple[Any, ...], None, None]:
        for views, labels, ids in self.views():
            pictures, targets = self._transforms(views, labels, ids.numpy(), self.epoch)
            batch: tuple[Any, ...] = (pictures if self._yield_views else pictures[0], targets)
            if self._with_ids:
                batch += (ids,)
            yield (
                (*batch, {name: _select(column, ids) for name, column in self._extra.items()}) if self._extra else batch
            )

    def _load(self, batches: Sequence[Batch]) -> Iterator[tuple[torch.Tensor, BadSamples]]:
        return self._back_end._load(batches)

    def _all_delivered(self) -> bool:
        # Don't rely on the end of the pass: loops that count batches never request one more than there are.
        a_step = self.settings.batch_size * self.settings.world_size
        return 0 < min(len(self.ids), len(self) * a_step) <= self._delivered

    @property
    def sampler(self) -> Loader:
        """This loader, because Lightning and timm choose the epoch by `loader.sampler.set_epoch`."""
        return self

    @property
    def classes(self) -> list[str]:
        """The names of the classes, by label."""
        return list(self.shards.classes)

    @property
    def samples(self) -> int:
        """The number of photographs in the split, over all ranks."""
        return len(self.ids)

    def decode(
        self, ids: Sequence[int] | NDArray[np.int64], boxes: NDArray[np.int32] | None = None, *, size: int | None = None
    ) -> torch.Tensor:
        """Return images of any samples, uint8 [n, size, size, 3], on the CPU, independent of the current pass.

        `ids` are row numbers of the index. `boxes`: int32 [n, 4], (top, left, height, width) in pixels of each
        photograph; by default a centred square of 0.875 of the short side. `size`: the side in pixels, by default that
        of the loader's crop. The resizing filter is that of the loader's crop. Raises UserError for a box that is not
        within its photograph, and for a photograph that can't be decoded.
        """
        samples = _check_ids(self.shards, ids)
        side = self.settings.image_size if size is None else size
        sizes = self.shards.sizes()[samples]
        if boxes is None:
            boxes = centre_boxes(sizes, CenterShare.share)
        crop = self.settings.crop
        batch = Batch(
            samples,
            _check_boxes(boxes, samples, sizes),
            np.zeros(len(samples), np.bool_),
            (side, side),
            interpolation="bilinear" if crop is None else crop.interpolation,
        )
        if not len(samples):
            return torch.empty((0, side, side, 3), dtype=torch.uint8)
        if self._random_access is None:
            settings = replace(self.settings, device="cpu", on_bad_sample="error", further_views=())
            if native_available():
                self._random_access = loader_class("native")(self.shards, samples, settings)
            else:
                self._random_access = loader_class("torchvision")(self.shards, samples, replace(settings, workers=0))
        return self._random_access.decode_batch(batch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass."""
        super().set_epoch(epoch)
        self._epoch_chosen = True

    def set_image_size(self, side: int) -> None:
        """Set the image size of the next pass, in pixels."""
        super().set_image_size(side)
        self._back_end.set_image_size(side)

    def holding_memory(self, batch_size: int) -> AbstractContextManager[None]:
        return self._back_end.holding_memory(batch_size)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next pass continue right after the batches delivered when `state` was taken."""
        super().load_state_dict(state)
        self._epoch_chosen = False

    def close(self) -> None:
        """End the current pass, threads and processes."""
        if self._pass is not None:
            self._pass.close()
        self._back_end.close()
        if self._random_access is not None:
            self._random_access.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _columns(shards: ShardSet, names: Sequence[str]) -> dict[str, torch.Tensor | list[Any]]:
    """Return the columns of extra labels called `names`. Raises UserError if one doesn't exist."""
    if not names:
        return {}
    found = shards.extra_labels()
    if missing := [name for name in names if name not in found]:
        there = ", ".join(found) or "none: convert a table with more columns"
        raise UserError(f"extra_labels: {shards.location} has no column '{missing[0]}'; it has {there}")
    return {
        name: torch.from_numpy(column) if isinstance(column := found[name], np.ndarray) else column for name in names
    }


def _select(column: torch.Tensor | list[Any], ids: torch.Tensor) -> torch.Tensor | list[Any]:
    return [column[each] for each in ids.tolist()] if isinstance(column, list) else column[ids]


def _open(data: str | Path, convert: bool) -> ShardSet:
    return ShardSet.open(ensure_shards(data)) if convert else open_photographs(data)


def _check_ids(shards: ShardSet, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `ids` as int64 [n]. Raises UserError if one is out of range."""
    samples = np.asarray(ids, dtype=np.int64).reshape(-1)
    if len(outside := samples[(samples < 0) | (samples >= len(shards))]):
        raise UserError(
            f"ids: there is no sample {outside[0]} in {shards.location}; give numbers from 0 to {len(shards) - 1:,}"
        )
    return samples


def _check_boxes(boxes: NDArray[np.int32], samples: NDArray[np.int64], sizes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return `boxes` as int32 [n, 4]. Raises UserError if one isn't within its photograph."""
    found = np.ascontiguousarray(boxes, dtype=np.int32)
    if found.shape != (len(samples), 4):
        raise UserError(
            f"boxes: the shape is {found.shape}; give ({len(samples)}, 4): (top, left, height, width) of each box"
        )
    wrong = (found[:, :2] < 0).any(1) | (found[:, 2:] < 1).any(1) | (found[:, :2] + found[:, 2:] > sizes).any(1)
    if wrong.any():
        row = int(wrong.argmax())
        height, width = sizes[row]
        raise UserError(
            f"boxes: {found[row].tolist()} lies outside of sample {samples[row]}, {width} x {height} px; give a box "
            "within the photograph"
        )
    return found


def _with_normalize(transforms: Sequence[Transform]) -> list[Transform]:
    before = [each for each in transforms if isinstance(each, BEFORE_NORMALIZE)]
    return [*before, Normalize(), *transforms[len(before) :]]


def _check_arguments(hflip: float, vflip: float, shuffle: Any, sampling: str, output: str, on_bad: str) -> None:
    rules = {
        f"hflip = {hflip}: give a probability, 0 to 1": 0 <= hflip <= 1,
        f"vflip = {vflip}: give a probability, 0 to 1": 0 <= vflip <= 1,
        f"shuffle = {shuffle!r} is not one of True, False, 'shards'": shuffle in (True, False, "shards"),
        f"sampling = {sampling!r} is not one of none, balanced": sampling in ("none", "balanced"),
        f"sampling = {sampling!r} needs shuffling: give shuffle=True or 'shards'": sampling == "none" or shuffle,
        f"output = {output!r} is not one of uint8, float": output in ("uint8", "float"),
        f"on_bad_sample = {on_bad!r} is not one of error, skip": on_bad in ("error", "skip"),
    }
    for problem, valid in rules.items():
        if not valid:
            raise UserError(problem)


def _ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return rank and world size: the given ones, or else those of `torch.distributed`, or else 0 and 1."""
    import torch.distributed as dist

    if rank is None and world_size is None and dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    if rank is None and world_size is None and (started := os.environ.get("WORLD_SIZE", "1")) != "1":
        log.warning(
            "WORLD_SIZE is %s, but torch.distributed isn't initialized: this loader delivers all batches, not those "
            "of a rank; initialize it first, or give rank and world_size",
            started,
        )
    rank, world_size = rank or 0, world_size or 1
    if not 0 <= rank < world_size:
        raise UserError(f"rank = {rank} of world_size = {world_size}: give 0 to {world_size - 1}")
    return rank, world_size
