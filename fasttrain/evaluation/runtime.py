"""The interface of a trained model that is ready to run, independent of the library that runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fasttrain.errors import UserError
from fasttrain.model.spec import ModelSpec


class Runtime(ABC):
    """A trained model that is ready to run. `spec` describes its input and its classes.

    `exported`: whether the model is an exported file, which has no gradients.

    In all methods `pixels` is uint8 [n, size, size, 3]: n photographs, cropped and resized as `spec.geometry` says.
    """

    spec: ModelSpec
    exported: ClassVar[bool] = True

    @abstractmethod
    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits of the photographs, float32 [n, classes]."""

    def maps(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a class-activation map for each photograph, float32 [n, size, size] in [0, 1].

        `labels`: int64 [n], the class to explain for each. Raises UserError for an exported file, which has no
        gradients, and for a model that isn't convolutional.
        """
        raise UserError("--explain: an exported file has no gradients; give the run folder as --checkpoint")

    def embeddings(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the input of the classifier, float32 [n, features], and the logits, float32 [n, classes].

        Raises UserError for an exported file, and for a model without timm's `get_classifier`.
        """
        raise UserError("embeddings: an exported file can't compute them; give the run folder as --checkpoint")
