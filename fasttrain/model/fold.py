"""Fold BatchNorm layers with frozen statistics into the convolutions before them, so that they cost almost nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.layers.padding import pad_same

from fasttrain.device import full_precision

_PROBE = (2, 3, 64, 64)  # shape of the trial input
_TOLERANCE = 1e-3  # a share of the greatest feature


def fold_frozen(model: torch.nn.Module, frozen: Sequence[torch.nn.Module]) -> int:
    """Fold each frozen BatchNorm layer of `model` into the convolution before it. Return how many layers were folded.

    `frozen`: the modules that stay in eval mode. A BatchNorm layer is folded if it is one of these modules, and if
    nothing else reads the output of the convolution before it, which a trial run finds out. If folding would change the
    features by more than rounding, or if the model doesn't accept images of 64 px, no layer is folded. Parameters,
    buffers and `state_dict` don't change. Call this after the weights have been loaded, and don't copy the model
    afterwards.

    On a GPU the convolution must be frozen. On a CPU it may be trainable: each forward pass then folds its weights
    again, which still saves a pass over the activations. On a GPU this would launch more operations than it saves.
    """
    norms: set[torch.nn.Module] = {each for each in frozen if type(each) in (torch.nn.BatchNorm2d, BatchNormAct2d)}
    device = next(model.parameters()).device
    among = model.modules() if device.type == "cpu" else frozen
    convs: set[torch.nn.Module] = {each for each in among if type(each) in (torch.nn.Conv2d, Conv2dSame)}
    if not norms or not convs:
        return 0
    training = {module: module.training for module in model.modules()}
    # Compare features and not logits, because a new classifier makes all logits zero.
    features_of: Callable[[torch.Tensor], Any] = getattr(model, "forward_features", model)
    model.eval()
    try:
        with torch.no_grad(), full_precision():
            probe = torch.randn(_PROBE, generator=torch.Generator().manual_seed(0)).to(device)
            pairs, before = _find_pairs(model, features_of, convs, norms, probe)
            for conv, norm in pairs:
                _fold(conv, norm)
            after = features_of(probe)
    except (RuntimeError, AssertionError):  # timm asserts that the image size fits
        return 0
    finally:
        for module, flag in training.items():
            module.training = flag
    if not _alike(before, after):
        for module in itertools.chain(*pairs):
            del module.forward
        return 0
    return len(pairs)


def _alike(before: Any, after: Any) -> bool:
    if not isinstance(before, torch.Tensor):  # some models have several streams of features
        return all(itertools.starmap(_alike, zip(before, after, strict=True)))
    largest = float(before.abs().max())
    return math.isfinite(largest) and torch.allclose(after, before, rtol=_TOLERANCE, atol=_TOLERANCE * largest)


def _fold(conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d) -> None:
    variance, mean = norm.running_var, norm.running_mean
    assert variance is not None and mean is not None
    inverse = torch.rsqrt(variance + norm.eps)

    def folded() -> tuple[torch.Tensor, torch.Tensor]:
        scale = inverse if norm.weight is None else inverse * norm.weight
        bias = (-mean if conv.bias is None else conv.bias - mean) * scale
        return conv.weight * scale.reshape(-1, 1, 1, 1), bias if norm.bias is None else bias + norm.bias

    constant = folded()
    parameters = [*conv.parameters(), *norm.parameters()]

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        # The next phase of a run may train parameters that this one freezes.
        weight, bias = folded() if any(each.requires_grad for each in parameters) else constant
        if isinstance(conv, Conv2dSame):
            inputs = pad_same(inputs, conv.kernel_size, conv.stride, conv.dilation)
        return conv._conv_forward(inputs, weight, bias)

    conv.forward = forward  # type: ignore[method-assign, assignment]
    norm.forward = _forward_after_folding(norm)  # type: ignore[method-assign, assignment]


def _forward_after_folding(norm: torch.nn.BatchNorm2d) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what `norm` still has to do: dropout and activation if it is timm's, otherwise nothing."""
    if isinstance(norm, BatchNormAct2d):
        drop, act = norm.drop, norm.act
        return lambda inputs: act(drop(inputs))
    return lambda inputs: inputs


def _find_pairs(
    model: torch.nn.Module,
    features_of: Callable[[torch.Tensor], Any],
    convs: set[torch.nn.Module],
    norms: set[torch.nn.Module],
    probe: torch.Tensor,
) -> tuple[list[tuple[Any, Any]], Any]:
    """Return pairs of a convolution and the BatchNorm that alone reads its output, and the features of `probe`."""
    made: dict[int, torch.nn.Module] = {}
    readers: dict[int, list[torch.nn.Module]] = {}
    kept: list[torch.Tensor] = []  # otherwise a new tensor could get the id of a freed one

    def note(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        kept.extend((*inputs, output))
        made[id(output)] = module
        readers.setdefault(id(inputs[0]), []).append(module)

    watched = [each for each in model.modules() if not list(each.children()) or each in norms]
    handles = [module.register_forward_hook(note) for module in watched]
    try:
        features = features_of(probe)
    finally:
        for handle in handles:
            handle.remove()
    pairs = []
    for tensor, conv in made.items():
        after = readers.get(tensor, [])
        if conv in convs and len(after) == 1 and after[0] in norms:
            pairs.append((conv, after[0]))
    return pairs, features
