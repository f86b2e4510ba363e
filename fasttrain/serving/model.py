"""The model that the service runs, and its heat maps."""

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
"""A function from a photograph, uint8 [size, size, 3], and a label to the bytes of a PNG.

The PNG shows the photograph with the class-activation map of that class over it.
"""


@dataclass
class Model:
    """A trained model to serve. `heat_map`: the function that draws its heat maps, or why there are none."""

    predictor: Predictor
    heat_map: HeatMap | str

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
        """Run the model once for each batch size in `batches`, because the first run of a size takes longer."""
        size = self.predictor.spec.geometry.image_size
        for number in batches:
            self.predictor.probabilities(np.zeros((number, size, size, 3), np.uint8))


def heat_maps(predictor: Predictor) -> HeatMap | str:
    """Return the function that draws heat maps of the predictor's model, or the reason if they can't be drawn.

    They can't be drawn for an exported file, for a model that isn't convolutional, or if the extra `explain` isn't
    installed.
    """
    if predictor.exported:
        return "an exported file has no gradients; serve the run folder"
    size = predictor.spec.geometry.image_size
    try:
        predictor.maps(np.zeros((1, size, size, 3), np.uint8), np.zeros(1, np.int64))
    except UserError as error:
        return str(error).removeprefix("--explain: ")
    from fasttrain.evaluation.explain import overlay

    def draw(pixels: NDArray[np.uint8], label: int) -> bytes:
        maps = predictor.maps(pixels[None], np.array([label]))
        Image.fromarray(overlay(pixels[None], maps)[0]).save(file := io.BytesIO(), "PNG")
        return file.getvalue()

    return draw
