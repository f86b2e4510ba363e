"""Activations that training runs faster out of place than in place."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

# Their gradient needs their input, which autograd copies before they overwrite it. ReLU's needs the output alone.
_NEED_INPUT = (
    torch.nn.Hardtanh,  # ReLU6 is one
    torch.nn.Hardsigmoid,
    torch.nn.Hardswish,
    torch.nn.Mish,
    torch.nn.SiLU,
)


def keep_inputs_of_activations(model: torch.nn.Module, frozen: Sequence[torch.nn.Module]) -> int:
    """Have activations of `model` that need their input for the gradient write elsewhere. Return how many.

    In place they need as much memory, and a copy more. Those inside `frozen` modules that don't train have no
    gradient and stay in place. Outputs and gradients are the same, bit for bit.
    """
    still = [each for each in frozen if not any(own.requires_grad for own in each.parameters())]
    without_gradient = set(itertools.chain.from_iterable(each.modules() for each in still))
    found = [
        each
        for each in model.modules()
        if isinstance(each, _NEED_INPUT) and each.inplace and each not in without_gradient
    ]
    for each in found:
        each.inplace = False
    return len(found)
