"""The classifier of a timm model: which layers it consists of, and how a new one is initialized."""

from __future__ import annotations

from typing import Any

import torch

_LINEAR = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)


def classifier_names(model: torch.nn.Module) -> tuple[str, ...]:
    """Return the names of the modules of `model` that turn features into logits.

    These are the modules that timm replaces if a model gets another number of classes. Some distilled models have two.
    The result is empty for a model without a classifier.
    """
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    names = config.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def start_classifier(model: torch.nn.Module) -> None:
    """Set the weights and biases of the last linear layers of the classifier of `model` to zero.

    All classes are then equally likely at first, and the loss is ln(number of classes). timm's own random weights suit
    1,000 classes. For ten classes their standard deviation can be 0.18 and the first loss 3 to 9, so hundreds of steps
    send large gradients into the pretrained layers. Big Transfer (Kolesnikov et al. 2020) fine-tunes from zeros.
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
