"""List the members of a zip, and read them from any number of threads."""

from __future__ import annotations

import bz2
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator

from fasttrain.errors import UserError
from fasttrain.photos.container import Container, damaged

_LOCAL = struct.Struct("<4s22xHH")  # the header before a member: signature, lengths of its name and extra field
_UTF8, _ENCRYPTED = 0x800, 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


def zip_members(file: Container) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """Yield the name and the header of each member of a zip. Names of folders end with a slash.

    Raises UserError if the zip can't be read.
    """
    try:
        with zipfile.ZipFile(file.path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
        raise UserError(f"--source {file.path}: not a readable zip ({error}); copy it again") from error
    # Some Windows programs use backslashes as separators.
    windows = any("\\" in info.filename for info in members) and not any("/" in info.filename for info in members)
    for info in members:
        name = _name(info)
        yield name.replace("\\", "/") if windows else name, info


def require_readable(file: Container, info: zipfile.ZipInfo) -> None:
    """Raise UserError if a member is encrypted, or compressed by an unsupported method."""
    if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
        how = "encrypted" if info.flag_bits & _ENCRYPTED else f"compressed by method {info.compress_type}"
        raise UserError(
            f"--source {file.path}: {info.filename} is {how}, which can't be read in place; unpack the zip, and give "
            "its folder"
        )


def is_link(info: zipfile.ZipInfo) -> bool:
    """Return whether a member is a symbolic link. The content of such a member is the path of the link's target."""
    return stat.S_ISLNK(info.external_attr >> 16)


def read_member(file: Container, info: zipfile.ZipInfo, most: int | None = None) -> bytes:
    """Return the content of a member, or its first `most` bytes. Raises OSError if it is damaged."""
    signature, name, extra = _LOCAL.unpack(file.read(info.header_offset, _LOCAL.size))
    if signature != b"PK\3\4":
        raise damaged("no member is at its listed position", file.path)
    start = info.header_offset + _LOCAL.size + name + extra
    length = info.file_size if most is None else min(info.file_size, most)
    packed = info.compress_size
    if most is not None and info.compress_type == zipfile.ZIP_DEFLATED:  # bzip2 needs a complete block of 900 kB
        packed = min(packed, most + 1024)
    try:
        content = _unpacked(file.read(start, packed), info.compress_type, length)
    except (zlib.error, OSError, EOFError, OverflowError) as error:
        raise damaged(
            str(error.strerror if isinstance(error, OSError) and error.strerror else error), file.path
        ) from error
    if most is None and (len(content) != length or zlib.crc32(content) != info.CRC):
        raise damaged("a photograph's checksum differs", file.path)
    return content


def _unpacked(data: bytes, method: int, length: int) -> bytes:
    """Return the first `length` bytes of compressed data."""
    if method == zipfile.ZIP_STORED or not length:
        return data[:length]
    if method == zipfile.ZIP_BZIP2:
        return bz2.BZ2Decompressor().decompress(data, length)
    return zlib.decompressobj(-15).decompress(data, length)


def _name(info: zipfile.ZipInfo) -> str:
    """Return a member's name.

    macOS writes names in UTF-8 without setting the flag for UTF-8, so zipfile reads them as code page 437.
    """
    if info.flag_bits & _UTF8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename
