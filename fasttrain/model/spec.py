"""The description that a trained model is rebuilt from and fed by; it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from fasttrain.config.geometry import Geometry


@dataclass(frozen=True)
class ModelSpec:
    """A description that a model can be rebuilt from.

    It holds timm's name or an import path, the classes in label order, how the model is shown photographs, mean and std
    of RGB in [0, 1], timm's `img_size` where the model was made with one, and the `temperature` that divides logits
    before the softmax.

    multi_label: whether each class is a decision of its own; `thresholds` are then the probabilities, one a class, from
    which on a class counts as seen. None stands for 0.5. The temperature is then 1.

    reject_threshold: the probability below which the answer is "unknown"; None where none was chosen.
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
        """The side of the model's pictures in px."""
        return self.geometry.image_size
