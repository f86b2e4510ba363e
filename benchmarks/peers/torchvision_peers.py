"""Plain torchvision: ImageFolder and torch's DataLoader, persistent workers, uint8 to the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from peers import AREA, BATCH, DINO, SIZE


def one_thread(_: int) -> None:
    """Worker processes share the cores; torch's own threads would only get in their way."""
    torch.set_num_threads(1)


def data_loader(dataset: Any, threads: int, **more: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_size=BATCH,
        num_workers=threads,
        persistent_workers=True,
        worker_init_fn=one_thread,
        **more,
    )


def read(path: str) -> torch.Tensor:
    return decode_image(path, ImageReadMode.RGB)


def crop_and_flip(size: int, area: tuple[float, float]) -> list[Any]:
    return [v2.RandomResizedCrop(size, scale=area, antialias=True), v2.RandomHorizontalFlip()]


class Pil:
    loader: Any = None
    transform: Any = v2.Compose([*crop_and_flip(SIZE, AREA), v2.PILToTensor()])

    @staticmethod
    def prepare(photographs: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def __init__(self, photographs: Path, folder: Path, threads: int) -> None:
        loader = {} if self.loader is None else {"loader": self.loader}
        self.batched = data_loader(ImageFolder(str(photographs), self.transform, **loader), threads, shuffle=True)

    def batches(self) -> Iterator[float]:
        for _, labels in self.batched:
            yield len(labels)

    def close(self) -> None:
        self.batched._iterator = None


class V2(Pil):
    loader = staticmethod(read)
    transform = v2.Compose(crop_and_flip(SIZE, AREA))


class TwoPasses(V2):
    """Two views by decoding each photograph twice: a pass for each."""

    def batches(self) -> Iterator[float]:
        for _ in range(2):
            for size in super().batches():
                yield size / 2


class Views:
    """Crops of one photograph that is decoded once."""

    def __init__(self, views: Sequence[tuple[int, tuple[float, float]]]) -> None:
        self.views = [v2.Compose(crop_and_flip(size, area)) for size, area in views]

    def __call__(self, picture: torch.Tensor) -> list[torch.Tensor]:
        return [view(picture) for view in self.views]


class TwoViews(V2):
    transform = Views([(SIZE, AREA)] * 2)


class DinoViews(V2):
    transform = Views(DINO)
