"""What a service needs of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Servable(Protocol):
    """A trained model. `decode` is called by several threads at a time, the others by one."""

    name: str
    classes: Sequence[str]
    multi_label: bool
    explains: bool

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """Return a photograph's file as the model sees it, uint8 [size, size, 3]. Raises BrokenPhoto."""

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities [n, classes] of photographs [n, size, size, 3]."""

    def chosen(self, probabilities: NDArray[np.float32], top_k: int) -> list[int]:
        """Return the classes to name, by their index, the likeliest first."""

    def heat_map(self, pixels: NDArray[np.uint8], label: int) -> bytes:
        """Return a PNG of the photograph with what speaks for the class `label`; called where `explains` is true."""
