"""The interface of an export format: write a model with its metadata to a file, and run that file."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

Run = Callable[[torch.Tensor], torch.Tensor]
"""A function from any number of images, on the CPU, to logits, float32 [n, classes]."""


def inferring(module: Callable[[torch.Tensor], torch.Tensor]) -> Run:
    """Return a function that runs `module` in torch's inference mode, without autograd."""

    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return module(images)

    return run


Metadata = Mapping[str, Any]
"""A description of the model, which can be written as JSON: class names, image_size, mean, std, input and output."""

METADATA = "metadata.json"
"""The name of the file in which archive formats store the metadata."""


def as_text(value: Any) -> str:
    """Return a value of the metadata as text. A string is returned unchanged, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def from_text(text: str) -> Any:
    """Return the value in `text`: the parsed JSON, or `text` itself if it isn't JSON. It reverses `as_text`."""
    try:
        return json.loads(text)
    except ValueError:
        return text


class Format(ABC):
    """A file format for trained models."""

    suffix: ClassVar[str]
    runtime: ClassVar[str]
    """The name of the library that runs the file, for tables and messages."""

    needs: ClassVar[tuple[str, ...]] = ()
    """The import names of the packages that writing or running a file needs."""

    extra: ClassVar[str] = "export"
    """The extra of fasttrain that installs these packages."""

    tolerance: ClassVar[float] = 1e-3
    """The default of `export`'s `tolerance`: the greatest difference of a logit, as a share of the greatest logit."""

    unchecked: ClassVar[str | None] = None
    """Why this machine can't run files of the format; None if it can. If it can't, file and model aren't compared."""

    calibration: ClassVar[int] = 0
    """The number of training photographs from which `write` chooses the ranges of integers; 0 for a float format."""

    @abstractmethod
    def write(self, model: torch.nn.Module, examples: torch.Tensor, path: Path, metadata: Metadata) -> None:
        """Write `model` and `metadata` to the file `path`.

        `model`: in eval mode, on the CPU. `examples`: inputs of the model, [n, ...]: n is `calibration`, or less if the
        data has fewer photographs, and 2 for a float format. A format may add entries to the metadata, for instance the
        layers that stay in floating point. Raises UserError if the model can't be converted to the format.
        """

    @abstractmethod
    def open(self, path: Path, threads: int) -> Run:
        """Return a function that runs the file at `path` with `threads` CPU threads, for any number of images."""

    @abstractmethod
    def read_metadata(self, path: Path) -> dict[str, Any]:
        """Return the metadata that `write` stored in the file at `path`."""
