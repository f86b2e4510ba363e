"""`--loader native` on shards as `convert` makes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch  # noqa: F401 - an import, not the loader's first batch

from fasttrain import Loader, RandomResizedCrop
from fasttrain.loaders import native
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.native import NativeLoader
from fasttrain.loaders.plan import Crop
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet
from peers import AREA, BATCH, DINO, SIZE


class Native:
    """All photographs in one split."""

    converted: ClassVar[dict[str, Any]] = {}

    @classmethod
    def prepare(cls, photographs: Path, folder: Path) -> None:
        convert(str(photographs), folder, val_fraction=0, progress=False, **cls.converted)

    def __init__(self, photographs: Path, folder: Path, threads: int) -> None:
        shards = ShardSet.open(folder)
        settings = LoaderSettings(BATCH, SIZE, Crop(scale=AREA), workers=threads)
        self.loader = NativeLoader(shards, shards.ids("train"), settings)
        self.epoch = 0

    def batches(self) -> Iterator[int]:
        self.loader.set_epoch(self.epoch)
        self.epoch += 1
        for _, labels, _ in self.loader:
            yield len(labels)

    def close(self) -> None:
        self.loader.close()


class Native400(Native):
    converted: ClassVar[dict[str, Any]] = {"max_size": 400}


class Native256(Native):
    converted: ClassVar[dict[str, Any]] = {"max_size": 256}


class NativeRaw256(Native):
    converted: ClassVar[dict[str, Any]] = {"max_size": 256, "raw": True}


class TwoViews(Native):
    """Two crops of each photograph, as for SimCLR, through the public loader."""

    views: ClassVar[list[Any]] = [(SIZE, AREA)] * 2

    def __init__(self, photographs: Path, folder: Path, threads: int) -> None:
        crops = [RandomResizedCrop(size, scale=area) for size, area in self.views]
        self.loader = Loader(folder, batch_size=BATCH, views=crops, hflip=0.5, workers=threads)

    def batches(self) -> Iterator[int]:
        sides = [size for size, _ in self.views]
        for views, labels in self.loader:
            assert [view.shape[1] for view in views] == sides
            yield len(labels)


class DinoViews(TwoViews):
    views: ClassVar[list[Any]] = DINO


class Folder(Native):
    """The public loader on the folder of JPEGs, never converted."""

    @classmethod
    def prepare(cls, photographs: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def __init__(self, photographs: Path, folder: Path, threads: int) -> None:
        crop = RandomResizedCrop(SIZE, scale=AREA)
        self.loader = Loader(
            photographs,
            convert=False,
            split="all",
            batch_size=BATCH,
            crop=crop,
            hflip=0.5,
            shuffle=True,
            workers=threads,
        )

    def batches(self) -> Iterator[int]:
        for _, labels in self.loader:
            yield len(labels)


class NativeBlind(Native):
    """Without read-ahead, to see what it gives on a cold page cache."""

    def __init__(self, photographs: Path, folder: Path, threads: int) -> None:
        native.ReadAhead = _Nothing  # type: ignore[assignment,misc]
        super().__init__(photographs, folder, threads)


class _Nothing:
    def __init__(self, *_: Any, **__: Any) -> None: ...
    def advance(self, photographs: int) -> None: ...
    def close(self) -> None: ...
