"""A trained model as a function of pixels, whichever library runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from fasttrain.errors import UserError
from fasttrain.model.spec import ModelSpec


class Runtime(ABC):
    """A trained model, ready to run. `spec` describes what it sees and says."""

    spec: ModelSpec

    @abstractmethod
    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits, [n, classes], of photographs as the spec's geometry shows them, [n, size, size, 3]."""

    def maps(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return class-activation maps, [n, size, size] in [0, 1]; `labels`: the class to explain for each photograph.

        Raises UserError where the runtime has no gradients, or the model no such maps.
        """
        raise UserError("--explain: an exported file has no gradients; give --checkpoint the run folder")

    def embeddings(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the features that the classifier sees, [n, features], and the logits, [n, classes].

        Raises UserError where the runtime can't look inside the model.
        """
        raise UserError("embeddings: an exported file gives logits alone; give --checkpoint the run folder")
