"""Create a model for a run's classes: one of timm's, with pretrained or random weights, or the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch

from fasttrain.config.geometry import Geometry
from fasttrain.config.model_name import is_own
from fasttrain.errors import UserError, first_line
from fasttrain.model.classifier import start_classifier
from fasttrain.model.hub import cache_only_without_network
from fasttrain.model.names import require_model, timm_arguments
from fasttrain.model.own import OwnModel, create_own
from fasttrain.model.spec import ModelSpec as ModelSpec


def create_model(
    model: str | OwnModel,
    num_classes: int,
    *,
    pretrained: bool = False,
    drop_rate: float = 0.0,
    drop_path: float = 0.0,
    img_size: int | None = None,
) -> torch.nn.Module:
    """Return the model named `model` with a classifier for `num_classes`, on the CPU in fp32.

    `model`: a timm name or hf-hub:OWNER/NAME. An import path, a function or a module stands for the user's own model,
    which `create_own` makes. `pretrained`: load timm's weights. `drop_rate`: the probability of dropout before the
    classifier, in [0, 1). `drop_path`: the probability of stochastic depth, in [0, 1). `img_size`: timm's argument of
    that name, as `img_size_for` returns it.

    Raises UserError if the name is unknown, if the pretrained weights don't exist or can't be downloaded, or if
    `drop_path` is above 0 and the model has no stochastic depth.
    """
    if not isinstance(model, str) or is_own(model):
        return create_own(model, num_classes, pretrained=pretrained, drop_rate=drop_rate, drop_path=drop_path)
    require_model(name := model)
    made: Any
    arguments = {**timm_arguments(name), "num_classes": num_classes, "drop_rate": drop_rate}
    if img_size is not None:
        arguments["img_size"] = img_size
    if not pretrained:
        made = _create(arguments, drop_path)
        start_classifier(made)
        return made
    try:
        with cache_only_without_network():
            made = _create({**arguments, "pretrained": True}, drop_path)
    except UserError:
        raise
    except RuntimeError as error:  # timm raises it if the model has no pretrained weights
        raise UserError(f"model = '{name}': {first_line(error)}; give --weights FILE or --no-pretrained") from error
    except Exception as error:  # the hub client raises errors of httpx, of requests and its own
        raise UserError(
            f"model = '{name}': its pretrained weights can't be downloaded ({type(error).__name__}); "
            "give --weights FILE or --no-pretrained"
        ) from error
    if num_classes != made.pretrained_cfg.get("num_classes"):  # else timm has loaded the pretrained classifier
        start_classifier(made)
    return made


def enable_grad_checkpointing(model: torch.nn.Module) -> None:
    """Make `model` store only the activations between its blocks, and recompute all others in the backward pass.

    The method is from Chen et al. 2016 (arXiv:1604.06174). Raises UserError if the model doesn't support it.
    """
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError):  # timm asserts that the model supports it
        name = type(model).__name__
        raise UserError(f"grad_checkpointing: {name} does not support it; use --no-grad-checkpointing") from None


def model_spec(
    model: torch.nn.Module, name: str, classes: Sequence[str], geometry: Geometry, img_size: int | None = None
) -> ModelSpec:
    """Return the description of a `model` that `create_model` made from `name` and `img_size`.

    `classes`: their names, in label order. `geometry`: how photographs are resized and cropped in evaluation. The mean
    and standard deviation of the pixels are those that timm gives for this model.
    """
    data = timm.data.resolve_model_data_config(model)
    return ModelSpec(name, tuple(classes), geometry, tuple(data["mean"]), tuple(data["std"]), img_size)


def _create(arguments: Mapping[str, Any], drop_path: float) -> torch.nn.Module:
    if not drop_path:
        made: torch.nn.Module = timm.create_model(**arguments)
        return made
    try:
        made = timm.create_model(**arguments, drop_path_rate=drop_path)
        has_some = any(getattr(each, "drop_prob", 0.0) for each in made.modules())
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        has_some = False
    if not has_some:
        raise UserError(
            f"drop_path = {drop_path:g}: model = '{arguments['model_name']}' has no stochastic depth; use --drop-rate, "
            "or leave drop_path out"
        )
    return made
