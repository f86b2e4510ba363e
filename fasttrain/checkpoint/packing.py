"""Convert a run's state to named tensors and JSON for everything else, and back, exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch

from fasttrain.errors import InternalError

_TENSOR, _STRIDE, _TUPLE, _FLOAT, _ITEMS, _DTYPE = "$tensor", "$stride", "$tuple", "$float", "$items", "$dtype"


def snapshot(value: Any) -> Any:
    """Return a deep copy of `value`, a nesting of dicts, lists and tuples, with all tensors copied to the CPU.

    Tensors keep their memory layout. Training can continue while the copy is written.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: snapshot(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([snapshot(each) for each in value])
    return value


def pack(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], str]:
    """Return the tensors of `state` by their paths ("model.conv_stem.weight"), and JSON text for everything else.

    `state` may hold dicts, lists, tuples, tensors, None, bool, int, float (also infinite and NaN), str and torch.dtype.
    Raises InternalError for a value of another type.
    """
    tensors: dict[str, torch.Tensor] = {}
    return tensors, json.dumps(_packed(state, "", tensors), allow_nan=False, separators=(",", ":"))


def unpack(tensors: Mapping[str, torch.Tensor], packed: str) -> Any:
    """Return the state of which `pack` made `tensors` and the JSON text `packed`.

    No two of its tensors share memory. Raises ValueError, KeyError or RuntimeError for data that `pack` did not write.
    """
    return _unpacked(json.loads(packed), dict(tensors))


def _packed(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {_FLOAT: str(value)}
    if isinstance(value, torch.dtype):
        return {_DTYPE: str(value).removeprefix("torch.")}
    if isinstance(value, torch.Tensor):
        name = path
        while name in tensors or name in ("", "__metadata__"):  # {"a.b": …} next to {"a": {"b": …}}
            name += "'"
        tensors[name] = value
        usual = not value.numel() or value.stride() == _row_major(value.shape)
        return {_TENSOR: name} if usual else {_TENSOR: name, _STRIDE: list(value.stride())}
    if isinstance(value, (list, tuple)):
        each = [_packed(item, _below(path, number), tensors) for number, item in enumerate(value)]
        return each if isinstance(value, list) else {_TUPLE: each}
    if isinstance(value, Mapping):
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: _packed(item, _below(path, key), tensors) for key, item in value.items()}
        items = [(key, _packed(key, path, {}), item) for key, item in value.items()]
        return {_ITEMS: [[packed, _packed(item, _below(path, key), tensors)] for key, packed, item in items]}
    raise InternalError(f"a checkpoint can't hold a {type(value).__name__} ({path})")


def _unpacked(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        # Each tensor is used once, so that a crafted file can't fill the memory with copies.
        return _laid_out(tensors.pop(value[_TENSOR]), value.get(_STRIDE))
    if _TUPLE in value:
        return tuple(_unpacked(each, tensors) for each in value[_TUPLE])
    if _FLOAT in value:
        return float(value[_FLOAT])
    if _DTYPE in value:
        return _dtype(value[_DTYPE])
    if _ITEMS in value:
        return {_unpacked(key, tensors): _unpacked(each, tensors) for key, each in value[_ITEMS]}
    return {key: _unpacked(each, tensors) for key, each in value.items()}


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name!r} is not a dtype")
    return found


def _laid_out(tensor: torch.Tensor, stride: list[int] | None) -> torch.Tensor:
    # Fused kernels of optimizers read parameters and moments in memory order, so the layout is part of the state.
    if stride is None:
        return tensor.clone()
    extent = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, stride, strict=True))
    if extent != tensor.numel() or min(stride) < 0:
        raise ValueError(f"strides {stride} for {list(tensor.shape)}")
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)


def _row_major(shape: torch.Size) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _below(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
