"""Write shards as tars with WebDataset's names, and the index that DALI's `readers.webdataset` needs."""

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
_AT_ONCE = 1 << 20  # bytes; every write and every hash has to wait for the GIL afterwards, so they are few and large
_NAME, _SIZE, _CHECKSUM = 100, 124, 148  # in a USTAR header: the length of the name, the positions of the other two


def label_member(label: int | Sequence[int]) -> tuple[str, bytes]:
    """Return the suffix and the bytes of a label's member in the tar.

    One class is a number in `.cls`. Several classes are `{"labels": [0, 3]}` in `.json`, because WebDataset decodes
    `.cls` to one number.
    """
    return ("cls", b"%d" % label) if isinstance(label, int) else ("json", json.dumps({"labels": [*label]}).encode())


def npy_header(height: int, width: int) -> bytes:
    """Return the 128 bytes that turn uint8 RGB pixels [height, width, 3] into a `.npy` file of format 1.0.

    They are the bytes that NumPy 2 writes. NumPy's own function isn't used, because its padding has changed between
    releases.
    """
    shape = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({height}, {width}, 3), }}"
    text = shape.encode().ljust(_NPY_HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


class TarWriter:
    """Writes samples to a USTAR archive, with the same bytes for the same samples, and records their positions.

    `size` is the number of bytes so far. `sha256` is their digest, which is complete after `close`. The file itself is
    not closed.
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
        """Return the digest, 64 hex digits."""
        return self._digest.hexdigest()

    def add(self, key: str, photo: bytes, label: int | Sequence[int], kind: str = "jpg", head: bytes = b"") -> int:
        """Write a photograph and its label as two members, and return the position of `photo` in the tar.

        The photograph's member is `key`.`kind`, and contains `head` and then `photo`. `key` is ASCII without spaces,
        has at most 96 bytes, and no dot after its last slash; otherwise ValueError is raised.
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
        """Write the end of the archive: two empty blocks, and zeros up to a multiple of 10,240 bytes, as tar does."""
        self._put(bytes(size_of_shard(self.size) - self.size))
        self._write()

    def dali_index(self) -> bytes:
        """Return the contents of the index file that DALI's `wds2idx` makes for this tar."""
        return "\n".join([f"{_INDEX_VERSION} {len(self._samples)}", *self._samples, ""]).encode()

    def _member(self, name: str, data: bytes, head: bytes = b"") -> int:
        """Write a member. Return the position of its content."""
        length = len(head) + len(data)
        self._put(member_header(name, length), head)
        offset = self.size - len(head)
        self._put(data, bytes(-length % BLOCK))
        if self.size - self._written >= _AT_ONCE:
            self._write()
        return offset

    def _put(self, *pieces: bytes) -> None:
        """Add bytes to the buffer."""
        self._waiting += pieces
        self.size += sum(map(len, pieces))

    def _write(self) -> None:
        """Write the buffer to the file."""
        data = b"".join(self._waiting)
        self._file.write(data)
        self._digest.update(data)
        self._waiting.clear()
        self._written = self.size


@functools.cache
def _blank_header() -> tuple[bytes, int]:
    """Return the bytes that all headers have in common, and the sum of those that don't change with size and
    checksum."""
    info = tarfile.TarInfo()
    info.mode = 0o644
    blank = info.tobuf(tarfile.USTAR_FORMAT)
    return blank, sum(blank) - sum(blank[_SIZE : _SIZE + 12]) - sum(blank[_CHECKSUM : _CHECKSUM + 8])


def size_of_shard(members: int) -> int:
    """Return the size in bytes of a tar whose members end at byte `members`.

    Two empty blocks follow, and zeros up to a multiple of 10,240 bytes.
    """
    end = members + 2 * BLOCK
    return end + -end % tarfile.RECORDSIZE


def member_header(name: str, length: int) -> bytes:
    """Return the 512 bytes before a member of `length` bytes."""
    # tarfile makes only the common bytes, because it would take ten times as long for each header.
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
