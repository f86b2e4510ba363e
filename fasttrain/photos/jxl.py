"""Read the size of a JPEG XL from its header. Pillow's plugin isn't used, because it decodes the entire image."""

from __future__ import annotations

_CODESTREAM = b"\xff\x0a"
_BITS = (9, 13, 18, 30)  # the number of bits for a side, chosen by a selector of two bits
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_HEAD = 16  # bytes; a header with the largest size takes 10


def jxl_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels from the SizeHeader of `data` (ISO/IEC 18181-1), or (0, 0) if there is none."""
    start = 0 if data.startswith(_CODESTREAM) else _codestream(data)
    head = data[start + 2 : start + _HEAD]
    if len(head) < 2 or data[start : start + 2] != _CODESTREAM:
        return 0, 0
    bits = _Bits(int.from_bytes(head, "little"))
    small = bits.take(1)
    height = bits.side(small)
    if ratio := bits.take(3):
        wide, high = _RATIOS[ratio]
        return height * wide // high, height
    return bits.side(small), height


class _Bits:
    """Reads numbers bit by bit."""

    def __init__(self, value: int) -> None:
        self._left = value

    def take(self, count: int) -> int:
        """Return the next `count` bits as a number, the lowest bit first."""
        value = self._left & ((1 << count) - 1)
        self._left >>= count
        return value

    def side(self, small: int) -> int:
        """Return the next side in pixels."""
        return (self.take(5) + 1) * 8 if small else self.take(_BITS[self.take(2)]) + 1


def _codestream(data: bytes) -> int:
    """Return the position of the codestream in a container, or -1 if there is none."""
    at = 0
    while 0 <= at < len(data) - 8:
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        head = 16 if length == 1 else 8
        if kind in (b"jxlc", b"jxlp"):
            return at + head + (4 if kind == b"jxlp" else 0)
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16], "big")
        if length < head:
            return -1
        at += length
    return -1
