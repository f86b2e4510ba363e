"""The filter that resizes a run's photographs, where the settings leave it to the model."""

from __future__ import annotations

from fasttrain.config.groups import DataSettings
from fasttrain.config.interpolation import Interpolation
from fasttrain.config.schema import TrainConfig
from fasttrain.model.names import own_interpolation


def with_known_interpolation(config: TrainConfig) -> tuple[TrainConfig, str]:
    """Return `config` with the model's own filter in place of "auto", and a line about it, else an empty one."""
    if config.interpolation != "auto":
        return config, ""
    own = own_interpolation(config.model)
    note = f"interpolation: {own}, as the pretrained weights of {config.model} were trained with"
    return config.model_copy(update={"interpolation": own}), note


def filter_of(settings: DataSettings) -> Interpolation:
    """Return the filter of settings that went through `with_known_interpolation`."""
    assert settings.interpolation != "auto"
    return settings.interpolation
