"""LitData: the original JPEGs optimised into its chunks, decoded by torchvision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from litdata import StreamingDataLoader, StreamingDataset, optimize
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from peers import AREA, BATCH, SIZE
from peers.torchvision_peers import one_thread

CROP = v2.Compose([v2.RandomResizedCrop(SIZE, scale=AREA, antialias=True), v2.RandomHorizontalFlip()])


def sample(entry: tuple[str, int]) -> dict[str, Any]:
    path, label = entry
    return {"image": Path(path).read_bytes(), "label": label}


class Cropped(StreamingDataset):
    def __getitem__(self, index: Any) -> tuple[torch.Tensor, int]:
        found = super().__getitem__(index)
        data = torch.frombuffer(bytearray(found["image"]), dtype=torch.uint8)
        return CROP(decode_image(data, ImageReadMode.RGB)), found["label"]


class V2:
    @staticmethod
    def prepare(photographs: Path, folder: Path) -> None:
        entries = ImageFolder(str(photographs)).samples
        optimize(sample, entries, output_dir=str(folder), num_workers=2, chunk_bytes="64MB")

    def __init__(self, photographs: Path, folder: Path, threads: int) -> None:
        self.loader = StreamingDataLoader(
            Cropped(str(folder), shuffle=True),
            batch_size=BATCH,
            num_workers=threads,
            persistent_workers=True,
            worker_init_fn=one_thread,
        )

    def batches(self) -> Iterator[int]:
        for _, labels in self.loader:
            yield len(labels)

    def close(self) -> None:
        pass
