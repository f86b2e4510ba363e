"""Read the directories of a TIFF (TIFF 6.0), to refuse images that Pillow would decode incorrectly."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Iterator
from pathlib import Path

from fasttrain.photos.exif import BYTE_ORDERS
from fasttrain.photos.formats import RAW

_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 258, 259, 262, 277
_PLANAR, _COLORMAP, _SUB_DIRECTORIES, _FORMAT, _DNG = 284, 320, 330, 339, 50706
_SIZES = {1: "B", 3: "H", 4: "I", 13: "I"}
_MOST_DIRECTORIES, _MOST_VALUES = 64, 1024
_CAMERA_PIXELS = {32803, 34892}  # colour filter array, linear raw
_CAMERA_CODECS = {32767, 32769, 34713, 65000, 65535}  # Sony, Epson, Nikon, Kodak, Pentax
_FORMATS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}

Tags = dict[int, tuple[int, ...]]


def read_tags(data: bytes) -> Tags:
    """Return the integer values in the first directory by their tags. Values that can't be read are left out."""
    return next(_directories(data), {})


def why_not_pixels(data: bytes) -> str | None:
    """Return why the first image of a TIFF can't become 8-bit pixels, or None if Pillow decodes it correctly."""
    if _is_raw(data):
        return RAW
    tags = read_tags(data)
    bits, formats = set(tags.get(_BITS, (1,))), set(tags.get(_FORMAT, (1,)))
    sample = f"{max(bits)}-bit"
    for number, name in _FORMATS.items():
        if number in formats:
            return f"TIFF of {sample} {name} samples, whose range is unknown: save it with 8 or 16 unsigned bits"
    if len(bits) > 1 or max(bits) > 16:
        return f"TIFF of {'unequal' if len(bits) > 1 else sample} samples: save it with 8 or 16 unsigned bits"
    samples = _first(tags, _SAMPLES)
    if _first(tags, _PLANAR) == 2 and samples > 1:
        grey = _first(tags, _PHOTOMETRIC, 0) < 2
        if grey or (max(bits) == 16 and _first(tags, _COMPRESSION) == 1):
            return f"TIFF of {samples} planes of {sample} samples: save it with interleaved samples"
    return None


def sample_bits(tags: Tags) -> int:
    """Return the number of bits per sample."""
    return _first(tags, _BITS)


def white_is_zero(tags: Tags) -> bool:
    """Return whether the highest sample value is black."""
    return _first(tags, _PHOTOMETRIC) == 0


def has_small_colors(data: bytes) -> bool:
    """Return whether the palette's colours have 8 bits instead of the required 16, as some programs write them."""
    colors = read_tags(data).get(_COLORMAP, ())
    return bool(colors) and 0 < max(colors) < 256


@functools.cache
def silence_libtiff() -> None:
    """Stop libtiff, which Pillow uses, from printing to the terminal. Serious problems still raise errors."""
    from PIL import _imaging  # noqa: F401 - this loads the library

    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # macOS, Windows
        return
    for path in {line.split(None, 5)[-1] for line in lines if "libtiff" in line}:
        library = ctypes.CDLL(path)
        for handler in (library.TIFFSetWarningHandler, library.TIFFSetErrorHandler):
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)


def _is_raw(data: bytes) -> bool:
    """Return whether a TIFF is a camera's raw file."""
    for tags in _directories(data):
        codec = _first(tags, _COMPRESSION) in _CAMERA_CODECS
        if _DNG in tags or codec or _first(tags, _PHOTOMETRIC) in _CAMERA_PIXELS:
            return True
    return False


def _first(tags: Tags, tag: int, default: int = 1) -> int:
    """Return the first value of a tag."""
    return tags.get(tag, (default,))[0]


def _directories(data: bytes) -> Iterator[Tags]:
    """Yield the first directory, and all directories that it refers to or that follow it."""
    order = BYTE_ORDERS.get(data[:4])
    if order is None or len(data) < 8:
        return
    waiting, seen = [struct.unpack_from(order + "I", data, 4)[0]], set[int]()
    while waiting and len(seen) < _MOST_DIRECTORIES:
        start = waiting.pop(0)
        if start in seen or not start:
            continue
        seen.add(start)
        try:
            (count,) = struct.unpack_from(order + "H", data, start)
            tags = dict(_entries(data, order, start + 2, count))
            yield tags
            waiting += tags.get(_SUB_DIRECTORIES, ())
            waiting += struct.unpack_from(order + "I", data, start + 2 + 12 * count)
        except struct.error:
            continue


def _entries(data: bytes, order: str, start: int, count: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield the tag and the values of each entry that holds integers."""
    for at in range(start, start + 12 * count, 12):
        tag, kind, values = struct.unpack_from(order + "HHI", data, at)
        if kind not in _SIZES or not 0 < values <= _MOST_VALUES:
            continue
        layout = f"{order}{values}{_SIZES[kind]}"
        inline = struct.calcsize(layout) <= 4
        try:
            yield tag, struct.unpack_from(layout, data, at + 8 if inline else _offset(data, order, at))
        except struct.error:
            continue


def _offset(data: bytes, order: str, at: int) -> int:
    """Return the offset in the entry at position `at`."""
    return int(struct.unpack_from(order + "I", data, at + 8)[0])
