"""Copy photographs from a file that can only be read in large pieces to a temporary file, to read them one by one."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fasttrain.config.location import cache_root
from fasttrain.errors import of_os
from fasttrain.files import make_folder
from fasttrain.machine import read_at, write_at

NONE = -1
"""The length of a photograph that is missing."""


class Batch(NamedTuple):
    """The bytes of n photographs, and the start and the length of each, int64 [n]. A length of
    NONE marks a missing photograph."""

    data: memoryview
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


class Spool:
    """A temporary file in the cache folder. It has no name, so it disappears when the process ends for any reason.

    A piece of the large file (a row group of a Parquet file) is copied to the temporary file when the first of its
    photographs is requested. Without the copy, `convert`, which reads photographs in random order, would read the
    entire piece again for each of its photographs. May be used from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._end = 0
        self._pieces: dict[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._busy: dict[tuple[int, int], threading.Lock] = {}

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def read(self, piece: tuple[int, int], position: int, batches: Callable[[], Iterable[Batch]]) -> bytes | None:
        """Return the photograph at `position` in `piece`, or None if that photograph is missing.

        `batches` is called once per piece, when the piece is not copied yet: it reads the piece, some photographs at a
        time. Exceptions from it are passed on. Raises UserError if the disk has no space for the copy.
        """
        with self._lock:
            busy = self._busy.setdefault(piece, threading.Lock())
        with busy:
            if piece not in self._pieces:
                self._pieces[piece] = self._copied(batches())
        starts, lengths = self._pieces[piece]
        length = int(lengths[position])
        if length == NONE:
            return None
        assert self._descriptor is not None
        return read_at(self._descriptor, length, int(starts[position]))

    def _copied(self, batches: Iterable[Batch]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Copy a piece. Return the start and the length of each of its photographs in the temporary file."""
        starts: list[NDArray[np.int64]] = []
        lengths: list[NDArray[np.int64]] = []
        for batch in batches:
            starts.append(batch.starts + self._append(batch.data))
            lengths.append(batch.lengths)
        return np.concatenate(starts), np.concatenate(lengths)

    def _append(self, data: memoryview) -> int:
        """Append bytes to the temporary file and return their start."""
        folder = cache_root()
        try:
            with self._lock:
                if self._descriptor is None:
                    make_folder(folder)
                    with tempfile.TemporaryFile(dir=folder) as file:
                        self._descriptor = os.dup(file.fileno())
                start = self._end
                self._end += len(data)
            at, rest = start, data
            while rest:
                written = write_at(self._descriptor, rest, at)
                at, rest = at + written, rest[written:]
        except OSError as error:
            raise of_os(error, folder, "set FASTTRAIN_CACHE to a folder with space for the photographs") from error
        return start
