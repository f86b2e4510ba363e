"""Full decode: libjpeg-turbo decodes every pixel of each original JPEG, from memory, and nothing else is done."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fasttrain import _native

TJPF_RGB = 0


class Floor:
    """TurboJPEG's C library through ctypes, which lets go of the GIL; one decompressor a thread."""

    @staticmethod
    def prepare(photographs: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def __init__(self, photographs: Path, folder: Path, threads: int) -> None:
        name = ctypes.util.find_library("turbojpeg")
        if name is None:
            raise ImportError("the full decode needs TurboJPEG: apt-get install libturbojpeg0")
        self.library = ctypes.CDLL(name)
        self.library.tjInitDecompress.restype = ctypes.c_void_p
        self.threads = threads
        self.jpegs = [path.read_bytes() for path in sorted(photographs.rglob("*.jp*g"))]
        infos = [_native.jpeg_info(jpeg) for jpeg in self.jpegs]
        self.sizes = [(info["height"], info["width"]) for info in infos]

    def batches(self) -> Iterator[int]:
        parts = [range(start, len(self.jpegs), self.threads) for start in range(self.threads)]
        with ThreadPoolExecutor(self.threads) as pool:
            yield from pool.map(self._decode, parts)

    def close(self) -> None:
        pass

    def _decode(self, part: range) -> int:
        handle = ctypes.c_void_p(self.library.tjInitDecompress())
        out = np.empty(3 * max(height * width for height, width in self.sizes), np.uint8)
        address = ctypes.c_void_p(out.ctypes.data)
        for i in part:
            height, width = self.sizes[i]
            length = ctypes.c_ulong(len(self.jpegs[i]))
            if self.library.tjDecompress2(handle, self.jpegs[i], length, address, width, 0, height, TJPF_RGB, 0):
                raise ValueError(f"TurboJPEG can't decode photograph {i}")
        self.library.tjDestroy(handle)
        return len(part)
