"""The interface of a format: it writes a model with its metadata, and runs the file that it wrote."""

from __future__ import annotations

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
"""What `json.dumps` takes: class names, image_size, mean, std, and what goes in and comes out."""

METADATA = "metadata.json"
"""The name of the extra file that holds them, in formats that have such files."""


class Format(ABC):
    """A file format for trained models."""

    suffix: ClassVar[str]
    runtime: ClassVar[str]
    """Who runs the file, for people."""

    needs: ClassVar[tuple[str, ...]] = ()
    """The packages of the extra `export` that it imports."""

    @abstractmethod
    def write(self, model: torch.nn.Module, example: torch.Tensor, path: Path, metadata: Metadata) -> None:
        """Writes `model`, in eval mode on the CPU, so that it takes any number of pictures like `example`, [2, ...].

        Raises UserError where the model can't be had in this form.
        """

    @abstractmethod
    def open(self, path: Path, threads: int) -> Run:
        """Return a function that runs the file at `path` on `threads` threads of the CPU."""

    @abstractmethod
    def read_metadata(self, path: Path) -> dict[str, Any]:
        """Return the metadata that `write` stored in the file at `path`."""
