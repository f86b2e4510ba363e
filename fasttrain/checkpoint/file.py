"""Write and read checkpoint files: safetensors, with everything that is not a tensor as JSON in the metadata."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from fasttrain.checkpoint.packing import pack, unpack
from fasttrain.checkpoint.pickled import load_pickled
from fasttrain.errors import TooNew, UserError, of_os
from fasttrain.files import atomic_write, make_folder
from fasttrain.shards.checksum import sha256_of

SCHEMA = 3
_BEGIN = b'{"__metadata__":{"sha256":"'
_DIGEST_AT, _DIGEST_LENGTH = 8 + len(_BEGIN), 64
"""The digest is that of the complete file, with zeros in the place of the digest.

Later schemas keep this beginning, so that an intact file of a later one can be distinguished from a torn one.
"""

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state`, a dict of CPU tensors and plain data, to `path`, completely or not at all.

    Raises UserError if the folder can't be written or the disk is full. An earlier file at `path` then remains.
    """
    tensors, packed = pack(state)
    # safetensors' own `save` builds the file in memory twice and holds the GIL, so training would wait.
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))  # this aligns each tensor
    header = _header(ordered, packed)
    try:
        make_folder(path.parent)
        with atomic_write(path) as file:
            digest = hashlib.sha256()
            for part in itertools.chain((len(header).to_bytes(8, "little"), header), map(_bytes, ordered.values())):
                digest.update(part)
                file.write(part)
            file.seek(_DIGEST_AT)
            file.write(digest.hexdigest().encode())
    except OSError as error:
        raise of_os(error, path) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the state in the checkpoint `path`, as `save_checkpoint` got it, with the file's version as "schema".

    Tensors are on the CPU. States of older versions are converted. Reading never runs code. Raises UserError for a file
    that is missing, damaged, not a checkpoint, or of a newer version.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(_DIGEST_AT + _DIGEST_LENGTH)
        if begin[8:_DIGEST_AT] != _BEGIN:
            if path.suffix != ".safetensors":
                return load_pickled(path)
            raise UserError(
                f"{path}: not a fasttrain checkpoint, or damaged at its beginning; use --weights for a file of weights"
            )
        if begin[_DIGEST_AT:].decode("ascii", "replace") != _digest(path):
            raise UserError(f"{path}: not an intact fasttrain checkpoint (its checksum is wrong)")
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            if int(metadata["schema"]) > SCHEMA:
                schema = metadata["schema"]
                raise TooNew(f"{path}: schema {schema} is newer than this fasttrain's {SCHEMA}; upgrade fasttrain")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return {"schema": SCHEMA, **unpack(tensors, metadata["state"])}
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give --resume a run folder or a checkpoint") from None
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not an intact fasttrain checkpoint ({reason[:120]})") from error


def _header(tensors: dict[str, torch.Tensor], packed: str) -> bytes:
    metadata = {"sha256": "0" * _DIGEST_LENGTH, "format": "pt", "schema": str(SCHEMA), "state": packed}
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _bytes(tensor: torch.Tensor) -> Any:
    # as_strided, because a tensor with at most one element may have any strides and still be contiguous.
    return tensor.contiguous().as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().data


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        begin = bytearray(file.read(_DIGEST_AT + _DIGEST_LENGTH))
        begin[_DIGEST_AT:] = b"0" * (len(begin) - _DIGEST_AT)
        return sha256_of(file, bytes(begin))
