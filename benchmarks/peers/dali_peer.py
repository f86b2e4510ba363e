"""DALI's CPU pipeline on the folder of JPEGs: a file reader, its decoder that reads only what a random crop needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from nvidia.dali import fn, pipeline_def, types

from peers import AREA, BATCH, SIZE

AHEAD = 2


class Antialiased:
    """Its pipeline without DALI's iterator, which decodes the first batches of the next epoch beforehand."""

    resize: ClassVar[dict[str, Any]] = {"interp_type": types.INTERP_TRIANGULAR}

    @staticmethod
    def prepare(photographs: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def __init__(self, photographs: Path, folder: Path, threads: int) -> None:
        resize = self.resize

        @pipeline_def(
            batch_size=BATCH, num_threads=threads, device_id=None, prefetch_queue_depth=AHEAD, exec_dynamic=True
        )
        def graph() -> Any:
            jpegs, labels = fn.readers.file(file_root=str(photographs), random_shuffle=True, name="reader")
            crops = fn.decoders.image_random_crop(jpegs, random_area=list(AREA), random_aspect_ratio=[3 / 4, 4 / 3])
            resized = fn.resize(crops, size=[SIZE, SIZE], dtype=types.UINT8, **resize)
            return fn.flip(resized, horizontal=fn.random.coin_flip()), labels

        self.pipeline = graph()
        self.pipeline.build()
        self.photographs = self.pipeline.epoch_size("reader")
        self.scheduled = False

    def batches(self) -> Iterator[int]:
        count = -(-self.photographs // BATCH)
        # The very first call fills the queue, each later one adds a batch.
        for _ in range(min(AHEAD, count) if self.scheduled else 1):
            self.pipeline.schedule_run()
        self.scheduled = True
        for number in range(count):
            images, labels = (torch.from_dlpack(out.as_tensor()) for out in self.pipeline.share_outputs())
            assert images.dtype == torch.uint8
            self.pipeline.release_outputs()
            if number + AHEAD < count:
                self.pipeline.schedule_run()
            yield min(len(labels), self.photographs - number * BATCH)

    def close(self) -> None:
        del self.pipeline


class Linear(Antialiased):
    """Faster and aliased: each output pixel looks at two by two of the crop's, however many lie between."""

    resize: ClassVar[dict[str, Any]] = {"interp_type": types.INTERP_LINEAR, "antialias": False}
