"""SPDL's thread pool on the folder of JPEGs: FFmpeg decodes, crops, flips and scales each photograph in one filter.

Each thread makes whole batches: with a task for each photograph, SPDL's event loop adds half of a decode's CPU time.
SPDL needs FFmpeg's libraries, libavdevice among them: apt-get install libavdevice59 (Debian 12).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import spdl.io
import torch
from spdl.pipeline import PipelineBuilder
from torchvision.datasets import ImageFolder

from peers import BATCH, SIZE
from peers.crops import random_box, reduction

try:
    spdl.io.demux_config()
except RuntimeError as error:
    raise ImportError("SPDL needs FFmpeg's libraries: apt-get install libavdevice59") from error


@cache
def decoder(halvings: int) -> Any:
    """FFmpeg's `lowres` decodes to a half, a quarter or an eighth."""
    return spdl.io.decode_config(decoder_options={"lowres": str(halvings)}) if halvings else None


def load(path: str) -> Any:
    packets = spdl.io.demux_image(path)
    box = random_box(packets.height, packets.width)
    halvings = reduction(box)
    top, left, height, width = (each >> halvings for each in box)
    flip = "hflip," if random.random() < 0.5 else ""
    return spdl.io.decode_packets(
        packets,
        decode_config=decoder(halvings),
        # Flipped before it is scaled, in YUV: faster than after. FFmpeg's bilinear filter is an antialiased one.
        filter_desc=f"crop={width}:{height}:{left}:{top}:exact=1,{flip}scale={SIZE}:{SIZE}:flags=bilinear,format=rgb24",
    )


def load_batch(samples: list[tuple[str, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    frames = [load(path) for path, _ in samples]
    return spdl.io.to_torch(spdl.io.convert_frames(frames)), torch.tensor([label for _, label in samples])


class Threads:
    @staticmethod
    def prepare(photographs: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def __init__(self, photographs: Path, folder: Path, threads: int) -> None:
        self.samples = ImageFolder(str(photographs)).samples
        self.threads = threads

    def batches(self) -> Iterator[int]:
        order = random.sample(self.samples, len(self.samples))
        parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        builder = PipelineBuilder().add_source(parts).pipe(load_batch, concurrency=self.threads).add_sink(2)
        pipeline = builder.build(num_threads=self.threads)
        with pipeline.auto_stop():
            for images, labels in pipeline.get_iterator():
                assert images.shape[1:] == (SIZE, SIZE, 3)
                yield len(labels)

    def close(self) -> None:
        pass
