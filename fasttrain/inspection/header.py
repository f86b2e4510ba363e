"""What a stored JPEG's header says, read by the native module where it is there."""

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
    """Size in pixels; `sampling` as "4:2:0", "grey" or "other"."""

    width: int
    height: int
    sampling: str
    progressive: bool


def jpeg_header(data: memoryview) -> Header:
    """Raises ValueError where the markers make no sense."""
    if native_available():
        from fasttrain import _native

        info = _native.jpeg_info(data)
        return Header(info["width"], info["height"], info["sampling"], info["progressive"])
    header = read_header(bytes(data))
    sampling = "grey" if header.components == 1 else _SAMPLINGS.get(header.sampling, "other")
    return Header(header.width, header.height, sampling, header.progressive)
