"""Make values that are not finite, for real: a hook in the model's own forward pass at a given batch of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def broken_at(batch: int, what: str = "loss", value: float = math.nan, until: int | None = None) -> Iterator[list[int]]:
    """While it lasts, the `batch`-th batch, counted from 1, that a model is trained on has `value` in its logits
    ("loss"), or in the gradient of finite ones ("gradient"); with `until`, so have those up to that one.

    Gives a list with one entry: the batches so far.
    """
    count = [0]

    def hook(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if not hasattr(module, "default_cfg") or not module.training or not torch.is_grad_enabled():
            return None
        count[0] += 1
        if not batch <= count[0] <= (until or batch):
            return None
        if what == "gradient":
            output.register_hook(lambda gradient: gradient * value)
            return None
        return output * value

    handle = torch.nn.modules.module.register_module_forward_hook(hook)
    try:
        yield count
    finally:
        handle.remove()
