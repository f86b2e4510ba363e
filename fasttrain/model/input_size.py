"""Which picture sizes a timm model takes, found by trying: on torch's meta device it computes shapes and nothing else,
in a fraction of a second."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import timm
import torch

from fasttrain.errors import UserError
from fasttrain.model.names import pretrained_config, require_model

_LEAST, _GREATEST = 16, 2048  # px, as --image-size has them
_STEPS = (8, 14, 16, 32, 64, 128, 224)  # what the sides that a model takes may be multiples of
_FINEST = 16
_CLASSES = 2

_Arguments = tuple[tuple[str, Any], ...]


def arguments_for(name: str, side: int) -> dict[str, Any]:
    """The arguments with which timm makes `name` for pictures of `side` px: none where it takes them as it is, else
    `img_size`. Raises UserError, with the nearest sizes that it takes."""
    require_model(name)
    if (found := _arguments(name, side)) is not None:
        return dict(found)
    own = own_side(name)
    if _arguments(name, own) is None:
        seen = _outcome(name, own, (), _device(name))
        why = f"({seen})" if isinstance(seen, str) else "as it gives no logits"
        raise UserError(f"model = '{name}' can't classify pictures {why}; choose another")
    nearest = [each for each in (_nearest(name, side, -1), _nearest(name, side, 1)) if each is not None]
    fitting = " or ".join(map(str, nearest))
    raise UserError(f"model = '{name}' does not take pictures of {side} px; the nearest --image-size is {fitting}")


def takes(name: str, side: int, arguments: Mapping[str, Any] | None = None) -> bool:
    """Whether `name` takes pictures of `side` px: made with `arguments`, or in any way where those are None."""
    require_model(name)
    if arguments is None:
        return _arguments(name, side) is not None
    return _runs(name, side, tuple(arguments.items()))


def own_side(name: str) -> int:
    """The side in px of the pictures that `name` was made for."""
    return int(pretrained_config(name).input_size[-1])


def _nearest(name: str, side: int, direction: int) -> int | None:
    """The nearest side below (-1) or above (1) `side` that `name` takes; None where a short search finds none."""
    multiples = {side - side % step if direction < 0 else side + step - side % step for step in _STEPS}
    tried = sorted({*multiples, own_side(name)} - {side}, key=lambda each: abs(each - side))
    failed, fitting = side, None
    for each in tried:
        if (each - side) * direction < 0 or not _LEAST <= each <= _GREATEST:
            continue
        if takes(name, each):
            fitting = each
            break
        failed = each
    while fitting is not None:
        middle = (failed + fitting) // 2 // _FINEST * _FINEST
        if not min(failed, fitting) < middle < max(failed, fitting):
            break
        if takes(name, middle):
            fitting = middle
        else:
            failed = middle
    return fitting


def _arguments(name: str, side: int) -> _Arguments | None:
    ways: tuple[_Arguments, ...] = ((), (("img_size", side),))
    return next((way for way in ways if _runs(name, side, way)), None)


def _runs(name: str, side: int, arguments: _Arguments) -> bool:
    return _outcome(name, side, arguments, _device(name)) == (1, _CLASSES)


@functools.cache
def _device(name: str) -> str:
    """Where to try: on the CPU, with real weights, where this timm can't make `name` on the meta device."""
    return "cpu" if isinstance(_outcome(name, own_side(name), (), "meta"), str) else "meta"


@functools.lru_cache(maxsize=1024)
def _outcome(name: str, side: int, arguments: _Arguments, device: str) -> tuple[int, ...] | str:
    """The shape of what `name` makes of one picture; the first line of the error where it can't."""
    try:
        with _undisturbed(), torch.device(device):
            model = timm.create_model(name, num_classes=_CLASSES, **dict(arguments)).eval()
            output = model(torch.zeros(1, 3, side, side))
    except Exception as error:  # timm and torch have a dozen kinds of saying that a size does not fit
        return (str(error) or type(error).__name__).splitlines()[0]
    return tuple(output.shape) if isinstance(output, torch.Tensor) else ()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without gradients, warnings, or a draw from the generator that the run's weights come from."""
    logger = logging.getLogger("timm")
    level = logger.level
    with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
