"""Adjust a run's image sizes to those that its model accepts, before the run is built."""

from __future__ import annotations

from fasttrain.config.schema import TrainConfig
from fasttrain.errors import UserError
from fasttrain.model.input_size import img_size_for, own_side, takes
from fasttrain.training.progressive import side_of_epoch


def with_fitting_sizes(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """Return `config` with an image size that its model accepts, and a list of lines to print about changes.

    If no `image_size` was given and the model does not accept the default, the model's own size is used, and the list
    has a line about it. Raises UserError if the model does not accept a size that was given; for `image_size` the
    message names the nearest sizes that fit.
    """
    notes: list[str] = []
    if "image_size" not in config.model_fields_set and not takes(config.model, config.image_size):
        own = own_side(config.model)
        if takes(config.model, own):
            notes.append(
                f"image size: {own} px, the size of {config.model}, which does not take {config.image_size} px"
            )
            config = config.model_copy(update={"image_size": own})
    img_size = img_size_for(config.model, config.image_size)
    refused = [side for side in sorted(sides_of(config)) if not takes(config.model, side, img_size)]
    if refused:
        why = f"a {config.model} of {config.image_size} px does not take {refused[0]} px"
        setting = f"progressive = '{config.progressive}'"
        if refused[0] == config.eval_size:
            setting = f"eval_size = {config.eval_size}"
        raise UserError(f"{setting}: {why}; leave it out")
    return config, notes


def sides_of(config: TrainConfig) -> set[int]:
    """Return the sides, in px, of all images that the model sees in the run."""
    sides = {config.image_size, config.eval_size or config.image_size}
    return sides | {side_of_epoch(config, each) for each in range(config.epochs if config.progressive else 0)}
