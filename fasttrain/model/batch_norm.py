"""BatchNorm where a batch has no statistics of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from timm.layers import BatchNormAct2d
from torch.nn.modules.batchnorm import _BatchNorm

from fasttrain.model.precision import Autocast


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


@contextmanager
def statistics_kept(model: torch.nn.Module) -> Iterator[None]:
    """Have BatchNorm that trains use each batch's statistics without updating the running ones."""
    norms = [each for each in model.modules() if isinstance(each, _BatchNorm) and each.training]
    norms = [each for each in norms if each.track_running_stats]
    for each in norms:
        each.track_running_stats = False
    try:
        yield
    finally:
        for each in norms:
            each.track_running_stats = True


_COUNTING = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, BatchNormAct2d)
_COUNT = "num_batches_tracked"


def counting_norms(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the layers of `model` that count batches and make no use of the count."""
    return [
        each
        for each in model.modules()
        if type(each) in _COUNTING and each.momentum is not None and each._buffers.get(_COUNT) is not None
    ]


@contextmanager
def batches_counted_together(norms: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Have those of `counting_norms` that train add the batch to their counts in one operation, not in one each.

    The forward pass belongs inside it, where the counts are out of reach.
    """
    training = [each for each in norms if each.training and each.track_running_stats]
    counts = [count for each in training if (count := each._buffers[_COUNT]) is not None]
    for each in training:
        each._buffers[_COUNT] = None
    try:
        yield
    finally:
        for each, count in zip(training, counts, strict=True):
            each._buffers[_COUNT] = count
    if counts:
        torch._foreach_add_(counts, 1)


def trained_norms(model: torch.nn.Module, frozen: Sequence[torch.nn.Module]) -> list[str]:
    """Return the names of the BatchNorm layers with running statistics that aren't among the `frozen` modules."""
    fixed = set(frozen)
    return [
        name
        for name, each in model.named_modules()
        if isinstance(each, _BatchNorm) and each.track_running_stats and each not in fixed
    ]


def estimate_statistics(
    model: torch.nn.Module, names: Sequence[str], inputs: Iterable[torch.Tensor], autocast: Autocast
) -> None:
    """Replace the running statistics of the BatchNorm layers `names` by the mean over batches of `inputs`.

    All else is in eval mode meanwhile, and the model stays in it. A batch of one is left out, as it has no variance;
    where there is no other, the statistics stay as they are.
    """
    model.eval()
    norms = [each for name, each in model.named_modules() if name in set(names) and isinstance(each, _BatchNorm)]
    momenta = [each.momentum for each in norms]
    begun = False
    try:
        with torch.no_grad():
            for batch in inputs:
                if len(batch) < 2:
                    continue
                for each in () if begun else norms:
                    each.reset_running_stats()
                    each.momentum = None  # a mean over all batches
                    each.train()
                begun = True
                with autocast():
                    model(batch)
    finally:
        for each, momentum in zip(norms, momenta, strict=True):
            each.momentum = momentum
        model.eval()
