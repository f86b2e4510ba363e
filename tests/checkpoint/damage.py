"""Checkpoints that are damaged or made to do harm, for the tests here and in tests/reliability."""

from __future__ import annotations

import collections
import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fasttrain.checkpoint import file as checkpoint_file


def truncate(path: Path, drawn: random.Random) -> str:
    """Cuts `path` anywhere, and says where."""
    size = drawn.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.truncate(size)
    return f"cut to {size} bytes"


def flip_bit(path: Path, drawn: random.Random) -> str:
    """Flips one bit anywhere in `path`, half of the times among the first 20,000 bytes, where its header is."""
    size = path.stat().st_size
    at, bit = drawn.randrange(drawn.choice((min(size, 20_000), size))), drawn.randrange(8)
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))
    return f"bit {bit} of byte {at}"


class _Calls:
    def __init__(self, function: Callable[..., Any], *given: Any) -> None:
        self.reduced = function, given

    def __reduce__(self) -> Any:
        return self.reduced


def bombs(folder: Path) -> dict[str, Path]:
    """Files that would each make a file `went-off` in `folder`, were they unpickled; or that would fill the memory.

    All lie in `folder`; the name says how it was made.
    """
    mark = folder / "went-off"
    shell = _Calls(os.system, f"touch {mark}")
    opened = _Calls(open, str(mark), "w")
    made: dict[str, Path] = {}

    def path(name: str) -> Path:
        made[name] = folder / f"{name.replace(' ', '-')}.pt"
        return made[name]

    torch.save(shell, path("shell"))
    torch.save({"schema": 2, "model": {"weight": torch.zeros(3)}, "epoch": shell}, path("in a checkpoint"))
    torch.save({"schema": 1, shell: 1} | {"step": 1}, path("as a key"))
    torch.save({"schema": 2, "history": [{"loss": opened}]}, path("open"))
    torch.save({"schema": 2, "x": shell}, path("legacy format"), _use_new_zipfile_serialization=False)
    path("bare pickle").write_bytes(pickle.dumps({"schema": 2, "x": shell}))
    path("protocol 5").write_bytes(pickle.dumps({"schema": 2, "x": shell}, protocol=5))
    torch.save({"schema": 2, "x": _Calls(eval, f"open({str(mark)!r}, 'w')")}, path("eval"))
    torch.save({"schema": 2, "x": _Calls(getattr, shell, "reduced")}, path("getattr"))
    torch.save({"schema": 2, "x": collections.UserDict({"a": 1})}, path("class"))
    for name in ("shell", "in a checkpoint"):
        disguised = folder / "checkpoints" / f"step-{len(made):08d}.safetensors"
        disguised.parent.mkdir(exist_ok=True)
        disguised.write_bytes(made[name].read_bytes())
        made[f"{name} as safetensors"] = disguised
    with zipfile.ZipFile(path("zip bomb"), "w", zipfile.ZIP_DEFLATED) as archive:
        buffer = io.BytesIO()
        torch.save({"schema": 2}, buffer)
        with zipfile.ZipFile(buffer) as honest:
            for each in honest.infolist():
                archive.writestr(each.filename, honest.read(each))
            archive.writestr(honest.namelist()[0].split("/")[0] + "/data/0", bytes(50_000_000))
    return made


def with_metadata(path: Path, **changes: str) -> None:
    """Rewrites an intact checkpoint's metadata, checksum included."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save

    with safe_open(path, "pt") as file:
        metadata = {**file.metadata(), **changes}
    whole = save(load_file(path), {"sha256": "", **{k: v for k, v in metadata.items() if k != "sha256"}})
    length = int.from_bytes(whole[:8], "little")
    import json

    header = json.loads(whole[8 : 8 + length])
    header["__metadata__"] = {"sha256": "0" * 64, **{k: v for k, v in metadata.items() if k != "sha256"}}
    ordered = {"__metadata__": header.pop("__metadata__"), **header}
    text = json.dumps(ordered, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    digest = checkpoint_file._digest(path).encode()
    with path.open("r+b") as file:
        file.seek(checkpoint_file._DIGEST_AT)
        file.write(digest)
