"""Load the photographs on which an exported file is compared with the model, cropped as in validation."""

from __future__ import annotations

import math
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from fasttrain.config.location import is_url, user_path
from fasttrain.data.crops import PlannedCrop
from fasttrain.data.photograph import Unreadable, read_photograph
from fasttrain.data.splits import split_ids
from fasttrain.errors import UserError, of_os
from fasttrain.evaluation.inputs import Refused, find_photographs
from fasttrain.evaluation.splits import batches
from fasttrain.photos.dishes import DISHES
from fasttrain.photos.sample import draw_sample
from fasttrain.shards.format import ALL, MANIFEST
from fasttrain.shards.reader import ShardSet


def some_photographs(data: str | Path | None, count: int, crop: PlannedCrop | int) -> tuple[torch.Tensor, str]:
    """Return at most `count` photographs, evenly spaced in `data`, and a phrase that says where they come from.

    The photographs are uint8 [n, size, size, 3]. `data`: shards (all splits are used), a folder of photographs, a file,
    a glob pattern, or None for pictures that fasttrain draws. `crop`: the part of each photograph and its size. An
    integer stands for the usual centre crop, resized to that many px. Raises UserError if no photograph can be read.
    """
    if data is None:
        with tempfile.TemporaryDirectory(prefix="fasttrain-") as folder:
            drawn = Path(folder) / "sample"
            try:
                draw_sample(drawn, per_class=math.ceil(count / len(DISHES)))
            except OSError as error:
                raise of_os(error, drawn, "set TMPDIR to another folder, or give --data") from error
            return _from_files(drawn, count, crop)[0], "drawn by fasttrain (--data gives others)"
    if is_url(data) or (user_path(data) / MANIFEST).exists():
        return _from_shards(data, count, crop)
    return _from_files(data, count, crop)


def calibration_photographs(shards: ShardSet, count: int, crop: PlannedCrop) -> torch.Tensor:
    """Return at most `count` photographs of the training split, evenly spaced, uint8 [n, size, size, 3].

    `crop`: the part of each photograph that the model sees, and its size.
    """
    ids = shards.ids("train")
    with closing(batches(shards, ids[evenly(len(ids), count)], crop, batch_size=32)) as loaded:
        return torch.cat([images for images, _, _ in loaded])


def evenly(length: int, count: int) -> list[int]:
    """Return `count` evenly spaced integers in [0, length), ascending. If `length` is smaller, return all of them."""
    return sorted(set(np.linspace(0, length - 1, min(length, count)).round().astype(int).tolist())) if length else []


def _from_shards(data: str | Path, count: int, crop: PlannedCrop | int) -> tuple[torch.Tensor, str]:
    shards = ShardSet.open(data)
    ids = split_ids(shards, ALL, data)[evenly(len(shards), count)]
    with closing(batches(shards, ids, crop, batch_size=count)) as loaded:
        return torch.cat([images for images, _, _ in loaded]), f"of the {len(shards):,} in {data}, all splits"


def _from_files(data: str | Path, count: int, crop: PlannedCrop | int) -> tuple[torch.Tensor, str]:
    """Return what `some_photographs` returns, for files, folders and glob patterns. Unreadable files are skipped."""
    found = list(find_photographs([data]))
    paths = [each for each in found if isinstance(each, Path)]
    unreadable = [str(each) for each in found if isinstance(each, Refused)]
    pixels = []
    for number in evenly(len(paths), count):
        try:
            pixels.append(read_photograph(paths[number], crop))
        except Unreadable as error:
            unreadable.append(f"{paths[number]}: {error}")
    if not pixels:
        raise UserError(f"{unreadable[-1] if unreadable else data}; give --data shards or photographs")
    also = f"; {len(unreadable):,} could not be read, such as {unreadable[-1]}" if unreadable else ""
    return torch.from_numpy(np.stack(pixels)), f"of the {len(paths):,} in {data}{also}"
