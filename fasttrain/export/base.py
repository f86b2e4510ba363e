"""The interface of a format: it writes a model with its metadata, and runs the file that it wrote."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

Run = Callable[[torch.Tensor], torch.Tensor]
"""Images of any number, on the CPU, to logits, float32 [n, classes]."""


def inferring(module: Callable[[torch.Tensor], torch.Tensor]) -> Run:
    """`module` without autograd."""

    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return module(images)

    return run


Metadata = Mapping[str, Any]
"""Plain data for `json.dumps`: class names, image_size, mean, std, and what goes in and comes out."""

METADATA = "metadata.json"
"""The name of the extra file that holds them, in formats that have such files."""


def as_text(value: Any) -> str:
    """Return a value of the metadata for a format that holds text alone: text as it is, the others as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def from_text(text: str) -> Any:
    """Return what `as_text` was given."""
    try:
        return json.loads(text)
    except ValueError:
        return text


class Format(ABC):
    """A file format for trained models."""

    suffix: ClassVar[str]
    runtime: ClassVar[str]
    """Who runs the file, for people."""

    needs: ClassVar[tuple[str, ...]] = ()
    """The packages that it imports."""

    extra: ClassVar[str] = "export"
    """The extra that brings them."""

    tolerance: ClassVar[float] = 1e-3
    """How much a logit may differ from the model's, as a share of the greatest one."""

    unchecked: ClassVar[str | None] = None
    """Why the file can't be run on this machine, in which case it isn't compared with the model."""

    calibration: ClassVar[int] = 0
    """How many photographs of the training split `write` wants, to choose the ranges of integers with."""

    @abstractmethod
    def write(self, model: torch.nn.Module, examples: torch.Tensor, path: Path, metadata: Metadata) -> None:
        """Write `model`, in eval mode on the CPU, so that it takes any number of pictures like `examples`, [n, ...].

        n is at least 2, and `calibration` where the data has as many. What the format adds to the metadata, such as
        the layers that stay in floating point, is in what `read_metadata` returns. Raises UserError where the model
        can't be had in this form.
        """

    @abstractmethod
    def open(self, path: Path, threads: int) -> Run:
        """Return a function that runs the file at `path` on `threads` threads of the CPU."""

    @abstractmethod
    def read_metadata(self, path: Path) -> dict[str, Any]:
        """Return the metadata that `write` stored in the file at `path`."""
