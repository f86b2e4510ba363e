"""Fit a linear classifier to given features: multinomial logistic regression with an L2 penalty."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from fasttrain.device import full_precision

_ITERATIONS_BETWEEN_CHECKS, _MOST_CHECKS = 20, 100
_LEAST_GAIN = 1e-7  # relative gain of the objective between two checks


@full_precision()
def solve_head(
    head: torch.nn.Linear,
    features: torch.Tensor,
    labels: torch.Tensor,
    criterion: torch.nn.Module,
    l2: float,
    *,
    stop_requested: Callable[[], bool] = lambda: False,
) -> bool:
    """Fit the weights and bias of `head` to all features, with an L2 penalty. Return whether this was done.

    The objective is `criterion(logits, labels) + l2 / 2 * sum(weight ** 2)`, where the weights are those for
    standardized features (mean 0, standard deviation 1). The bias is not penalized. L-BFGS (Liu and Nocedal 1989)
    minimizes the objective over the full batch until it converges, in full precision. It starts from the current
    weights, so fitting with several values of `l2`, one after the other, costs little more than fitting once.

    `features`: float32 [n, D], finite. `labels`: int64 [n], or float [n, classes] for `SetCrossEntropy`. Both are on
    the device of `head`. Returns False and leaves `head` unchanged if a stop was requested.
    """
    precise = torch.float32 if features.device.type == "mps" else torch.float64
    deviation, mean = torch.std_mean(features.to(precise), dim=0, correction=0)
    if head.bias is None:
        mean = torch.zeros_like(mean)
    constant = deviation <= 1e-6 * mean.abs() + torch.finfo(torch.float32).tiny
    deviation = torch.where(constant, torch.ones_like(deviation), deviation)
    standardized = ((features - mean) / deviation).float()

    own = head.weight.detach().to(precise)
    weight = (own * deviation).float().requires_grad_()
    bias = None if head.bias is None else (head.bias.detach() + own @ mean).float().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight] if bias is None else [weight, bias],
        max_iter=_ITERATIONS_BETWEEN_CHECKS,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        logits = torch.nn.functional.linear(standardized, weight, bias)
        value: torch.Tensor = criterion(logits, labels) + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    before = math.inf
    for _ in range(_MOST_CHECKS):
        value = optimizer.step(objective).item()
        if stop_requested():
            return False
        if before - value <= _LEAST_GAIN * abs(value):
            break
        before = value
    with torch.no_grad():
        solved = weight.to(precise) / deviation
        head.weight.copy_(solved)
        if bias is not None:
            head.bias.copy_(bias - solved @ mean)
    return True
