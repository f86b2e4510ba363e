"""A loader of a folder of JPEGs in threads, for decoders that release the GIL: each thread makes batches of its own."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import ImageFolder

from peers import BATCH, SIZE

AHEAD = 2  # batches in the works for each thread


class ThreadedFolder:
    """A subclass writes one photograph's crop into `out`, uint8 [SIZE, SIZE, 3]."""

    def load(self, path: str, out: NDArray[np.uint8]) -> None:
        raise NotImplementedError

    @staticmethod
    def prepare(photographs: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def __init__(self, photographs: Path, folder: Path, threads: int) -> None:
        self.samples = ImageFolder(str(photographs)).samples
        self.threads = threads

    def batches(self) -> Iterator[int]:
        order = random.sample(self.samples, len(self.samples))
        parts = (order[start : start + BATCH] for start in range(0, len(order), BATCH))
        with ThreadPoolExecutor(self.threads) as pool:
            waiting = deque(pool.submit(self._batch, part) for part in islice(parts, AHEAD * self.threads))
            while waiting:
                _, labels = waiting.popleft().result()
                waiting.extend(pool.submit(self._batch, part) for part in islice(parts, 1))
                yield len(labels)

    def close(self) -> None:
        pass

    def _batch(self, part: list[tuple[str, int]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        images = np.empty((len(part), SIZE, SIZE, 3), np.uint8)
        for (path, _), out in zip(part, images, strict=True):
            self.load(path, out)
        return images, np.array([label for _, label in part])
