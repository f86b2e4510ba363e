"""`ModelSpec`: all that is needed to rebuild a trained model and to feed it. It needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from fasttrain.config.geometry import Geometry


@dataclass(frozen=True)
class ModelSpec:
    """The description of a trained model, from which it can be rebuilt.

    `name`: timm's name or an import path. `classes`: their names, in label order. `geometry`: how photographs are
    resized and cropped. `mean`, `std`: three numbers for R, G and B in [0, 1], which normalize the pixels. `img_size`:
    timm's argument of that name, or None if the model was created without it. `temperature`: divides the logits before
    the softmax.

    `multi_label`: True if a photograph can have several classes. The temperature is then 1, and `thresholds` holds the
    probability from which each class counts as present; None stands for 0.5 for all classes.

    `reject_threshold`: the answer is "unknown" if the greatest probability is below this. None: no answer is rejected.
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
        """Return the side of the model's square input, in px."""
        return self.geometry.image_size
