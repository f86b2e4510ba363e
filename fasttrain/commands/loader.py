"""`fasttrain.Loader`: the data pipeline alone, for a training loop of one's own."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch

from fasttrain.device import choose_device, choose_workers
from fasttrain.errors import UserError
from fasttrain.evaluation.splits import check_split, split_ids
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import CenterShare, Crop
from fasttrain.loaders.registry import choose_loader
from fasttrain.model.preprocess import Normalise
from fasttrain.shards.convert import ensure_shards
from fasttrain.shards.format import ALL
from fasttrain.shards.reader import ShardSet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the photograph, resized to `size` x `size` px, as torchvision's transform of that name.

    scale: the crop's share of the area, at random between the two. ratio: its width over its height.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        _require_size(self.size)
        for name, (low, high), most in (("scale", self.scale, 1.0), ("ratio", self.ratio, float("inf"))):
            if not 0 < low <= high <= most:
                raise UserError(f"RandomResizedCrop({name}={(low, high)}): give two numbers above 0, the smaller first")


@dataclass(frozen=True)
class CenterCrop:
    """The centred square of `crop_pct` of the short side, resized to `size` x `size` px: timm's `crop_pct`."""

    size: int
    crop_pct: float = 0.875

    def __post_init__(self) -> None:
        _require_size(self.size)
        if not 0 < self.crop_pct <= 1:
            raise UserError(f"CenterCrop(crop_pct={self.crop_pct}): give a share above 0 and up to 1, such as 0.875")


class Loader:
    """Iterate over batches of photographs, decoded, cropped and resized: `(images, labels)`, or with ids.

        loader = Loader("shards", batch_size=256, crop=RandomResizedCrop(224), hflip=0.5, device="cuda")
        for epoch in range(10):
            for images, labels in loader:
                ...

    Each pass is the next epoch, with other crops in another order; they depend on (seed, epoch, photograph) alone, so
    any loader, number of workers and number of ranks delivers the same. `images` are uint8 [n, H, W, 3], or, with
    `output` "float", float32 [n, 3, H, W] in channels-last memory, normalized by `mean` and `std`. `labels` are int64
    [n], positions in `classes`. Images lie on `device` where that is CUDA.
    """

    batch_sampler = None  # Lightning asks for it wherever there is a `sampler`

    def __init__(
        self,
        data: str | Path,
        *,
        split: str = "train",
        batch_size: int = 256,
        crop: RandomResizedCrop | CenterCrop | int | None = None,
        hflip: float | None = None,
        shuffle: bool | Literal["shards"] | None = None,
        drop_last: bool = False,
        limit: int | None = None,
        loader: str = "auto",
        workers: int | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
        output: Literal["uint8", "float"] = "uint8",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        with_ids: bool = False,
        extra_labels: Sequence[str] = (),
        on_bad_sample: Literal["error", "skip"] = "error",
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """Open the data; threads or processes start with the first pass.

        data: a folder of shards, their URL, or a folder of photographs, which is converted once into the cache.
        split: "train", "val", "test" or "all". crop, hflip, shuffle: for "train" by default `RandomResizedCrop(224)`,
        0.5 and True, for others `CenterCrop(224)`, 0 and False. A number is the size of such a crop. `shuffle`
        "shards" mixes a few shards at a time, for data that don't fit into memory. drop_last: leaves out a short last
        batch. limit: batches a pass at the most.
        loader: "auto", "native", "dali", "ffcv" or "torchvision". workers: threads or processes, one a core by default.
        with_ids: yields int64 [n] row numbers of the index as well. extra_labels: columns of the table that the
        photographs were converted from; each batch then ends with a dictionary of these, tensors of numbers and truth
        values, lists of all else. on_bad_sample: "skip" leaves out photographs that
        have changed or don't decode, and logs each. rank, world_size: those of `torch.distributed` by default.

        Raises UserError, one line, for what can't be had.
        """
        check_split(split)
        training = split == "train"
        crop = _crop(crop, training)
        flip = (0.5 if training else 0.0) if hflip is None else hflip
        shuffle = training if shuffle is None else shuffle
        if batch_size < 1 or (limit is not None and limit < 1) or (workers is not None and workers < 0):
            given = f"batch_size = {batch_size}, limit = {limit}, workers = {workers}"
            raise UserError(f"{given}: give at least 1, and no negative number of workers")
        _check(flip, shuffle, output, on_bad_sample)
        rank, world_size = _ranks(rank, world_size)
        self._shards = ShardSet.open(ensure_shards(data))
        ids = split_ids(self._shards, split, data)
        self._device = choose_device(str(device))
        kind, _ = choose_loader(loader, self._shards, str(self._device))
        if split == ALL and kind.name == "ffcv":
            raise UserError("loader = 'ffcv' reads one split at a time: give split='train', or another loader")
        whole = len(ids) // (batch_size * world_size) if drop_last else None
        self._loader = kind(
            self._shards,
            ids,
            LoaderSettings(
                batch_size=batch_size,
                image_size=crop.size,
                crop=_internal(crop, flip),
                seed=seed,
                workers=choose_workers(workers),
                device=str(self._device),
                rank=rank,
                world_size=world_size,
                limit_batches=min((each for each in (limit, whole) if each is not None), default=None),
                shuffle="shards" if shuffle == "shards" else "full" if shuffle else "none",
                on_bad_sample=on_bad_sample,
                report=logging.getLogger("fasttrain").warning,
            ),
        )
        self._with_ids = with_ids
        self._extra = _columns(self._shards, extra_labels)
        self._pass: Generator[tuple[Any, ...], None, None] | None = None
        self._epoch_chosen = False
        self._normalize: Normalise | None = None
        if output == "float":
            _check_statistics(mean, std)
            self._normalize = Normalise(tuple(mean), tuple(std), channels_last=True).to(self._device)

    def __len__(self) -> int:
        """Return the number of batches of a pass on this rank."""
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Start a pass, which ends the one before. One that is left early starts the same epoch again the next time."""
        if self._pass is not None:
            self._pass.close()
            if self._all_delivered() and not self._epoch_chosen:
                self._loader.set_epoch(self._loader.epoch + 1)
        self._epoch_chosen = False
        self._pass = self._batches()
        return self._pass

    def _all_delivered(self) -> bool:
        """Return whether the pass gave its last batch: loops that count batches never ask for one more."""
        settings = self._loader.settings
        batches = len(self._loader) * settings.batch_size * settings.world_size
        return 0 < min(len(self._loader.ids), batches) <= self._loader.state_dict()["samples"]

    def _batches(self) -> Generator[tuple[Any, ...], None, None]:
        for images, labels, ids in self._loader:
            pictures = images if self._normalize is None else self._normalize(images)
            batch: tuple[Any, ...] = (pictures, labels, ids) if self._with_ids else (pictures, labels)
            yield (*batch, {name: _rows(column, ids) for name, column in self._extra.items()}) if self._extra else batch
        self._loader.set_epoch(self._loader.epoch + 1)

    @property
    def name(self) -> str:
        """The loader that was chosen: "native", "dali", "ffcv" or "torchvision"."""
        return self._loader.name

    @property
    def classes(self) -> list[str]:
        """The classes' names, by label."""
        return list(self._shards.manifest.classes)

    @property
    def samples(self) -> int:
        """The photographs of the split, on all ranks."""
        return len(self._loader.ids)

    @property
    def epoch(self) -> int:
        """The epoch of the pass at hand, or of the next one."""
        return self._loader.epoch

    @property
    def sampler(self) -> Loader:
        """This loader: Lightning and timm choose the epoch by `loader.sampler.set_epoch`."""
        return self

    @property
    def bad_samples(self) -> dict[int, str]:
        """The photographs left out of this epoch, by their ids, with the reason."""
        return dict(self._loader.bad)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self._epoch_chosen = True
        self._loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """Return where the pass stands: `load_state_dict` resumes at the very next batch, also with other ranks."""
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Have the next pass begin right after the batches that were delivered when `state` was taken."""
        self._epoch_chosen = True
        self._loader.load_state_dict(state)

    def close(self) -> None:
        """End the pass at hand, threads and processes."""
        if self._pass is not None:
            self._pass.close()
        self._loader.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _columns(shards: ShardSet, names: Sequence[str]) -> dict[str, torch.Tensor | list[Any]]:
    if not names:
        return {}
    found = shards.extra_labels()
    if missing := [name for name in names if name not in found]:
        there = ", ".join(found) or "none: convert a table with more columns"
        raise UserError(f"extra_labels: {shards.location} has no column '{missing[0]}', only {there}")
    return {
        name: torch.from_numpy(column) if isinstance(column := found[name], np.ndarray) else column for name in names
    }


def _rows(column: torch.Tensor | list[Any], ids: torch.Tensor) -> torch.Tensor | list[Any]:
    return [column[each] for each in ids.tolist()] if isinstance(column, list) else column[ids]


def _internal(crop: RandomResizedCrop | CenterCrop, flip: float) -> Crop | CenterShare:
    if isinstance(crop, RandomResizedCrop):
        return Crop(scale=crop.scale, ratio=crop.ratio, flip=flip)
    return CenterShare(crop.crop_pct, flip)


def _require_size(size: int) -> None:
    if not isinstance(size, int) or size < 1:
        raise UserError(f"a crop of {size} px: give a whole number of pixels, such as 224")


def _crop(given: RandomResizedCrop | CenterCrop | int | None, training: bool) -> RandomResizedCrop | CenterCrop:
    if isinstance(given, (RandomResizedCrop, CenterCrop)):
        return given
    if given is not None and not isinstance(given, int):
        raise UserError(f"crop = {given!r}: give RandomResizedCrop(224), CenterCrop(224), or a size such as 224")
    size = 224 if given is None else given
    return RandomResizedCrop(size) if training else CenterCrop(size)


def _check(flip: float, shuffle: Any, output: str, on_bad: str) -> None:
    rules = {
        f"hflip = {flip}: give a probability, 0 to 1": 0 <= flip <= 1,
        f"shuffle = {shuffle!r} is not one of True, False, 'shards'": shuffle in (True, False, "shards"),
        f"output = {output!r} is not one of uint8, float": output in ("uint8", "float"),
        f"on_bad_sample = {on_bad!r} is not one of error, skip": on_bad in ("error", "skip"),
    }
    for problem, right in rules.items():
        if not right:
            raise UserError(problem)


def _check_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(f"mean = {tuple(mean)}, std = {tuple(std)}: give three numbers each, those of std above 0")


def _ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    import torch.distributed as dist

    if rank is None and world_size is None and dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    rank, world_size = rank or 0, world_size or 1
    if not 0 <= rank < world_size:
        raise UserError(f"rank = {rank} of world_size = {world_size}: give 0 to {world_size - 1}")
    return rank, world_size
