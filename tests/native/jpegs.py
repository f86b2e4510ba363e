"""JPEGs for the native module's tests: of any sampling factors, number of components, scans and markers.

Pillow writes few of these, so `random_jpeg` is a small encoder of its own: random quantised coefficients, no
DCT, and Huffman tables of one code length.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Factors = tuple[tuple[int, int], ...]
Mcu = list[tuple[int, int, int]]  # component, row and column of each block

FACTORS: dict[str, Factors] = {
    "4:2:0": ((2, 2), (1, 1), (1, 1)),
    "4:2:2": ((2, 1), (1, 1), (1, 1)),
    "4:4:0": ((1, 2), (1, 1), (1, 1)),
    "4:4:4": ((1, 1), (1, 1), (1, 1)),
    "4:1:1": ((4, 1), (1, 1), (1, 1)),
    "grey": ((1, 1),),
    "grey 2x2": ((2, 2),),
    "4:4:4 as 2x1": ((2, 1), (2, 1), (2, 1)),
    "cmyk": ((1, 1), (1, 1), (1, 1), (1, 1)),
    "ycck 4:2:0": ((2, 2), (1, 1), (1, 1), (2, 2)),
}
# Pictures that few encoders write, and that our own decoder leaves to libjpeg.
UNUSUAL: dict[str, Factors] = {
    "Cb larger than Cr": ((2, 2), (2, 2), (1, 1)),
    "Cb wide, Cr tall": ((2, 2), (2, 1), (1, 2)),
    "Cr larger than luma": ((1, 1), (1, 1), (2, 2)),
    "chroma larger than luma": ((1, 1), (2, 2), (2, 2)),
    "thirds": ((3, 1), (1, 1), (1, 1)),
}
FACTORS |= UNUSUAL
ADOBE = {"cmyk": 0, "ycck 4:2:0": 2}

# DC: 12 codes of 4 bits; AC: run 0..15 and size 1..11, ZRL and EOB, codes of 8 bits.
_AC_SYMBOLS = [0x00, 0xF0, *(run << 4 | size for run in range(16) for size in range(1, 12))]
_AC_CODE = {symbol: f"{code:08b}" for code, symbol in enumerate(_AC_SYMBOLS)}


def marker(code: int, body: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(body) + 2) + body


def _magnitude(value: int) -> tuple[int, str]:
    size = abs(value).bit_length()
    return size, format(value if value > 0 else value + (1 << size) - 1, f"0{size}b") if size else ""


def _block_bits(block: NDArray[np.int64], prediction: int) -> str:
    size, extra = _magnitude(int(block[0]) - prediction)
    return f"{size:04b}{extra}{_ac_bits(block, 1, 63)}"


def _ac_bits(block: NDArray[np.int64], first: int, last: int) -> str:
    bits = []
    previous = first - 1
    for k in np.flatnonzero(block[first : last + 1]) + first:
        run, previous = int(k) - previous - 1, int(k)
        bits += [_AC_CODE[0xF0]] * (run // 16)
        size, extra = _magnitude(int(block[k]))
        bits += [_AC_CODE[(run % 16) << 4 | size], extra]
    if previous < last:
        bits.append(_AC_CODE[0x00])
    return "".join(bits)


def _entropy_bytes(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")


def _scan(
    blocks: list[NDArray[np.int64]],
    mcus: list[list[tuple[int, int, int]]],
    components: list[int],
    restart: int,
    ids: bytes,
) -> bytes:
    selectors = b"".join(bytes([ids[c], 0]) for c in components)
    out = [marker(0xDA, bytes([len(components)]) + selectors + b"\0\x3f\0")]
    step = restart or len(mcus)
    for number, start in enumerate(range(0, len(mcus), step)):
        if number:
            out.append(bytes([0xFF, 0xD0 | (number - 1) % 8]))
        prediction = dict.fromkeys(components, 0)
        bits = []
        for mcu in mcus[start : start + step]:
            for c, row, column in mcu:
                bits.append(_block_bits(blocks[c][row, column], prediction[c]))
                prediction[c] = int(blocks[c][row, column, 0])
        out.append(_entropy_bytes("".join(bits)))
    return b"".join(out)


def _interleaved(factors: Factors, rows: int, columns: int) -> Iterator[list[tuple[int, int, int]]]:
    for y in range(rows):
        for x in range(columns):
            yield [(c, y * v + j, x * h + i) for c, (h, v) in enumerate(factors) for j in range(v) for i in range(h)]


def _sizes(width: int, height: int, factors: Factors) -> tuple[int, int, list[tuple[int, int]]]:
    """MCU rows and columns, and each component's own rows and columns of blocks."""
    most_h, most_v = max(h for h, _ in factors), max(v for _, v in factors)
    own = [(-(-height * v // (8 * most_v)), -(-width * h // (8 * most_h))) for h, v in factors]
    return -(-height // (8 * most_v)), -(-width // (8 * most_h)), own


def encode_blocks(
    width: int,
    height: int,
    factors: Factors,
    blocks: list[NDArray[np.int64]],
    quantisation: bytes,
    *,
    ids: bytes = b"\1\2\3\4",
    restart: int = 0,
    interleaved: bool = True,
    extra: bytes = b"",
) -> bytes:
    """A baseline JPEG of quantised coefficients, one [block rows, block columns, 64] array a component, whole MCUs.

    `restart` in MCUs, `extra` are markers to put after SOI.
    """
    rows, columns, sizes = _sizes(width, height, factors)
    order = list(range(len(factors)))
    head = _head(0xC0, width, height, factors, quantisation, ids, extra)
    if restart:
        head.append(marker(0xDD, struct.pack(">H", restart)))
    if interleaved and len(factors) > 1:
        scans = [_scan(blocks, list(_interleaved(factors, rows, columns)), order, restart, ids)]
    else:
        scans = [
            _scan(blocks, [[(c, y, x)] for y in range(sizes[c][0]) for x in range(sizes[c][1])], [c], restart, ids)
            for c in order
        ]
    return b"".join([*head, *scans, b"\xff\xd9"])


def _head(
    frame: int, width: int, height: int, factors: Factors, quantisation: bytes, ids: bytes, extra: bytes = b""
) -> list[bytes]:
    sof = struct.pack(">BHHB", 8, height, width, len(factors))
    sof += b"".join(bytes([ids[c], h << 4 | v, 0]) for c, (h, v) in enumerate(factors))
    return [
        b"\xff\xd8",
        extra,
        marker(0xDB, b"\0" + quantisation),
        marker(frame, sof),
        marker(0xC4, b"\0" + bytes([0, 0, 0, 12] + [0] * 12) + bytes(range(12))),
        marker(0xC4, b"\x10" + bytes([0] * 7 + [178] + [0] * 8) + bytes(_AC_SYMBOLS)),
    ]


def progressive_jpeg(scans: int) -> bytes:
    """Return a sound progressive JPEG of 48 x 40 px with so many `scans`, from 4 to 190: bands of coefficients."""
    factors, ids = FACTORS["4:4:4"], b"\1\2\3"
    rng = np.random.default_rng(scans)
    blocks = [rng.integers(-30, 31, (5, 6, 64)) * (rng.random((5, 6, 64)) < 0.1) for _ in factors]
    out = _head(0xC2, 48, 40, factors, bytes([8] * 64), ids)
    dc = b"".join(bytes([each, 0]) for each in ids)
    bits, prediction = [], [0, 0, 0]
    for row, column in np.ndindex(5, 6):
        for c in range(3):
            size, extra = _magnitude(int(blocks[c][row, column, 0]) - prediction[c])
            bits.append(f"{size:04b}{extra}")
            prediction[c] = int(blocks[c][row, column, 0])
    out += [marker(0xDA, b"\3" + dc + b"\0\0\0"), _entropy_bytes("".join(bits))]
    for c in range(3):
        bands = (scans - 1) // 3 + (c < (scans - 1) % 3)
        for band in np.array_split(np.arange(1, 64), bands):
            first, last = int(band[0]), int(band[-1])
            bits = [_ac_bits(blocks[c][place], first, last) for place in np.ndindex(5, 6)]
            out += [marker(0xDA, bytes([1, ids[c], 0, first, last, 0])), _entropy_bytes("".join(bits))]
    return b"".join([*out, b"\xff\xd9"])


def random_jpeg(
    width: int,
    height: int,
    factors: Factors,
    *,
    seed: int = 0,
    adobe: int | None = None,
    restart: int = 0,
    interleaved: bool = True,
    extra: bytes = b"",
    largest: int = 30,
) -> bytes:
    """`encode_blocks` of random content.

    AC coefficients are in -`largest`..`largest`, both reached.
    """
    rng = np.random.default_rng(seed)
    rows, columns, _ = _sizes(width, height, factors)
    blocks = []
    for h, v in factors:
        shape = (rows * v, columns * h, 64)
        block = rng.integers(-largest, largest + 1, shape) * (rng.random(shape) < 0.08)
        block[0, 0, 1:3] = -largest, largest
        block[..., 0] = rng.integers(-60, 61, block.shape[:2])
        blocks.append(block)
    if adobe is not None:
        extra += adobe_marker(adobe)
    quantisation = bytes(int(q) for q in rng.integers(4, 12, 64))
    return encode_blocks(
        width, height, factors, blocks, quantisation, restart=restart, interleaved=interleaved, extra=extra
    )


def adobe_marker(transform: int) -> bytes:
    return marker(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))


def flat_jpeg(width: int, height: int, factors: Factors, **options: Any) -> bytes:
    """`encode_blocks` of a smooth picture whose every block of 8 x 8 samples is flat."""
    rows, columns, _ = _sizes(width, height, factors)
    most_h, most_v = max(h for h, _ in factors), max(v for _, v in factors)
    blocks = []
    for c, (h, v) in enumerate(factors):
        down = (np.arange(rows * v) + 0.5) * 8 * most_v / v / height
        across = (np.arange(columns * h) + 0.5) * 8 * most_h / h / width
        y, x = np.clip(np.meshgrid(down, across, indexing="ij"), 0, 1)
        level = [130 + 60 * (x + y - 1), 150 - 50 * x, 100 + 60 * y, 60 + 90 * x][c]
        block = np.zeros((*level.shape, 64), np.int64)
        block[..., 0] = np.round(level) - 128
        blocks.append(block)
    return encode_blocks(width, height, factors, blocks, bytes([8] * 64), **options)


@functools.cache
def sample(kind: str, width: int, height: int, restart: int = 0, interleaved: bool = True) -> bytes:
    """`random_jpeg` of one of FACTORS' kinds."""
    return random_jpeg(
        width,
        height,
        FACTORS[kind],
        adobe=ADOBE.get(kind),
        restart=restart,
        interleaved=interleaved,
        seed=width,
    )


@functools.cache
def pillow_jpeg(mode: str, width: int, height: int, subsampling: int = 2, progressive: bool = False) -> bytes:
    """Pillow's own JPEG of a smooth picture with noise; `subsampling` 0, 1, 2: 4:4:4, 4:2:2, 4:2:0."""
    rng = np.random.default_rng(height)
    bands = len(Image.new(mode, (1, 1)).getbands())
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((width, height))
    wanted = np.repeat(np.asarray(small), 2, axis=2)[..., :bands] + rng.integers(0, 9, (height, width, bands))
    pixels = np.clip(wanted, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    picture = Image.frombytes(mode, (width, height), pixels.tobytes())
    picture.save(file, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
    return file.getvalue()


def decode(jpeg: bytes) -> NDArray[np.uint8]:
    """Pillow's pixels."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        return np.asarray(picture)


def segments(jpeg: bytes) -> list[tuple[int, bytes]]:
    """(marker, body) of the header up to SOS, whose body also has the scan's data and all that follows."""
    found, at = [], 2
    while True:
        assert jpeg[at] == 0xFF
        code, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if code == 0xDA:
            return [*found, (code, jpeg[at + 2 + length :])]
        found.append((code, jpeg[at + 4 : at + 2 + length]))
        at += 2 + length


def scan_markers(jpeg: bytes) -> list[int]:
    """Every marker in and after the first scan's data."""
    data = segments(jpeg)[-1][1]
    return [data[i + 1] for i in range(len(data) - 1) if data[i] == 0xFF and data[i + 1] not in (0x00, 0xFF)]
