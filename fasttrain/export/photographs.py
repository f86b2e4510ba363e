"""Photographs to check an exported model with, as validation shows them."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import torch

from fasttrain.config.location import is_url, user_path
from fasttrain.errors import UserError, of_os
from fasttrain.evaluation.inputs import Refused, find_photographs
from fasttrain.evaluation.predict import Unreadable, read_photograph
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.registry import choose_loader
from fasttrain.photos.dishes import DISHES
from fasttrain.photos.sample import draw_sample
from fasttrain.shards.format import MANIFEST
from fasttrain.shards.reader import ShardSet
from fasttrain.training.device import choose_workers


def some_photographs(data: str | Path | None, count: int, image_size: int) -> tuple[torch.Tensor, str]:
    """uint8 [n, image_size, image_size, 3], n at most `count`, evenly out of `data`; and where they come from.

    `data` is shards (those of test, else val), a folder of photographs, a file, a glob, or None: then the sample's are
    drawn. Raises UserError where there is none that opens.
    """
    if data is None:
        with tempfile.TemporaryDirectory(prefix="fasttrain-") as folder:
            drawn = Path(folder) / "sample"
            try:
                draw_sample(drawn, per_class=math.ceil(count / len(DISHES)))
            except OSError as error:
                raise of_os(error, drawn, "set TMPDIR to another folder, or give --data") from error
            return _from_files(drawn, count, image_size), "drawn ones (--data gives others)"
    if is_url(data) or (user_path(data) / MANIFEST).exists():
        return _from_shards(data, count, image_size)
    return _from_files(data, count, image_size), f"{data}"


def _from_shards(data: str | Path, count: int, image_size: int) -> tuple[torch.Tensor, str]:
    shards = ShardSet.open(data)
    split = next((name for name in ("test", "val", "train") if len(shards.ids(name))), None)
    if split is None:
        raise UserError(f"{data}: there is no photograph in it; give --data others")
    ids = shards.ids(split)
    kind, _ = choose_loader("auto", shards, "cpu")
    settings = LoaderSettings(count, image_size, None, workers=choose_workers(None))
    loader = kind(shards, ids[_evenly(len(ids), count)], settings)
    try:
        return torch.cat([images for images, _, _ in loader]), f"{data} ({split})"
    finally:
        loader.close()


def _from_files(data: str | Path, count: int, image_size: int) -> torch.Tensor:
    found = list(find_photographs([data]))
    paths = [each for each in found if isinstance(each, Path)]
    problem = next((str(each) for each in found if isinstance(each, Refused)), None)
    pixels = []
    for number in _evenly(len(paths), count):
        try:
            pixels.append(read_photograph(paths[number], image_size))
        except Unreadable as error:
            problem = f"{paths[number]}: {error}"
    if not pixels:
        raise UserError(f"{problem or data}; give --data shards or photographs")
    return torch.stack(pixels)


def _evenly(length: int, count: int) -> list[int]:
    return sorted(set(np.linspace(0, length - 1, min(length, count)).round().astype(int).tolist())) if length else []
