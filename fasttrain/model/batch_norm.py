"""BatchNorm where a batch has no statistics of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def running_statistics(model: torch.nn.Module) -> Iterator[None]:
    """Inside it, forward and backward pass, BatchNorm in training takes its running statistics and leaves them alone.

    SyncBatchNorm does not, whose statistics are those of all ranks' samples.
    """
    norms = [
        each
        for each in model.modules()
        if isinstance(each, _BatchNorm) and not isinstance(each, torch.nn.SyncBatchNorm) and each.training
    ]
    for each in norms:
        each.training = False
    try:
        yield
    finally:
        for each in norms:
            each.training = True
