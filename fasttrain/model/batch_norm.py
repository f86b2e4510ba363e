"""BatchNorm where a batch has no statistics of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def running_statistics_if_lone(model: torch.nn.Module, samples: int, batch_size: int) -> Iterator[None]:
    """Have BatchNorm use its running statistics, and not update them, for a lone sample of a greater `batch_size`.

    Forward and backward pass belong inside it. SyncBatchNorm is left alone: it takes the samples of all ranks.
    """
    lone = samples == 1 < batch_size
    norms = [
        each
        for each in (model.modules() if lone else ())
        if isinstance(each, _BatchNorm) and not isinstance(each, torch.nn.SyncBatchNorm) and each.training
    ]
    for each in norms:
        each.training = False
    try:
        yield
    finally:
        for each in norms:
            each.training = True
