"""Files that take one photograph at a time: their metadata, and how many photographs go through them."""

from __future__ import annotations

from typing import Any

import torch

from fasttrain.export.base import Metadata, Run


def for_one(metadata: Metadata) -> dict[str, Any]:
    """Return `metadata` with an input and an output of [1, ...] in place of [n, ...]."""
    shapes = {key: metadata[key].replace("[n, ", "[1, ") for key in ("input", "output") if key in metadata}
    return {**metadata, **shapes}


def in_batches(run: Run, most: int) -> Run:
    """Return `run` for any number of images: it gets at most `most` of them at once."""
    return lambda images: torch.cat([run(images[start : start + most]) for start in range(0, len(images), most)])
