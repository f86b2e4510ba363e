"""Find the image sizes that a timm model accepts, by trying them.

On torch's meta device a model only computes shapes, which takes a fraction of a second.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import timm
import torch

from fasttrain.config.model_name import is_own
from fasttrain.errors import UserError, first_line
from fasttrain.model.names import pretrained_config, require_model, timm_arguments

_LEAST, _GREATEST = 16, 2048  # px, the range of --image-size
_STEPS = (8, 14, 16, 32, 64, 128, 224)  # px; a model's sides are often multiples of one of these
_FINEST = 16  # px
_CLASSES = 2


def img_size_for(name: str, side: int) -> int | None:
    """Return the argument `img_size` with which timm must create the model `name` for images of `side` px.

    Return None if the model accepts this size without the argument. Raises UserError, with the nearest accepted sizes,
    if it doesn't accept this size in any way, and if it fails or returns no logits for its own size.
    """
    require_model(name)
    if takes(name, side):
        return None
    if takes(name, side, side):
        return side
    own = own_side(name)
    if not _fits(name, own):
        seen = _outcome(name, own, None, _device(name))
        why = f"fails on pictures of its own {own} px ({seen})" if isinstance(seen, str) else "returns no logits"
        raise UserError(f"model = '{name}' {why}; choose another")
    nearest = [each for each in (_nearest(name, side, -1), _nearest(name, side, 1)) if each is not None]
    fitting = " or ".join(map(str, nearest))
    raise UserError(f"model = '{name}' does not take pictures of {side} px; the nearest --image-size is {fitting}")


def takes(name: str, side: int, img_size: int | None = None) -> bool:
    """Return whether the timm model `name`, created with `img_size`, accepts images of `side` px.

    Return True for any model of the user's own, because `require_logits` tries these after they have been created.
    """
    require_model(name)
    return is_own(name) or _outcome(name, side, img_size, _device(name)) == (1, _CLASSES)


def own_side(name: str) -> int:
    """Return the image side in px that the pretrained weights of `name` were made for."""
    return int(pretrained_config(name).input_size[-1])


def _nearest(name: str, side: int, direction: int) -> int | None:
    """Return a near side below (`direction` -1) or above (1) `side` that `name` accepts, or None if none is found.

    Only some sides are tried, so a nearer one may exist.
    """
    multiples = {((side - 1) // step if direction < 0 else side // step + 1) * step for step in _STEPS}
    tried = sorted({*multiples, own_side(name)} - {side}, key=lambda each: abs(each - side))
    failed, fitting = side, None
    for each in tried:
        if (each - side) * direction < 0 or not _LEAST <= each <= _GREATEST:
            continue
        if _fits(name, each):
            fitting = each
            break
        failed = each
    while fitting is not None:
        middle = (failed + fitting) // 2 // _FINEST * _FINEST
        if not min(failed, fitting) < middle < max(failed, fitting):
            break
        if _fits(name, middle):
            fitting = middle
        else:
            failed = middle
    return fitting


def _fits(name: str, side: int) -> bool:
    return takes(name, side) or takes(name, side, side)


@functools.cache
def _device(name: str) -> str:
    """Return the device to try on: "meta", or "cpu" with real weights if this timm can't make `name` on "meta"."""
    return "cpu" if isinstance(_outcome(name, own_side(name), None, "meta"), str) else "meta"


@functools.lru_cache(maxsize=1024)
def _outcome(name: str, side: int, img_size: int | None, device: str) -> tuple[int, ...] | str:
    """Return the shape of the output of `name` for one image, or the first line of the error if the model fails.

    The shape is () if the output isn't a tensor.
    """
    try:
        with _undisturbed(), torch.device(device):
            sized = {} if img_size is None else {"img_size": img_size}
            model = timm.create_model(**{**timm_arguments(name), "num_classes": _CLASSES, **sized}).eval()
            output = model(torch.zeros(1, 3, side, side))
    except Exception as error:  # timm and torch raise many kinds of errors for a size that does not fit
        return first_line(error)
    return tuple(output.shape) if isinstance(output, torch.Tensor) else ()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Disable gradients and warnings in this context, and restore the generator that draws the run's weights."""
    logger = logging.getLogger("timm")
    level = logger.level
    with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
