"""ICC profiles of well-known RGB spaces."""

from __future__ import annotations

import struct
from collections.abc import Sequence

Primaries = Sequence[Sequence[float]]

P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))


_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def profile(primaries: Primaries, gamma: float | None, *, grey: bool = False) -> bytes:
    """Return a matrix profile (ICC.1:2004) with these primaries as XYZ under D50, and a power curve or sRGB's."""

    def xyz(three: Sequence[float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in three)

    if gamma is None:
        curve = b"para\0\0\0\0\0\3\0\0" + b"".join(struct.pack(">i", round(each * 65536)) for each in _SRGB_CURVE)
    else:
        curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = [(b"desc", b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(82)), (b"wtpt", xyz((0.9642, 1, 0.8249)))]
    tags += [(b"kTRC", curve)] if grey else []
    for letter, three in zip("" if grey else "rgb", primaries, strict=False):
        tags += [(f"{letter}XYZ".encode(), xyz(three)), (f"{letter}TRC".encode(), curve)]
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, data in tags:
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s6H4s", start + len(body), b"lcms", 0x02100000, b"mntr", b"GRAY" if grey else b"RGB ",
                       b"XYZ ", 2024, 1, 1, 0, 0, 0, b"acsp")  # fmt: skip
    head += bytes(28) + xyz((0.9642, 1, 0.8249))[8:]
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body
