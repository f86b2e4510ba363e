"""Read the orientation of a photograph from Exif. All formats follow the rules that Chromium applies to JPEGs."""

from __future__ import annotations

import struct

BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
"""The byte order, in the notation of `struct`, for each beginning of a TIFF header."""
_ORIENTATION_TAG, _SHORT = 0x0112, 3


def exif_orientation(block: bytes) -> int:
    """Return the orientation, 1 to 8, in an Exif block (a TIFF header and its first directory).

    The first orientation entry counts, if it is a single SHORT from 1 to 8. Otherwise the result is 1. An invalid or
    truncated block also gives 1, because a photograph with bad metadata is still usable. XMP is ignored.
    """
    order = BYTE_ORDERS.get(block[:4])
    if order is None or len(block) < 8:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, directory)
        for entry in range(count):
            tag, kind, values, value = struct.unpack_from(order + "HHIH", block, directory + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG:
                return int(value) if (kind, values) == (_SHORT, 1) and 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
