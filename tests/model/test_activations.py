"""Activations out of place: the same numbers, without autograd's copies."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fasttrain.model.activations import keep_inputs_of_activations
from fasttrain.model.freeze import freeze_blocks, freeze_statistics


class Operations(TorchDispatchMode):
    """Count operations by their name."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[function._schema.name] += 1
        return function(*args, **(kwargs or {}))


def gradients(model: torch.nn.Module) -> tuple[list[torch.Tensor], int]:
    """Return the logits and all gradients of a step, and how many copies it made."""
    torch.manual_seed(0)
    with Operations() as operations:
        logits = model(torch.randn(2, 3, 64, 64))
        logits.square().sum().backward()
    return [logits, *(each.grad for each in model.parameters() if each.grad is not None)], operations.count[
        "aten::clone"
    ]


@pytest.mark.parametrize(("name", "count"), [("mobilenetv2_035", 35), ("efficientnet_b0", 49)])
def test_gradients_are_the_same_without_a_copy_for_each_activation(name, count):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3)
    before, copies = gradients(model)
    model.zero_grad()
    assert keep_inputs_of_activations(model, []) == count
    after, fewer = gradients(model)
    assert copies - fewer == count
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_norms_that_train_but_for_their_statistics_are_not_frozen():
    model = timm.create_model("mobilenetv2_035", num_classes=3)
    frozen = freeze_blocks(model, 3)
    both = [*frozen, *freeze_statistics(model)]
    other = timm.create_model("mobilenetv2_035", num_classes=3)
    assert keep_inputs_of_activations(model, both) == keep_inputs_of_activations(other, freeze_blocks(other, 3)) > 0


def test_frozen_activations_stay_in_place():
    model = timm.create_model("mobilenetv2_035", num_classes=3)
    frozen = freeze_blocks(model, 3)
    assert 0 < keep_inputs_of_activations(model, frozen) < 35
    assert model.bn1.act.inplace


@pytest.mark.parametrize(
    "kind", [torch.nn.ReLU6, torch.nn.SiLU, torch.nn.Hardswish, torch.nn.Hardsigmoid, torch.nn.Mish, torch.nn.ReLU]
)
def test_those_whose_gradient_needs_the_output_alone_stay_in_place(kind):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), kind(inplace=True))
    _, copies = gradients(model)
    assert keep_inputs_of_activations(model, []) == copies
