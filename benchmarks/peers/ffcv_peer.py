"""FFCV 1.0.2 as its ImageNet recipe sets it up: q90 JPEGs or raw pixels, os_cache, random order, its own decoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor
from ffcv.writer import DatasetWriter
from torchvision.datasets import ImageFolder

from peers import AREA, BATCH, SIZE


class Jpeg512:
    field: ClassVar[dict[str, Any]] = {"write_mode": "jpg", "max_resolution": 512, "jpeg_quality": 90}

    @classmethod
    def prepare(cls, photographs: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        fields = {"image": RGBImageField(**cls.field), "label": IntField()}
        DatasetWriter(str(folder / "train.beton"), fields, num_workers=2).from_indexed_dataset(
            ImageFolder(str(photographs))
        )

    def __init__(self, photographs: Path, folder: Path, threads: int) -> None:
        decoder = RandomResizedCropRGBImageDecoder((SIZE, SIZE), scale=AREA)
        before = torch.get_num_threads()
        self.loader = Loader(
            str(folder / "train.beton"),
            batch_size=BATCH,
            num_workers=threads,
            order=OrderOption.RANDOM,
            os_cache=True,
            drop_last=False,
            seed=0,
            pipelines={
                "image": [decoder, RandomHorizontalFlip(), ToTensor()],
                "label": [IntDecoder(), ToTensor(), Squeeze()],
            },
        )
        torch.set_num_threads(before)

    def batches(self) -> Iterator[int]:
        for images, labels in self.loader:
            assert images.dtype == torch.uint8 and images.shape[-1] == 3
            yield int(np.prod(labels.shape))

    def close(self) -> None:
        pass


class Jpeg400(Jpeg512):
    field: ClassVar[dict[str, Any]] = {"write_mode": "jpg", "max_resolution": 400, "jpeg_quality": 90}


class Jpeg256(Jpeg512):
    field: ClassVar[dict[str, Any]] = {"write_mode": "jpg", "max_resolution": 256, "jpeg_quality": 90}


class Raw256(Jpeg512):
    field: ClassVar[dict[str, Any]] = {"write_mode": "raw", "max_resolution": 256}
