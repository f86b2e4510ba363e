"""The augmentation plan: the order of photographs, and the crop and the flips of each.

Everything is a pure function of (seed, epoch, sample id), so all loaders, workers and ranks see the same crops, and a
run resumes at the exact sample. If classes are balanced, a sample may be drawn several times per epoch, and the number
of the draw is used instead of the id.

Arithmetic is limited to operations that IEEE 754 rounds exactly on every CPU. The random numbers are those of
`loaders.philox`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fasttrain.config.interpolation import Interpolation
from fasttrain.loaders.philox import (
    CLASS_STREAM,
    CROP_STREAM,
    DRAW_STREAM,
    ORDER_STREAM,
    SHARD_STREAM,
    random_words,
    unit,
)

LETTERBOX_GREY = 114  # Ultralytics's value

SHARD_WINDOW = 8
"""The number of shards that `shuffle` "shards" mixes: 8,000 photographs, about 400 MB with `convert`'s defaults."""

_FIRST_VIEW_STREAM = 16  # this and the next streams are for the crops of a photograph's further views

_ATTEMPTS = 10  # like torchvision's RandomResizedCrop
_CROP_WORDS = 2 * _ATTEMPTS + 4  # area and ratio for each attempt, top, left, both flips: six Philox blocks
_FLIP, _VFLIP = 2 * _ATTEMPTS + 2, 2 * _ATTEMPTS + 3
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Crop:
    """A random crop, as torchvision's `RandomResizedCrop`.

    `scale`: the range of the crop's share of the photograph's area. `ratio`: the range of the crop's width / height.
    `flip`, `vflip`: the probabilities of a horizontal and a vertical flip. `interpolation`: the resizing filter.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    vflip: float = 0.0
    interpolation: Interpolation = "bilinear"


@dataclass(frozen=True)
class CenterShare:
    """A centred square whose side is `share` of the short side: torchvision's `CenterCrop` after `Resize`."""

    share: float = 224 / 256
    flip: float = 0.0
    vflip: float = 0.0
    interpolation: Interpolation = "bilinear"


@dataclass(frozen=True)
class FullPicture:
    """The entire photograph. It is scaled to fit into a square if `letterbox` is set, and otherwise squashed to it."""

    flip: float = 0.0
    letterbox: bool = False
    vflip: float = 0.0
    interpolation: Interpolation = "bilinear"


CropRule = Crop | CenterShare | FullPicture


@dataclass(frozen=True)
class View:
    """One image of each photograph, `size` x `size` px, cropped by `crop`."""

    size: int
    crop: CropRule


BadSamples = Sequence[tuple[int, str]]
"""(position in the batch, reason) for each photograph that could not be decoded."""


@dataclass(frozen=True)
class Batch:
    """Planned samples, in order, that a loader must deliver as a batch.

    `ids`: int64 [n], row numbers of the shards' index. `boxes`: int32 [n, 4], (top, left, height, width) in pixels of
    the photograph. `flips`: bool [n], flipped horizontally. `size`: (height, width) of the output in pixels. `view`:
    the number of the view (one of several images of each photograph), counted from 0. `letterbox`: whether a box keeps
    its aspect ratio, see `letterbox_size`. `vflips`: bool [n], flipped vertically; None if no sample is. `draws`: int64
    [n], the number of each draw in an epoch with balanced classes, which decides box and flips instead of the id; None
    in other epochs. `interpolation`: the filter that resizes the boxes.
    """

    ids: NDArray[np.int64]
    boxes: NDArray[np.int32]
    flips: NDArray[np.bool_]
    size: tuple[int, int]
    view: int = 0
    letterbox: bool = False
    vflips: NDArray[np.bool_] | None = None
    draws: NDArray[np.int64] | None = None
    interpolation: Interpolation = "bilinear"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def upside_down(self) -> NDArray[np.bool_]:
        """The vertical flips, bool [n]: `vflips`, or all False if that is None."""
        return np.zeros(len(self), np.bool_) if self.vflips is None else self.vflips

    def take(self, rows: slice | NDArray[np.int64]) -> Batch:
        """Return the samples at the positions `rows`."""
        vflips = None if self.vflips is None else self.vflips[rows]
        draws = None if self.draws is None else self.draws[rows]
        how = (self.size, self.view, self.letterbox, vflips, draws, self.interpolation)
        return Batch(self.ids[rows], self.boxes[rows], self.flips[rows], *how)


def epoch_order(
    ids: NDArray[np.int64], seed: int, epoch: int, shards: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return `ids` in the epoch's order, int64 [n], by a stable argsort of one random number per sample.

    With `shards`, int64 [n], the shard of each sample, the shards are put in a random order, and only samples within
    each window of `SHARD_WINDOW` shards are mixed. The disk is then read nearly in sequence. WebDataset's and FFCV's
    (`QUASI_RANDOM`) windows work the same way.
    """
    if not len(ids):
        return ids.astype(np.int64)
    words = random_words(seed, epoch, ORDER_STREAM, int(ids.max()) + 1, 4)[ids, 0]
    return ids[_shuffled(words, seed, epoch, shards)].astype(np.int64)


def balanced_order(
    ids: NDArray[np.int64],
    labels: NDArray[np.int64],
    seed: int,
    epoch: int,
    shards: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (samples, draws) of an epoch with every class equally often.

    The first array has ids in the epoch's order, as many as `ids` has. The second one has the number of each sample's
    draw, which differs between repetitions of a sample. All arrays are int64 [n]. `labels` and `shards` belong to
    `ids`, and `shards` mixes as in `epoch_order`. Each class gets n // classes draws, and randomly chosen classes get
    one more. The samples of a class take turns in a random order, so none is repeated before all have been used.
    """
    if not len(ids):
        return ids.astype(np.int64), ids.astype(np.int64)
    words = random_words(seed, epoch, ORDER_STREAM, int(ids.max()) + 1, 4)[ids, 0]
    by_class = np.lexsort((words, labels))
    classes, counts = np.unique(labels, return_counts=True)
    draws = np.full(len(classes), len(ids) // len(classes))
    of_class = random_words(seed, epoch, CLASS_STREAM, int(classes[-1]) + 1, 4)[classes, 0]
    draws[np.argsort(of_class, kind="stable")[: len(ids) % len(classes)]] += 1
    which = np.repeat(np.arange(len(classes)), draws)
    turn = np.arange(len(ids)) - (np.cumsum(draws) - draws)[which]
    rows = by_class[(np.cumsum(counts) - counts)[which] + turn % counts[which]]
    words = random_words(seed, epoch, DRAW_STREAM, len(ids), 4)[:, 0]
    numbers = _shuffled(words, seed, epoch, None if shards is None else shards[rows])
    return ids[rows[numbers]].astype(np.int64), numbers.astype(np.int64)


def _shuffled(words: NDArray[np.uint64], seed: int, epoch: int, shards: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return the positions that sort `words`, within windows of shards if `shards` is given."""
    if shards is None:
        return np.argsort(words, kind="stable")
    names, which = np.unique(shards, return_inverse=True)
    of_shards = random_words(seed, epoch, SHARD_STREAM, int(names[-1]) + 1, 4)[names, 0]
    rank = np.argsort(np.argsort(of_shards, kind="stable"))
    return np.lexsort((words, rank[which] // SHARD_WINDOW))


def random_resized_crops(
    ids: NDArray[np.int64], sizes: NDArray[np.int32], seed: int, epoch: int, crop: Crop, view: int = 0
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return boxes int32 [n, 4] (top, left, height, width) and flips bool [n] of the samples `ids`.

    `sizes` is int32 [n, 2], (height, width) of each. Each `view` has its own random numbers. The distribution is that
    of torchvision's `RandomResizedCrop` (ten attempts, then the largest centre crop within `ratio`) and
    `RandomHorizontalFlip`.
    """
    boxes, flips = np.empty((len(ids), 4), dtype=np.int32), np.empty(len(ids), dtype=np.bool_)
    for rows, uniform in _crop_numbers(ids, seed, epoch, view):
        boxes[rows], flips[rows] = _draw_boxes(uniform, sizes[rows], crop), uniform[:, _FLIP] < crop.flip
    return boxes, flips


def random_flips(
    ids: NDArray[np.int64], seed: int, epoch: int, probability: float, view: int = 0, *, vertical: bool = False
) -> NDArray[np.bool_]:
    """Return which of the samples `ids` are flipped horizontally, or vertically if `vertical`, bool [n].

    The flips are the same for every `CropRule`.
    """
    flips = np.zeros(len(ids), dtype=np.bool_)
    if probability:
        for rows, uniform in _crop_numbers(ids, seed, epoch, view):
            flips[rows] = uniform[:, _VFLIP if vertical else _FLIP] < probability
    return flips


def _crop_numbers(
    ids: NDArray[np.int64], seed: int, epoch: int, view: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Yield positions in `ids` and the random numbers of the samples there, float64 [n, _CROP_WORDS] in [0, 1).

    Each position is yielded once.
    """
    stream = _FIRST_VIEW_STREAM + view if view else CROP_STREAM
    by_id = np.argsort(ids, kind="stable")
    position = 0
    while position < len(by_id):  # in chunks of ids, so that a million samples don't need gigabytes of words
        first = int(ids[by_id[position]])
        end = int(np.searchsorted(ids, first + _CHUNK, sorter=by_id))
        rows = by_id[position:end]
        offsets = ids[rows] - first
        words = random_words(seed, epoch, stream, int(offsets[-1]) + 1, _CROP_WORDS, first)[offsets]
        yield rows, unit(words)
        position = end


def centre_boxes(sizes: NDArray[np.int32], share: float = 224 / 256) -> NDArray[np.int32]:
    """Return evaluation boxes, int32 [n, 4]: a centred square whose side is `share` of the short side.

    Resizing a box to a side of s px equals torchvision's `Resize(s / share)` and `CenterCrop(s)`, except that the box
    is rounded to pixels of the photograph. `sizes` is int32 [n, 2], (height, width).
    """
    side = np.maximum(np.rint(sizes.min(axis=1) * share), 1).astype(np.int32)
    top, left = (sizes[:, 0] - side) // 2, (sizes[:, 1] - side) // 2
    return np.stack([top, left, side, side], axis=1).astype(np.int32)


def flags_of(batch: Batch) -> NDArray[np.int32]:
    """Return how the C++ decoder treats each crop, int32 [n]: the bits of `CropFlags` in native/decode/decode.h."""
    of_all = (2 if batch.letterbox else 0) | (8 if batch.interpolation == "bicubic" else 0)
    return batch.flips.astype(np.int32) | batch.upside_down.astype(np.int32) << 2 | of_all


def letterbox_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the height and width of an image scaled so that its longer side is `side` px."""
    longer = max(height, width)
    scaled_height, scaled_width = ((2 * side * each + longer) // (2 * longer) for each in (height, width))
    return max(1, scaled_height), max(1, scaled_width)


class EpochPlan(Batch):
    """All samples of one epoch, from which each rank takes its batches."""

    @staticmethod
    def training(
        ids: NDArray[np.int64],
        sizes: NDArray[np.int32],
        *,
        seed: int,
        epoch: int,
        size: int,
        crop: CropRule,
        shards: NDArray[np.int64] | None = None,
        balanced: NDArray[np.int64] | None = None,
    ) -> EpochPlan:
        """Return the plan of a training epoch: the samples `ids`, int64 [n], in random order with random crops.

        `sizes`: int32 [N, 2], height and width of all samples of the index. `shards`: int64 [n], keeps shards together,
        see `epoch_order`. `balanced`: int64 [n], labels of classes to deliver equally often, see `balanced_order`.
        """
        draws: NDArray[np.int64] | None = None
        if balanced is None:
            order = epoch_order(ids, seed, epoch, shards)
        else:
            order, draws = balanced_order(ids, balanced, seed, epoch, shards)
        return EpochPlan.in_order(order, sizes, seed=seed, epoch=epoch, size=size, crop=crop, draws=draws)

    @staticmethod
    def evaluation(ids: NDArray[np.int64], sizes: NDArray[np.int32], *, size: int) -> EpochPlan:
        """Return a plan with the same order and centre crops each time."""
        return EpochPlan.in_order(ids, sizes, seed=0, epoch=0, size=size, crop=CenterShare())

    @staticmethod
    def in_order(
        order: NDArray[np.int64],
        sizes: NDArray[np.int32],
        *,
        seed: int,
        epoch: int,
        size: int,
        crop: CropRule,
        view: int = 0,
        draws: NDArray[np.int64] | None = None,
    ) -> EpochPlan:
        """Return a plan of the samples `order`, int64 [n], in that order.

        A sample's crop and flips don't depend on its position in the order. Its id decides them, or if `draws`, int64
        [n], is given, the number of its draw.
        """
        counters = order if draws is None else draws
        of_order, letterbox = sizes[order], isinstance(crop, FullPicture) and crop.letterbox
        if isinstance(crop, Crop):
            boxes, flips = random_resized_crops(counters, of_order, seed, epoch, crop, view)
        else:
            if isinstance(crop, CenterShare):
                boxes = centre_boxes(of_order, crop.share)
            else:
                boxes = np.concatenate([np.zeros_like(of_order), of_order], axis=1)
            flips = random_flips(counters, seed, epoch, crop.flip, view)
        vflips = random_flips(counters, seed, epoch, crop.vflip, view, vertical=True) if crop.vflip else None
        return EpochPlan(order, boxes, flips, (size, size), view, letterbox, vflips, draws, crop.interpolation)

    def batch_count(self, batch_size: int, world_size: int = 1) -> int:
        """Return the number of batches per rank, including a short last one. It is the same on every rank."""
        return -(-len(self) // (batch_size * world_size))

    def batch(self, number: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Return batch `number` of `rank`: its slice of the global batch, which all ranks deliver together.

        So the order never depends on `world_size`. The last global batch may be smaller. It is divided without padding:
        the parts differ by at most one sample, and some may be empty.
        """
        start = number * batch_size * world_size
        stop = min(start + batch_size * world_size, len(self))
        share, more = divmod(max(stop - start, 0), world_size)
        first = start + rank * share + min(rank, more)
        return self.take(slice(first, first + share + (rank < more)))

    def rest(self, samples: int) -> EpochPlan:
        """Return the plan without the first `samples` samples."""
        return EpochPlan(**vars(self.take(slice(samples, None))))


def _draw_boxes(uniform: NDArray[np.float64], sizes: NDArray[np.int32], crop: Crop) -> NDArray[np.int32]:
    """Return crop boxes, int32 [n, 4], from random numbers, float64 [n, _CROP_WORDS] in [0, 1)."""
    height, width = (sizes[:, side].astype(np.int64) for side in (0, 1))
    low, high = _log(crop.ratio[0]), _log(crop.ratio[1])
    box_height, box_width = np.zeros_like(height), np.zeros_like(width)
    left_over = np.arange(len(sizes))  # most samples need one attempt; the others are computed only for the rest
    for attempt in range(_ATTEMPTS):
        size = height[left_over], width[left_over]
        share, shape = uniform[left_over, attempt], uniform[left_over, _ATTEMPTS + attempt]
        root_area = np.sqrt((size[0] * size[1]) * (crop.scale[0] + share * (crop.scale[1] - crop.scale[0])))
        root_ratio = _exp((low + shape * (high - low)) / 2)
        tried_width = np.rint(root_area * root_ratio).astype(np.int64)
        tried_height = np.rint(root_area / root_ratio).astype(np.int64)
        fits = (tried_width > 0) & (tried_width <= size[1]) & (tried_height > 0) & (tried_height <= size[0])
        box_height[left_over[fits]], box_width[left_over[fits]] = tried_height[fits], tried_width[fits]
        left_over = left_over[~fits]
        if not len(left_over):
            break
    top = (uniform[:, 2 * _ATTEMPTS] * (height - box_height + 1)).astype(np.int64)
    left = (uniform[:, 2 * _ATTEMPTS + 1] * (width - box_width + 1)).astype(np.int64)
    if len(left_over):
        fallback = _largest_centre(height[left_over], width[left_over], crop.ratio)
        for ours, theirs in zip((top, left, box_height, box_width), fallback, strict=True):
            ours[left_over] = theirs
    return np.stack([top, left, box_height, box_width], axis=1).astype(np.int32)


def _largest_centre(
    height: NDArray[np.int64], width: NDArray[np.int64], ratio: tuple[float, float]
) -> tuple[NDArray[np.int64], ...]:
    """Return top, left, height and width of the largest centred boxes within `ratio`, int64 [n] each."""
    shape = width / height
    box_width = np.where(shape > ratio[1], np.rint(height * ratio[1]), width).astype(np.int64)
    box_height = np.where(shape < ratio[0], np.rint(width / ratio[0]), height).astype(np.int64)
    box_width, box_height = np.clip(box_width, 1, width), np.clip(box_height, 1, height)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _exp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    # np.exp differs in the last bit between CPUs (SVML). Multiplication and addition do not.
    halved = x / 16
    total = np.ones_like(halved)
    for n in range(16, 0, -1):
        total = 1.0 + total * halved / n
    for _ in range(4):
        total = total * total
    return total


@functools.cache
def _log(x: float) -> float:
    # Newton's method on _exp, for the same reason. x is a ratio near 1.
    y = 0.0
    for _ in range(64):
        e = float(_exp(np.array([y]))[0])
        y += 2 * (x - e) / (x + e)
    return y
