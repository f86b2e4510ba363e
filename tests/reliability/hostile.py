"""Helpers for the tests of damaged and hostile files: children whose memory is measured, and `found`."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fasttrain.errors import UserError
from fasttrain.inspection.inspect import inspect
from tests.support.patience import PATIENCE

# VmHWM, not ru_maxrss: that one begins with the parent's.
_MEASURED = """
import pathlib, sys
try:
    exec(sys.argv.pop(1))
finally:
    peak = pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    print(f"peak={peak}", file=sys.stderr)
"""
COMMAND = "from fasttrain.cli import main; main()"


def measured(program: str, *arguments: object) -> tuple[int, str, int]:
    """Exit code, output and peak memory in MB of a process that runs the Python text `program`."""
    command = [sys.executable, "-c", _MEASURED, program, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False)
    said = done.stdout + done.stderr
    return done.returncode, said, int(said.rpartition("peak=")[2].split()[0]) // 1024


def found(folder: Path) -> bool:
    """Return whether `inspect --verify` finds something wrong; any error but a UserError goes through."""
    try:
        finding = inspect(folder, verify=True, duplicates=False, workers=1, progress=False)
    except UserError:
        return True
    return bool(finding.problems or finding.broken)


def flips(data: bytes, count: int, seed: int) -> Iterator[tuple[int, bytes]]:
    """`count` positions, and `data` with one of the bits there turned round."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        at = int(random.integers(len(data)))
        yield at, data[:at] + bytes([data[at] ^ 1 << int(random.integers(8))]) + data[at + 1 :]


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


@functools.cache
def bombs() -> dict[str, bytes]:
    """Small files that say they are, or hold, far more than a photograph."""
    import io

    from PIL import Image

    def saved(kind: str, size: tuple[int, int] = (64, 48), **options: object) -> bytes:
        file = io.BytesIO()
        Image.effect_noise(size, 40).convert("RGB").save(file, kind, **options)
        return file.getvalue()

    def giant(data: bytes, at: int, order: str = "big", bytes_: int = 2) -> bytes:
        return data[:at] + 2 * (60_000).to_bytes(bytes_, order) + data[at + 2 * bytes_ :]  # type: ignore[arg-type]

    jpeg, progressive = saved("JPEG"), saved("JPEG", progressive=True)
    head, scan = progressive[: progressive.rfind(b"\xff\xda")], progressive[progressive.rfind(b"\xff\xda") : -2]
    ihdr = (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    zeros = zlib.compress(bytes(200_000_000), 9)
    png = saved("PNG")
    behind = png[: 8 + 25], png[8 + 25 :]  # signature and IHDR, and what follows
    rows = zlib.compress(bytes(60_000 * 3 + 1) * 2000, 9)
    return {
        "jpeg.jpg": giant(jpeg, jpeg.index(b"\xff\xc0") + 5),
        "progressive.jpg": giant(progressive, progressive.index(b"\xff\xc2") + 5),
        "png.png": png[:8] + png_chunk(b"IHDR", ihdr) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b""),
        "ztxt.png": behind[0] + png_chunk(b"zTXt", b"Comment\0\0" + zeros) + behind[1],
        "itxt.png": behind[0] + png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + zeros) + behind[1],
        "iccp.png": behind[0] + png_chunk(b"iCCP", b"profile\0\0" + zeros) + behind[1],
        "segments.jpg": jpeg[:2] + b"\xff\xfe\x00\x02" * 1_000_000 + jpeg[2:],
        "scans.jpg": head + scan * 2_000 + b"\xff\xd9",
        "gif.gif": b"GIF89a" + (60_000).to_bytes(2, "little") * 2 + saved("GIF")[10:],
        "webp.webp": b"RIFF\x5a\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + 2 * (16_383 - 1).to_bytes(3, "little") + bytes(60),
        "tiff.tif": _giant_tiff(),
        "bmp.bmp": giant(saved("BMP"), 18, "little", 4),
        "ppm.ppm": b"P6 60000 60000 255\n" + bytes(1000),
    }


def _giant_tiff() -> bytes:
    entries = {256: (4, 60_000), 257: (4, 60_000), 258: (3, 8), 259: (3, 1), 262: (3, 1), 273: (4, 8), 278: (4, 60_000)}
    directory = len(entries).to_bytes(2, "little")
    for tag, (kind, value) in sorted({**entries, 279: (4, 1000)}.items()):
        directory += tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little")
        directory += value.to_bytes(4, "little")
    directory = (8).to_bytes(2, "little") + directory[2:] + bytes(4)
    return b"II*\0" + (8).to_bytes(4, "little") + directory + bytes(1000)
