"""A trained model as the service takes it."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fasttrain.errors import UserError
from fasttrain.evaluation.predict import Predictor

HeatMap = Callable[[NDArray[np.uint8], int], bytes]
"""Makes a PNG of a photograph, [size, size, 3], that shows what speaks for the class of an index."""


@dataclass
class Model:
    """A predictor, and a function that makes heat maps where their library is installed."""

    predictor: Predictor
    heat_map: HeatMap | None = None

    @property
    def name(self) -> str:
        return self.predictor.spec.name

    @property
    def multi_label(self) -> bool:
        return self.predictor.spec.multi_label

    @cached_property
    def classes(self) -> list[str]:
        return list(self.predictor.spec.classes)

    def warm_up(self, *batches: int) -> None:
        """Run the model once on each number of photographs: the first run of a size takes longer."""
        size = self.predictor.spec.geometry.image_size
        for number in batches:
            self.predictor.probabilities(np.zeros((number, size, size, 3), np.uint8))


def heat_maps(predictor: Predictor) -> HeatMap | None:
    """Return the function that makes heat maps of the predictor's model; None where there are none.

    They need the extra `explain`, a run folder and a convolutional model.
    """
    size = predictor.spec.geometry.image_size
    try:
        predictor.maps(np.zeros((1, size, size, 3), np.uint8), np.zeros(1, np.int64))
    except UserError:
        return None
    from fasttrain.evaluation.explain import overlay

    def draw(pixels: NDArray[np.uint8], label: int) -> bytes:
        maps = predictor.maps(pixels[None], np.array([label]))
        Image.fromarray(overlay(pixels[None], maps)[0]).save(file := io.BytesIO(), "PNG")
        return file.getvalue()

    return draw
