"""WebDataset on tars of the original JPEGs (`convert --cut none`), shuffled shards and a buffer of 1,000."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import webdataset as wds
from PIL import Image
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from fasttrain.shards.convert import convert
from peers import AREA, BATCH, SIZE
from peers.torchvision_peers import one_thread


def by_pil(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def by_torchvision(data: bytes) -> torch.Tensor:
    return decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)


class Pil:
    decode = staticmethod(by_pil)
    to_tensor: Any = v2.PILToTensor()

    @staticmethod
    def prepare(photographs: Path, folder: Path) -> None:
        convert(str(photographs), folder, val_fraction=0, cut="none", shard_size=250, progress=False)

    def __init__(self, photographs: Path, folder: Path, threads: int) -> None:
        transform = v2.Compose(
            [v2.RandomResizedCrop(SIZE, scale=AREA, antialias=True), v2.RandomHorizontalFlip(), self.to_tensor]
        )
        decode = self.decode
        tars = sorted(str(path) for path in folder.glob("*.tar"))
        dataset = (
            wds.WebDataset(tars, shardshuffle=len(tars))
            .shuffle(1000)
            .to_tuple("jpg", "cls")
            .map_tuple(lambda data: transform(decode(data)), int)
            .batched(BATCH)
        )
        self.loader = wds.WebLoader(
            dataset, batch_size=None, num_workers=threads, persistent_workers=True, worker_init_fn=one_thread
        )

    def batches(self) -> Iterator[int]:
        for _, labels in self.loader:
            yield len(labels)

    def close(self) -> None:
        pass


class V2(Pil):
    decode = staticmethod(by_torchvision)
    to_tensor: Any = v2.Identity()
