"""DALI's CPU pipeline on the folder of JPEGs: a file reader, its decoder that reads only what a random crop needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import DALIClassificationIterator, LastBatchPolicy

from peers import AREA, BATCH, SIZE


class Antialiased:
    resize: ClassVar[dict[str, Any]] = {"interp_type": types.INTERP_TRIANGULAR}

    @staticmethod
    def prepare(photographs: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def __init__(self, photographs: Path, folder: Path, threads: int) -> None:
        resize = self.resize

        @pipeline_def(batch_size=BATCH, num_threads=threads, device_id=None, prefetch_queue_depth=2, exec_dynamic=True)
        def graph() -> Any:
            jpegs, labels = fn.readers.file(file_root=str(photographs), random_shuffle=True, name="reader")
            crops = fn.decoders.image_random_crop(jpegs, random_area=list(AREA), random_aspect_ratio=[3 / 4, 4 / 3])
            resized = fn.resize(crops, size=[SIZE, SIZE], dtype=types.UINT8, **resize)
            return fn.flip(resized, horizontal=fn.random.coin_flip()), labels

        pipeline = graph()
        pipeline.build()
        self.iterator = DALIClassificationIterator(
            pipeline, reader_name="reader", last_batch_policy=LastBatchPolicy.PARTIAL, auto_reset=True
        )

    def batches(self) -> Iterator[int]:
        for ((out),) in ((each,) for each in self.iterator):
            yield len(out[0]["label"])

    def close(self) -> None:
        del self.iterator


class Linear(Antialiased):
    """Faster and aliased: each output pixel looks at two by two of the crop's, however many lie between."""

    resize: ClassVar[dict[str, Any]] = {"interp_type": types.INTERP_LINEAR, "antialias": False}
