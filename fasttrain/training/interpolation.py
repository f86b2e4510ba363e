"""The filter that resizes a run's photographs, where the settings leave it to the model."""

from __future__ import annotations

from fasttrain.config.schema import TrainConfig
from fasttrain.model.names import own_interpolation


def with_known_interpolation(config: TrainConfig) -> tuple[TrainConfig, str]:
    """Return `config` with the model's own filter in place of "auto", and a line about it, else an empty one."""
    if config.interpolation != "auto":
        return config, ""
    own = own_interpolation(config.model)
    note = f"interpolation: {own}, as the pretrained weights of {config.model} were trained with"
    return config.model_copy(update={"interpolation": own}), note
