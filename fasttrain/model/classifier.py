"""The classifier of a timm model: which layers it consists of, and how a new one is initialized."""

from __future__ import annotations

from typing import Any

import torch

_LINEAR = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)


def classifier_names(model: torch.nn.Module) -> tuple[str, ...]:
    """Return the names of the modules of `model` that turn features into logits.

    timm replaces these modules for another number of classes. Some distilled models have two of them. A model without
    a classifier has none.
    """
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    names = config.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def start_classifier(model: torch.nn.Module) -> None:
    """Set the weights and biases of the last linear layers of the classifier of `model` to zero.

    All classes are then equally likely at first and the loss is ln(classes). timm draws these weights for 1,000
    classes: with ten their standard deviation can be 0.18 and the first loss 3 to 9, and the first hundreds of steps
    send large gradients into the pretrained body. Zeros are what Big Transfer (Kolesnikov et al. 2020) fine-tunes from.
    """
    for name in classifier_names(model):
        try:
            module = model.get_submodule(name)
        except AttributeError:
            continue
        layers = [each for each in module.modules() if isinstance(each, _LINEAR)]
        for layer in layers[-1:]:
            torch.nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)
