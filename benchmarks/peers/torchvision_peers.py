"""Plain torchvision: ImageFolder and torch's DataLoader, persistent workers, uint8 to the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from peers import AREA, BATCH, SIZE


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


class _Folder:
    loader: Any
    to_tensor: list[Any]

    @staticmethod
    def prepare(photographs: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def __init__(self, photographs: Path, folder: Path, threads: int) -> None:
        crop = v2.RandomResizedCrop(SIZE, scale=AREA, antialias=True)
        transform = v2.Compose([crop, v2.RandomHorizontalFlip(), *self.to_tensor])
        loader = {} if self.loader is None else {"loader": self.loader}
        self.batched = data_loader(ImageFolder(str(photographs), transform, **loader), threads, shuffle=True)

    def batches(self) -> Iterator[int]:
        for _, labels in self.batched:
            yield len(labels)

    def close(self) -> None:
        self.batched._iterator = None


class Pil(_Folder):
    loader = None
    to_tensor = [v2.PILToTensor()]  # noqa: RUF012


class V2(_Folder):
    loader = staticmethod(read)
    to_tensor = []  # noqa: RUF012
