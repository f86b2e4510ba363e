"""fasttrain's shards in a DALI pipeline of your own, without fasttrain: `python dali_webdataset.py SHARDS`.

DALI's `readers.webdataset` takes the tars and the `.idx` files beside them as `convert` leaves them. The crops here are
DALI's own random ones; `fasttrain train --loader dali` gives those of the augmentation plan.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from nvidia.dali import fn, pipeline_def, types


@pipeline_def
def training_pipeline(shards: Path, size: int, decoder: str) -> Any:
    """uint8 [n, size, size, 3] images and uint8 [n, digits] labels as decimal text; `decoder` is "cpu" or "mixed"."""
    tars = sorted(shards.glob("train-*.tar"))
    jpegs, labels = fn.readers.webdataset(
        paths=[str(tar) for tar in tars],
        index_paths=[str(tar.with_suffix(".idx")) for tar in tars],
        ext=["jpg", "cls"],
        random_shuffle=True,
        missing_component_behavior="error",
        name="shards",
    )
    crops = fn.decoders.image_random_crop(
        jpegs, device=decoder, output_type=types.RGB, random_area=[0.08, 1.0], adjust_orientation=False
    )
    resized = fn.resize(crops, size=[size, size], interp_type=types.INTERP_LINEAR, antialias=True)
    return fn.flip(resized, horizontal=fn.random.coin_flip()), fn.pad(labels, fill_value=ord(" "))


def labels_of(text: Any) -> list[int]:
    """The labels of a batch's padded decimal text."""
    return [int(bytes(row).decode()) for row in text.as_array()]


if __name__ == "__main__":
    pipeline = training_pipeline(
        Path(sys.argv[1]), size=224, decoder="cpu", batch_size=32, num_threads=2, device_id=None, exec_dynamic=True
    )
    images, text = pipeline.run()
    print(images.as_array().shape, labels_of(text))
