"""`--sam`: sharpness-aware minimization (Foret et al. 2021): the gradient is taken where the loss is worst nearby."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from fasttrain.training.finite import gradient_norm

_LEAST_NORM = 1e-12


@contextmanager
def climbed(parameters: Iterable[torch.Tensor], rho: float) -> Iterator[None]:
    """Inside it, the parameters with a gradient lie `rho` further along it, and have none; then they are back, bit for
    bit, with the gradient that was taken meanwhile.

    A gradient may be scaled, as its length doesn't count. Where it is not finite, the parameters stay where they are.
    Nothing waits for the device.
    """
    moved = [each for each in parameters if each.grad is not None]
    before = [each.detach().clone() for each in moved]
    norm = gradient_norm(moved)
    finite, factor = torch.isfinite(norm), rho / (norm + _LEAST_NORM)
    with torch.no_grad():
        for each in moved:
            assert each.grad is not None
            step = each.grad * factor
            each += torch.where(finite, step, torch.zeros_like(step)).to(each.dtype)
            each.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for each, values in zip(moved, before, strict=True):
                each.copy_(values)
