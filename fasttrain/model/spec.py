"""`ModelSpec`: all that is needed to rebuild a trained model and to feed it. It needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from fasttrain.config.geometry import Geometry


@dataclass(frozen=True)
class ModelSpec:
    """The description of a trained model, from which it can be rebuilt.

    `name`: timm's name or an import path. `classes`: their names, in label order. `geometry`: how photographs are
    resized and cropped. `mean`, `std`: of RGB in [0, 1]. `img_size`: timm's argument of that name, or None if the model
    was created without it. `temperature`: divides the logits before the softmax.

    `multi_label`: each class is a separate yes-or-no decision, and the temperature is 1. `thresholds`: the probability
    from which each class counts as present in such a model. None stands for 0.5.

    `reject_threshold`: the probability below which the answer is "unknown". None if none was chosen.
    """

    name: str
    classes: tuple[str, ...]
    geometry: Geometry
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    img_size: int | None = None
    multi_label: bool = False
    thresholds: tuple[float, ...] | None = None
    temperature: float = 1.0
    reject_threshold: float | None = None

    @property
    def image_size(self) -> int:
        """Return the side in px of the images that the model is given."""
        return self.geometry.image_size
