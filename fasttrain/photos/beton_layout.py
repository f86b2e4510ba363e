"""The layout of FFCV's `.beton` files, version 2: header, fields, a row per sample, pages of data, allocation table.

It follows FFCV 1.0 (`ffcv/types.py`, `ffcv/fields`, `ffcv/writer.py`). All numbers are little-endian, and all pointers
are offsets in the file.
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
"""The numbers of the field types. FFCV writes 255 for custom types, which its reader refuses."""
IN_A_ROW = {
    FLOAT_FIELD: np.dtype("<f8"),
    INT_FIELD: np.dtype("<i8"),
    IMAGE_FIELD: IMAGE,
    BYTES_FIELD: np.dtype([("ptr", "<u8"), ("size", "<u8")]),
    ARRAY_FIELD: np.dtype("<u8"),
    JSON_FIELD: np.dtype([("ptr", "<u8"), ("size", "<u8")]),
    TENSOR_FIELD: np.dtype("<u8"),
}
"""The dtype of each field type in a sample's row."""
JPEG_MODE, RAW_MODE = 0, 1
