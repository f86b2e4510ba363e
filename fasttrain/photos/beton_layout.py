"""The layout of FFCV's `.beton`, version 2: header, fields, one row a sample, pages of data, table of allocations.

It is FFCV 1.0's (`ffcv/types.py`, `ffcv/fields`, `ffcv/writer.py`). Every number is little-endian, every pointer an
offset in the file.
"""

from __future__ import annotations

import numpy as np

VERSION = 2
HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD = np.dtype([("type_id", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True)
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])

FLOAT_FIELD, INT_FIELD, IMAGE_FIELD, BYTES_FIELD, ARRAY_FIELD, JSON_FIELD, TENSOR_FIELD = range(7)
"""Ids of the fields' types; FFCV writes 255 for subclasses of its own, which its reader refuses."""
IN_A_ROW = {
    FLOAT_FIELD: np.dtype("<f8"),
    INT_FIELD: np.dtype("<i8"),
    IMAGE_FIELD: IMAGE,
    BYTES_FIELD: np.dtype([("ptr", "<u8"), ("size", "<u8")]),
    ARRAY_FIELD: np.dtype("<u8"),
    JSON_FIELD: np.dtype([("ptr", "<u8"), ("size", "<u8")]),
    TENSOR_FIELD: np.dtype("<u8"),
}
"""How a field of each type stands in a sample's row."""
JPEG_MODE, RAW_MODE = 0, 1
