"""Control BatchNorm's statistics: for a batch of one sample, for a repeated pass and for averaged weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from timm.layers import BatchNormAct2d
from torch.nn.modules.batchnorm import _BatchNorm

from fasttrain.model.precision import Autocast


@contextmanager
def running_statistics_if_lone(model: torch.nn.Module, samples: int, batch_size: int) -> Iterator[None]:
    """Make BatchNorm use its running statistics, without updating them, if a batch has a single sample.

    This applies if `samples` is 1 and `batch_size` is greater, as in an epoch's last batch: one sample has no variance.
    Run the forward and the backward pass in this context. SyncBatchNorm doesn't change, because it computes its
    statistics from the samples of all ranks.
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
    """Make BatchNorm layers in training mode use each batch's statistics without updating their running statistics."""
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
    """Return the BatchNorm layers of `model` that count batches but don't use the count.

    Layers with `momentum` None use it: their running statistics are a mean over all batches.
    """
    return [
        each
        for each in model.modules()
        if type(each) in _COUNTING and each.momentum is not None and each._buffers.get(_COUNT) is not None
    ]


@contextmanager
def batches_counted_together(norms: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Update the batch counts of all `norms` in training mode with one operation instead of one per layer.

    Run the forward pass in this context. The counts are `num_batches_tracked`, which is None for these layers within
    the context. `norms` are the layers that `counting_norms` returns.
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
    """Return the names of the BatchNorm layers that have running statistics and are not among the `frozen` modules."""
    fixed = set(frozen)
    return [
        name
        for name, each in model.named_modules()
        if isinstance(each, _BatchNorm) and each.track_running_stats and each not in fixed
    ]


def estimate_statistics(
    model: torch.nn.Module, names: Sequence[str], inputs: Iterable[torch.Tensor], autocast: Autocast
) -> None:
    """Replace the running statistics of the BatchNorm layers `names` by their mean over the batches of `inputs`.

    `inputs` yields float [n, 3, H, W]. All other layers are in eval mode meanwhile, and the model stays in eval mode
    afterwards. Batches of one sample are skipped, because they have no variance. Without other batches the statistics
    don't change.
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
