"""Whatever a run's state holds is read back the same: values, types, dtypes and the tensors' places in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fasttrain.checkpoint.file import load_checkpoint, save_checkpoint
from fasttrain.checkpoint.packing import pack, snapshot, unpack
from fasttrain.errors import InternalError, UserError

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Draw tensors of any dtype and shape, dense, transposed or a view with gaps."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    whole = torch.randint(0, 100, shape, generator=generator).to(draw(st.sampled_from(DTYPES)))
    whole = whole.permute(draw(st.permutations(range(len(shape)))))
    if shape and draw(st.booleans()):
        whole = whole[..., :: draw(st.integers(1, 2))]
    return whole.expand(2, *whole.shape) if draw(st.booleans()) and draw(st.booleans()) else whole


texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["$tensor", "$items", "$tuple", "$float", "$stride", "$dtype", "$", "", "a.b", "__metadata__", "'", "a"]
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts | tensors() | st.sampled_from(DTYPES)
keys = texts | st.integers() | st.booleans() | st.tuples(st.integers(), texts) | st.none()
states = st.dictionaries(
    texts,
    st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(keys, inner, max_size=3)
        ),
        max_leaves=12,
    ),
    max_size=5,
)


def same(one: Any, other: Any) -> bool:
    """Equal to the bit: types, the order of dicts, NaN, negative zero, the strides of tensors."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and bool(one.equal(other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


def strides(value: Any) -> list[tuple[int, ...]]:
    if isinstance(value, torch.Tensor):
        return [value.stride()] if value.numel() else []
    if isinstance(value, dict):
        value = list(value.values())
    return [each for item in value for each in strides(item)] if isinstance(value, list | tuple) else []


@given(states)
def test_what_is_packed_is_unpacked_the_same(state: dict[str, Any]) -> None:
    copied = snapshot(state)
    packed, text = pack(copied)
    assert len(packed) == len(set(packed)) and "__metadata__" not in packed and "" not in packed
    back = unpack(packed, text)
    assert same(back, copied) and same(back, state) and strides(back) == strides(copied)
    for tensor in packed.values():
        if tensor.dtype is not torch.bool:
            tensor.zero_()
    assert same(back, state), "what is unpacked owns its memory, and a snapshot shares none with the state"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@given(states)
def test_a_file_holds_the_state(folder: Path, state: dict[str, Any]) -> None:
    path = folder / "step-00000001.safetensors"
    state.pop("schema", None)
    save_checkpoint(path, snapshot(state))
    back = load_checkpoint(path)
    assert isinstance(back.pop("schema"), int)
    assert same(back, state)


@given(st.integers(0, 10**6), st.integers(0, 7), st.booleans())
def test_any_changed_or_missing_byte_is_found(folder: Path, place: int, bit: int, cut: bool) -> None:
    path = folder / "step-00000002.safetensors"
    whole = folder / "whole.safetensors"
    if not whole.exists():
        save_checkpoint(whole, {"model": {"weight": torch.arange(100.0)}, "step": 3, "text": "ä" * 50})
    data = bytearray(whole.read_bytes())
    place %= len(data)
    if cut:
        del data[place:]
    else:
        data[place] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", torch.nn.Linear(1, 1), {"deep": [1, (2, {3})]}])
def test_what_a_checkpoint_cannot_hold_is_a_fault_of_ours(value: Any) -> None:
    with pytest.raises(InternalError, match="can't hold a"):
        pack({"value": value})


def test_a_tensor_named_twice_is_refused() -> None:
    """A small file could name one a million times, and each would take memory of its own."""
    tensors, packed = pack({"a": torch.zeros(2)})
    assert len(unpack(tensors, packed)["a"]) == 2
    twice = packed.replace('{"a":', '{"b":{"$tensor":"a"},"a":')
    assert twice != packed
    with pytest.raises(KeyError):
        unpack(tensors, twice)


@pytest.mark.parametrize("name", ["load", "float33", "nn", ""])
def test_a_dtype_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="is not a dtype"):
        unpack({}, f'{{"a":{{"$dtype":"{name}"}}}}')
