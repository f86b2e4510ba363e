"""Read the header of a stored JPEG, with the native module if it is installed."""

from __future__ import annotations

from dataclasses import dataclass

from fasttrain.photos.cut import native_available
from fasttrain.photos.jpeg import read_header

_SAMPLINGS: dict[tuple[tuple[int, int], ...], str] = {
    ((2, 2), (1, 1), (1, 1)): "4:2:0",
    ((2, 1), (1, 1), (1, 1)): "4:2:2",
    ((1, 2), (1, 1), (1, 1)): "4:4:0",
    ((1, 1), (1, 1), (1, 1)): "4:4:4",
    ((4, 1), (1, 1), (1, 1)): "4:1:1",
}


@dataclass(frozen=True)
class Header:
    """The header of a JPEG: its size in pixels, and its chroma `sampling`: "4:2:0", "grey", "other", …"""

    width: int
    height: int
    sampling: str
    progressive: bool


def jpeg_header(data: memoryview) -> Header:
    """Parse the header of the JPEG in `data`. Raises ValueError for invalid markers."""
    if native_available():
        from fasttrain import _native

        info = _native.jpeg_info(data)
        return Header(info["width"], info["height"], info["sampling"], info["progressive"])
    header = read_header(bytes(data))
    sampling = "grey" if header.components == 1 else _SAMPLINGS.get(header.sampling, "other")
    return Header(header.width, header.height, sampling, header.progressive)
