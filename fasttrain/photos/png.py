"""Reduce a PNG to its pixels, so that damage in other parts has no effect (PNG specification, third edition)."""

from __future__ import annotations

import contextlib
import struct
import zlib
from dataclasses import dataclass

_SIGNATURE = 8
_MOST_PROFILE = 4 << 20
_SCALE = {2: 85, 4: 17}  # the factors by which Pillow decodes grey samples of 2 and 4 bits


@dataclass(frozen=True)
class PngParts:
    """A PNG without metadata (`pixels`), its Exif block and its ICC profile.

    The block and the profile are empty if they are missing or damaged.
    """

    pixels: bytes
    exif: bytes
    profile: bytes


def split_png(data: bytes) -> PngParts:
    """Split a PNG into its parts. Chunks that don't affect pixels are left out, and so are damaged ancillary chunks.

    As in browsers, an Exif block only counts if it comes before the pixels.
    """
    kept, exif, profile = [data[:_SIGNATURE]], b"", b""
    position, header, pixels = _SIGNATURE, b"", False
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        body = data[position + 8 : end - 4]
        critical = not kind[0] & 0x20
        if critical or end > len(data):
            kept.append(data[position:end])
            header = body if kind == b"IHDR" else header
            pixels = pixels or kind == b"IDAT"
        elif zlib.crc32(kind + body) == int.from_bytes(data[end - 4 : end], "big"):
            if kind == b"tRNS":
                kept.append(_chunk(kind, _scaled(header, body)))
            elif kind == b"eXIf" and not pixels:
                exif = exif or body
            elif kind == b"iCCP":
                profile = profile or _inflated(body)
        position = end
        if kind == b"IEND":
            break
    return PngParts(b"".join(kept), exif, profile)


def _inflated(body: bytes) -> bytes:
    """Return the ICC profile in a chunk, or no bytes if it is damaged."""
    packed = body.partition(b"\0")[2][1:]
    with contextlib.suppress(zlib.error):
        inflate = zlib.decompressobj()
        profile = inflate.decompress(packed, _MOST_PROFILE)
        if inflate.eof:
            return profile
    return b""


def _scaled(header: bytes, body: bytes) -> bytes:
    # Pillow compares them with 8-bit pixels at any depth of the PNG, except for 16-bit grey.
    """Return the transparent colour in the form in which Pillow compares it with pixels."""
    if len(header) < 10 or len(body) % 2:
        return body
    depth, color = header[8], header[9]
    samples = struct.unpack(f">{len(body) // 2}H", body)
    if color == 0 and depth in _SCALE:
        samples = tuple((sample * _SCALE[depth]) & 0xFF for sample in samples)
    elif color == 2 and depth == 16:
        samples = tuple(sample >> 8 for sample in samples)
    else:
        return body
    return struct.pack(f">{len(samples)}H", *samples)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
