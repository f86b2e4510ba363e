"""Choose the filter that resizes a run's photographs, if the settings leave it to the model."""

from __future__ import annotations

from fasttrain.config.schema import TrainConfig
from fasttrain.model.names import own_interpolation


def with_known_interpolation(config: TrainConfig) -> tuple[TrainConfig, str]:
    """Replace interpolation = "auto" by the filter that the model's pretrained weights were trained with.

    Returns the settings and a line to print about the choice. The line is "" if `interpolation` was not "auto".
    """
    if config.interpolation != "auto":
        return config, ""
    own = own_interpolation(config.model)
    note = f"interpolation: {own}, which the pretrained weights of {config.model} were trained with"
    return config.model_copy(update={"interpolation": own}), note
