"""BatchNorm with frozen statistics costs next to nothing: its scale and shift go into the convolution before it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.layers.padding import pad_same

from fasttrain.device import full_precision

_PROBE = (2, 3, 64, 64)
_TOLERANCE = 1e-3


def fold_frozen(model: torch.nn.Module, frozen: Sequence[torch.nn.Module]) -> int:
    """Fold each BatchNorm among the `frozen` modules, which stay in eval mode, into the convolution before it.

    Return how many were folded: those that a trial run of `model` finds, 0 where its features would not stay the same
    within rounding or where it can't take pictures of 64 px. Parameters, buffers and `state_dict` stay as they are.
    Call it when they have been loaded, and not before the model is copied.

    What trains is folded anew in each forward pass, on a CPU only: passes over activations are what takes time there.
    A GPU would launch more operations.
    """
    norms: set[torch.nn.Module] = {each for each in frozen if type(each) in (torch.nn.BatchNorm2d, BatchNormAct2d)}
    device = next(model.parameters()).device
    among = model.modules() if device.type == "cpu" else frozen
    convs: set[torch.nn.Module] = {each for each in among if type(each) in (torch.nn.Conv2d, Conv2dSame)}
    if not norms or not convs:
        return 0
    training = {module: module.training for module in model.modules()}
    # Not the logits: a new classifier makes them all zero, whatever the features are.
    features_of: Callable[[torch.Tensor], Any] = getattr(model, "forward_features", model)
    model.eval()
    try:
        with torch.no_grad(), full_precision():
            probe = torch.randn(_PROBE, generator=torch.Generator().manual_seed(0)).to(device)
            pairs, before = _find_pairs(model, features_of, convs, norms, probe)
            for conv, norm in pairs:
                _fold(conv, norm)
            after = features_of(probe)
    except (RuntimeError, AssertionError):  # timm's word for "a wrong size" is an assertion
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
        # A phase that freezes more, and ends, changes what requires a gradient.
        weight, bias = folded() if any(each.requires_grad for each in parameters) else constant
        if isinstance(conv, Conv2dSame):
            inputs = pad_same(inputs, conv.kernel_size, conv.stride, conv.dilation)
        return conv._conv_forward(inputs, weight, bias)

    conv.forward = forward  # type: ignore[method-assign, assignment]
    norm.forward = _rest_of(norm)  # type: ignore[method-assign, assignment]


def _rest_of(norm: torch.nn.BatchNorm2d) -> Callable[[torch.Tensor], torch.Tensor]:
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
    made: dict[int, torch.nn.Module] = {}
    readers: dict[int, list[torch.nn.Module]] = {}
    kept: list[torch.Tensor] = []  # else a freed tensor's id comes again

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
