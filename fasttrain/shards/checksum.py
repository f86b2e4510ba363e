"""Checksums: CRC-32 of a sample's bytes, as zlib computes it, and SHA-256 of a file."""

from __future__ import annotations

import hashlib
import zlib
from typing import IO

from fasttrain.photos.cut import native_available

CHANGED = "its bytes have changed since it was converted"


def crc32(data: bytes | memoryview) -> int:
    """Return zlib's CRC-32. The native module, if installed, needs a fifth of zlib's time."""
    if not native_available():
        return zlib.crc32(data)
    from fasttrain import _native

    return _native.crc32(data)


def sha256_of(file: IO[bytes], begin: bytes = b"") -> str:
    """Return the hexadecimal SHA-256 of `begin` and the rest of `file`, which need not fit into memory."""
    digest = hashlib.sha256(begin)
    while part := file.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()
