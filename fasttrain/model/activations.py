"""Run activations out of place where that makes training faster."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

# Their gradient needs their input, so autograd copies it before it is overwritten. ReLU's needs only the output.
_NEED_INPUT = (
    torch.nn.Hardtanh,  # ReLU6 is one
    torch.nn.Hardsigmoid,
    torch.nn.Hardswish,
    torch.nn.Mish,
    torch.nn.SiLU,
)


def keep_inputs_of_activations(model: torch.nn.Module, frozen: Sequence[torch.nn.Module]) -> int:
    """Make in-place activations of `model` run out of place if their gradient needs their input. Return how many.

    Running in place saves them no memory in training, because autograd keeps a copy of the input. Activations inside a
    module of `frozen` that has no trainable parameter still run in place. Outputs and gradients stay the same.
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
