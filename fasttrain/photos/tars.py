"""List the members of a tar, plain or compressed by gzip, and their positions in it."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from typing import IO

from fasttrain.errors import UserError
from fasttrain.photos.container import Container
from fasttrain.text import counted

_AT_ONCE = 1 << 20
Head = Callable[[int], bytes]
"""Returns at most the given number of a member's first bytes. It must be called before the next member is requested."""


def tar_members(file: Container) -> Iterator[tuple[tarfile.TarInfo, Head]]:
    """Yield each member of a tar, in order, and a function that reads its first bytes.

    Other tars may be appended to the first one. Raises UserError if the tar is damaged or truncated.
    """
    count = 0
    stream = file.open()
    try:
        while True:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                while info := archive.next():
                    archive.members.clear()  # type: ignore[attr-defined] # a million of them would take gigabytes
                    start, size = info.offset_data, info.size
                    yield info, lambda most, start=start, size=size: _at(stream, start, min(size, most))  # type: ignore[misc]
                    count += 1
                end = archive.offset
            if not _seek_next_tar(stream, end):
                return
    except (tarfile.TarError, EOFError) as error:
        if not count:
            raise UserError(f"--source {file.path}: not a readable tar ({error}); copy it again") from error
        raise UserError(
            f"--source {file.path}: the tar is damaged after {counted(count, 'entry', 'entries')} ({error}); copy it "
            "again"
        ) from error
    finally:
        stream.close()


def _at(stream: IO[bytes], start: int, length: int) -> bytes:
    """Return `length` bytes from position `start`."""
    stream.seek(start)
    return stream.read(length)


def _seek_next_tar(stream: IO[bytes], end: int) -> bool:
    """Seek to the tar that follows the one that ends at `end`. Return False if there is none.

    Raises ReadError if a damaged header, and not the end of the tar, is at `end`: tarfile stops at both.
    """
    block = _at(stream, end, tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it is truncated")
    if block.strip(b"\0"):
        raise tarfile.ReadError("a header is damaged")
    position = end
    while block := _at(stream, position, _AT_ONCE):
        empty = len(block) - len(block.lstrip(b"\0"))
        if empty < len(block):
            stream.seek(position + empty - empty % tarfile.BLOCKSIZE)
            return True
        position += len(block)
    return False
