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
    """Make BatchNorm use its running statistics, without updating them, for a batch of a single sample.

    One sample has no variance. `samples`: the size of the batch. The context does nothing unless `samples` is 1 and
    `batch_size` is greater, as in an epoch's last batch. Run both the forward and the backward pass in the context.
    SyncBatchNorm layers don't change, because they compute their statistics from the samples of all ranks.
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
    """Keep the running statistics of BatchNorm from being updated in this context.

    Layers in training mode still normalize by the statistics of the batch.
    """
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
    """Return the BatchNorm layers of `model` that count batches in `num_batches_tracked` but don't use the count.

    Layers with `momentum` None do use it, because their running statistics are a mean over all batches. They are not
    returned.
    """
    return [
        each
        for each in model.modules()
        if type(each) in _COUNTING and each.momentum is not None and each._buffers.get(_COUNT) is not None
    ]


@contextmanager
def batches_counted_together(norms: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Increase `num_batches_tracked` of all `norms` in training mode with one operation instead of one per layer.

    `norms`: the layers that `counting_norms` returns. Run one forward pass in this context. Within the context,
    `num_batches_tracked` of these layers is None; the increased counts return at its end.
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
    """Return the names of the BatchNorm layers of `model` that have running statistics and aren't in `frozen`."""
    fixed = set(frozen)
    return [
        name
        for name, each in model.named_modules()
        if isinstance(each, _BatchNorm) and each.track_running_stats and each not in fixed
    ]


def estimate_statistics(
    model: torch.nn.Module, names: Sequence[str], inputs: Iterable[torch.Tensor], autocast: Autocast
) -> None:
    """Replace the running statistics of the BatchNorm layers `names` by the mean of the batch statistics of `inputs`.

    `inputs`: batches for the model, float [n, 3, H, W]. Batches of one sample are skipped, because they have no
    variance; if there are no others, the statistics don't change. `autocast`: the context for the forward passes. Only
    the named layers are in training mode meanwhile. Afterwards the entire model is in eval mode.
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
