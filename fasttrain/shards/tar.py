"""Tar shards with WebDataset's names, and the index for DALI's `readers.webdataset`."""

from __future__ import annotations

import functools
import hashlib
import json
import tarfile
from collections.abc import Sequence
from typing import IO

BLOCK = tarfile.BLOCKSIZE
_INDEX_VERSION = "v1.2"
_NPY_HEADER = 128
_AT_ONCE = 1 << 20  # each write and each hash releases the GIL and then waits for it
_NAME, _SIZE, _CHECKSUM = 100, 124, 148  # in a USTAR header: the name's length, and the positions of these two


def label_member(label: int | Sequence[int]) -> tuple[str, bytes]:
    """Return the suffix and the bytes of a label's member: a number in `.cls`, or a set as `{"labels": [0, 3]}`.

    A set goes into `.json`, because WebDataset decodes `.cls` to one number.
    """
    return ("cls", b"%d" % label) if isinstance(label, int) else ("json", json.dumps({"labels": [*label]}).encode())


def npy_header(height: int, width: int) -> bytes:
    """Return the 128 bytes that make uint8 RGB pixels [height, width, 3] a `.npy` file of format 1.0, as NumPy 2
    writes it.

    NumPy's own writer isn't used, because its padding has changed between releases.
    """
    shape = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({height}, {width}, 3), }}"
    text = shape.encode().ljust(_NPY_HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


class TarWriter:
    """Write USTAR members into `file`, with the same bytes for the same members, and record their positions.

    `size`: bytes so far. `sha256`: their digest after `close()`, which writes the end of the archive. The file stays
    open.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.size = 0
        self._file = file
        self._digest = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._written = 0
        self._samples: list[str] = []

    @property
    def sha256(self) -> str:
        """The digest, 64 hex digits."""
        return self._digest.hexdigest()

    def add(self, key: str, photo: bytes, label: int | Sequence[int], kind: str = "jpg", head: bytes = b"") -> int:
        """Write `head` and `photo` as one member `key`.`kind`, and `label` as another. Return the position of `photo`.

        `key` is ASCII without spaces, has no dot in its base name, and at most 96 bytes. Raises ValueError otherwise.
        """
        if not key.isascii() or " " in key or "." in key.rpartition("/")[2] or len(key) + len(".cls") > _NAME:
            raise ValueError(f"not a shard's key: {key!r}")
        label_kind, text = label_member(label)
        offset = self._member(f"{key}.{kind}", photo, head)
        label_offset = self._member(f"{key}.{label_kind}", text)
        length = len(head) + len(photo)
        self._samples.append(
            f"{kind} {offset} {length} {key}.{kind} {label_kind} {label_offset} {len(text)} {key}.{label_kind}"
        )
        return offset + len(head)

    def close(self) -> None:
        """Write the end of the archive: two empty blocks, and zeros up to a complete record, as tar does."""
        self._put(bytes(size_of_shard(self.size) - self.size))
        self._write()

    def dali_index(self) -> bytes:
        """Return the text that DALI's `wds2idx` makes from this tar."""
        return "\n".join([f"{_INDEX_VERSION} {len(self._samples)}", *self._samples, ""]).encode()

    def _member(self, name: str, data: bytes, head: bytes = b"") -> int:
        length = len(head) + len(data)
        self._put(member_header(name, length), head)
        offset = self.size - len(head)
        self._put(data, bytes(-length % BLOCK))
        if self.size - self._written >= _AT_ONCE:
            self._write()
        return offset

    def _put(self, *pieces: bytes) -> None:
        self._waiting += pieces
        self.size += sum(map(len, pieces))

    def _write(self) -> None:
        data = b"".join(self._waiting)
        self._file.write(data)
        self._digest.update(data)
        self._waiting.clear()
        self._written = self.size


@functools.cache
def _blank_header() -> tuple[bytes, int]:
    """Return the part that all headers share, and the sum of its bytes without size and checksum."""
    info = tarfile.TarInfo()
    info.mode = 0o644
    blank = info.tobuf(tarfile.USTAR_FORMAT)
    return blank, sum(blank) - sum(blank[_SIZE : _SIZE + 12]) - sum(blank[_CHECKSUM : _CHECKSUM + 8])


def size_of_shard(members: int) -> int:
    """Return the size of a tar whose members end after `members` bytes: two more empty blocks, in complete records."""
    end = members + 2 * BLOCK
    return end + -end % tarfile.RECORDSIZE


def member_header(name: str, length: int) -> bytes:
    """Return the 512 bytes before a member of `length` bytes."""
    # Only the blank is made by tarfile, which takes ten times as long.
    blank, blank_sum = _blank_header()
    text, size = name.encode(), b"%011o\0" % length
    checksum = blank_sum + sum(text) + sum(size) + 8 * ord(" ")
    return b"".join(
        (
            text.ljust(_NAME, b"\0"),
            blank[_NAME:_SIZE],
            size,
            blank[_SIZE + 12 : _CHECKSUM],
            b"%06o\0 " % checksum,
            blank[_CHECKSUM + 8 :],
        )
    )
