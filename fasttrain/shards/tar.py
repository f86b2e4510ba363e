"""Tar shards as WebDataset names them, and the index that DALI's `readers.webdataset` takes."""

from __future__ import annotations

import hashlib
import tarfile
from typing import IO

_BLOCK = tarfile.BLOCKSIZE
_INDEX_VERSION = "v1.2"
_NPY_HEADER = 128


def npy_header(height: int, width: int) -> bytes:
    """128 bytes that make uint8 RGB pixels [height, width, 3] a `.npy` file, format 1.0, as NumPy 2 writes it.

    NumPy's own writer isn't asked, since its padding has changed between releases.
    """
    shape = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({height}, {width}, 3), }}"
    text = shape.encode().ljust(_NPY_HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


class TarWriter:
    """Writes USTAR members into `file`, the same bytes for the same members, and keeps where they lie.

    `size`: bytes so far. `sha256`: over them. `close()` writes the end; the file stays open.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.size = 0
        self._file = file
        self._digest = hashlib.sha256()
        self._samples: list[str] = []

    @property
    def sha256(self) -> str:
        """64 hex digits over what is written so far."""
        return self._digest.hexdigest()

    def add(self, key: str, photo: bytes, label: int, kind: str = "jpg") -> int:
        """Writes `key`.`kind` and `key`.cls; returns the offset of the photograph's first byte.

        `key` is ASCII without spaces, its base name without a dot, at most 96 bytes. Raises
        ValueError otherwise.
        """
        if not key.isascii() or " " in key or "." in key.rpartition("/")[2]:
            raise ValueError(f"not a shard's key: {key!r}")
        text = b"%d" % label
        offset, label_offset = self._member(f"{key}.{kind}", photo), self._member(f"{key}.cls", text)
        self._samples.append(f"{kind} {offset} {len(photo)} {key}.{kind} cls {label_offset} {len(text)} {key}.cls")
        return offset

    def close(self) -> None:
        """Two empty blocks, and zeros up to a whole record, as tar itself does."""
        end = self.size + 2 * _BLOCK
        self._write(bytes(2 * _BLOCK + -end % tarfile.RECORDSIZE))

    def dali_index(self) -> bytes:
        """The text that DALI's `wds2idx` makes of this tar."""
        return "\n".join([f"{_INDEX_VERSION} {len(self._samples)}", *self._samples, ""]).encode()

    def _member(self, name: str, data: bytes) -> int:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return offset

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)
