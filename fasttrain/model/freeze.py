"""Freeze parts of a timm model: its first blocks, its BatchNorm statistics, or all but its classifier."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import group_parameters
from torch.nn.modules.batchnorm import _BatchNorm

from fasttrain.errors import UserError


def early_blocks(model: torch.nn.Module) -> int:
    """Return the number of layer groups in the first third of `model`, or 0 without a `group_matcher`.

    The first groups have the largest feature maps, so they take about half of a training step. They find edges and
    textures, which hardly differ between data sets (Yosinski et al. 2014).
    """
    return len(_groups(model)) // 3 if hasattr(model, "group_matcher") else 0


def freeze_blocks(model: torch.nn.Module, count: int) -> list[torch.nn.Module]:
    """Freeze the first `count` groups of layers: the stem, then block by block, as timm's `group_matcher` orders them.

    Return the modules that must stay in eval mode. Call `keep_frozen` with these after each `model.train()`. Raises
    UserError if the model has no `group_matcher`, or if it has at most `count` groups, so that none would train.
    """
    if count == 0:
        return []
    if not hasattr(model, "group_matcher"):
        raise UserError(
            f"freeze = {count}: {type(model).__name__} has no group_matcher() to find its blocks; use --freeze 0"
        )
    by_group = _groups(model)
    order = sorted(by_group)
    if count >= len(order):
        raise UserError(f"freeze = {count} leaves nothing to train: the nearest valid value is {len(order) - 1}")
    frozen = set().union(*(by_group[group] for group in order[:count]))
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return _frozen_modules(model)


def _groups(model: torch.nn.Module) -> dict[int, set[str]]:
    """Return the names of the parameters of each group of layers, as timm's `group_matcher` numbers the groups."""
    matcher: Any = model.group_matcher
    by_group: dict[int, set[str]] = {}
    for name, group in group_parameters(model, matcher(coarse=False), reverse=True).items():
        by_group.setdefault(group, set()).add(name)
    return by_group


def freeze_statistics(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the BatchNorm layers with running statistics. `keep_frozen` keeps their statistics from changing.

    The layers' weights and biases still train. If a classifier was fitted to cached features, it stays valid at first
    when the entire model trains, whereas the statistics of small batches would change the features.
    """
    return [each for each in model.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]


def freeze_body(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Freeze everything but the classifier. Return the modules that must stay in eval mode.

    Call `keep_frozen` with these after each `model.train()`. Raises UserError if the model's `get_classifier` is
    missing or doesn't return a single linear layer.
    """
    get_classifier: Any = getattr(model, "get_classifier", lambda: None)
    head = get_classifier()
    if not isinstance(head, torch.nn.Linear):
        raise UserError(f"linear_probe: the head of {type(model).__name__} is not one linear layer; use --freeze")
    own = {id(each) for each in head.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in own)
    return _frozen_modules(model)


def freeze_all_but_classifier(model: torch.nn.Module) -> tuple[list[torch.nn.Parameter], list[torch.nn.Module]]:
    """Freeze all trainable parameters outside the classifier.

    Return the parameters that were frozen now, and all modules that must stay in eval mode (for `keep_frozen`). Raises
    UserError if the model's `get_classifier` is missing or returns modules without parameters.
    """
    get_classifier: Any = getattr(model, "get_classifier", tuple)
    found = get_classifier()
    heads = found if isinstance(found, tuple) else (found,)
    own = {id(each) for head in heads if isinstance(head, torch.nn.Module) for each in head.parameters()}
    if not own:
        raise UserError(
            f"head_epochs: {type(model).__name__} does not name its classifier; give it a method get_classifier()"
        )
    frozen = [each for each in model.parameters() if each.requires_grad and id(each) not in own]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return frozen, _frozen_modules(model)


def _frozen_modules(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [
        module
        for module in model.modules()
        if (own := list(module.parameters())) and not any(each.requires_grad for each in own)
    ]


def keep_frozen(modules: list[torch.nn.Module]) -> None:
    """Put the frozen `modules` back into eval mode, in which BatchNorm doesn't update its statistics."""
    for module in modules:
        module.eval()
