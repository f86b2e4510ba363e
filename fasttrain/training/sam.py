"""`--sam`: sharpness-aware minimization (Foret et al. 2021), which uses the gradient at the worst nearby weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from fasttrain.training.finite import gradient_norm

_LEAST_NORM = 1e-12


@contextmanager
def climbed(parameters: Iterable[torch.Tensor], rho: float) -> Iterator[None]:
    """Move the parameters a distance of `rho` along their gradient. At the end of the context, move them back exactly.

    All gradients count as one vector. They are cleared at the beginning, and those computed inside the context remain.
    They may have been scaled, because only their direction matters. If they are not all finite, the parameters don't
    move. The host doesn't wait for the device.
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
