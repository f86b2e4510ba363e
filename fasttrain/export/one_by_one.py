"""Helpers for formats whose files take only a limited number of photographs at once, often one."""

from __future__ import annotations

from typing import Any

import torch

from fasttrain.export.base import Metadata, Run


def for_one(metadata: Metadata) -> dict[str, Any]:
    """Return `metadata` with the shapes of a file that takes one image: [1, ...] in place of [n, ...]."""
    shapes = {key: metadata[key].replace("[n, ", "[1, ") for key in ("input", "output") if key in metadata}
    return {**metadata, **shapes}


def in_batches(run: Run, most: int) -> Run:
    """Return a function that takes any number of images and calls `run` with at most `most` of them at once."""
    return lambda images: torch.cat([run(images[start : start + most]) for start in range(0, len(images), most)])
