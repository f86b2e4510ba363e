"""The native decode core against the floor: libjpeg-turbo decoding every pixel of the original, and nothing else.

    python benchmarks/native_core.py PHOTOS --threads 1 2 --area 0.08 0.35

Floor and core take turns on the same photographs (in memory, so no disk is measured); each line is the median over
the rounds, and so is the ratio. The floor is TurboJPEG's C library, called through ctypes without the GIL. The core
takes the cut form of each photograph, which isn't timed, and ends with 224 x 224 RGB pixels, flipped at random.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasttrain import _native

TJPF_RGB = 0


class Floor:
    """Decodes whole JPEGs to RGB, one decompressor a thread."""

    def __init__(self, jpegs: list[bytes], sizes: NDArray[np.int32], threads: int) -> None:
        name = ctypes.util.find_library("turbojpeg")
        if name is None:
            raise SystemExit("the floor needs TurboJPEG: apt-get install libturbojpeg0")
        self.library = ctypes.CDLL(name)
        self.library.tjInitDecompress.restype = ctypes.c_void_p
        self.jpegs, self.sizes, self.threads = jpegs, sizes, threads

    def _decode(self, part: range) -> None:
        handle = ctypes.c_void_p(self.library.tjInitDecompress())
        out = np.empty(int(self.sizes.prod(1).max()) * 3, np.uint8)
        address = ctypes.c_void_p(out.ctypes.data)
        for i in part:
            jpeg = self.jpegs[i]
            height, width = (int(n) for n in self.sizes[i])
            length = ctypes.c_ulong(len(jpeg))
            if self.library.tjDecompress2(handle, jpeg, length, address, width, 0, height, TJPF_RGB, 0):
                raise SystemExit(f"TurboJPEG can't decode photograph {i}")
        self.library.tjDestroy(handle)

    def run(self) -> None:
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(self._decode, (range(i, len(self.jpegs), self.threads) for i in range(self.threads))))


class Core:
    """Batches of 64 through the pool, several in flight."""

    def __init__(self, jpegs: list[bytes], sizes: NDArray[np.int32], threads: int, output: int) -> None:
        self.stored = [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs]
        self.addresses = np.array([jpeg.ctypes.data for jpeg in self.stored], np.uint64)
        self.lengths = np.array([len(jpeg) for jpeg in jpegs], np.uint64)
        self.sizes = sizes
        self.pool = _native.Pool(threads)
        self.out = np.empty((4, 64, output, output, 3), np.uint8)

    def run(self, boxes: NDArray[np.int32], flips: NDArray[np.uint8]) -> None:
        tickets: list[int] = []
        for number, start in enumerate(range(0, len(self.stored), 64)):
            if number >= 4:
                self._wait(tickets.pop(0))
            part = slice(start, start + 64)
            count = len(self.stored[part])
            arrays = self.addresses[part], self.lengths[part], self.sizes[part], boxes[part], flips[part]
            tickets.append(self.pool.submit(*arrays, self.out[number % 4][:count]))
        for ticket in tickets:
            self._wait(ticket)

    def _wait(self, ticket: int) -> None:
        if errors := self.pool.wait(ticket):
            raise SystemExit(f"the core failed: {errors[0][1]}")


def random_resized_crops(sizes: NDArray[np.int32], least_area: float, rng: np.random.Generator) -> NDArray[np.int32]:
    """torchvision's RandomResizedCrop boxes, ratio 3/4 to 4/3."""
    boxes = np.empty((len(sizes), 4), np.int32)
    for i, (height, width) in enumerate(sizes.tolist()):
        side = min(height, width)
        boxes[i] = (height - side) // 2, (width - side) // 2, side, side
        for _ in range(10):
            area = height * width * rng.uniform(least_area, 1)
            ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                boxes[i] = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
                break
    return boxes


def seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, help="a folder of JPEGs, at any depth")
    parser.add_argument("--limit", type=int, default=600, help="how many photographs, spread evenly")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--area", type=float, nargs="+", default=[0.08], help="least share of a crop")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=int, default=224, help="side of the output in pixels")
    parser.add_argument("--interval", choices=["mcu", "row", "none"], default="mcu", help="restart markers")
    args = parser.parse_args()
    paths = sorted(args.photographs.rglob("*.jp*g"))
    paths = paths[:: max(1, len(paths) // args.limit)][: args.limit]
    jpegs = [path.read_bytes() for path in paths]
    infos = [_native.jpeg_info(jpeg) for jpeg in jpegs]
    sizes = np.array([(info["height"], info["width"]) for info in infos], np.int32)
    cut = [_native.cut(jpeg, args.interval, True) for jpeg in jpegs]
    rng = np.random.default_rng(0)
    print(f"{len(jpegs)} photographs, output {args.output}, medians of {args.rounds} rounds")
    print(f"{'threads':>7} {'area':>5} {'floor img/s':>12} {'core img/s':>11} {'ratio':>6}")
    for threads in args.threads:
        floor, core = Floor(jpegs, sizes, threads), Core(cut, sizes, threads, args.output)
        for area in args.area:
            rates: list[tuple[float, float]] = []
            for _ in range(args.rounds):
                boxes = random_resized_crops(sizes, area, rng)
                flips = rng.integers(0, 2, len(jpegs)).astype(np.uint8)
                slow, fast = seconds(floor.run), seconds(partial(core.run, boxes, flips))
                rates.append((len(jpegs) / slow, len(jpegs) / fast))
            rate_floor, rate_core = (statistics.median(rate[k] for rate in rates) for k in (0, 1))
            ratio = statistics.median(fast / slow for slow, fast in rates)
            print(f"{threads:7} {area:5.2f} {rate_floor:12.0f} {rate_core:11.0f} {ratio:6.2f}")


if __name__ == "__main__":
    main()
