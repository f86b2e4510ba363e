"""Read a gzip file from any position, starting at saved copies of the decompressor."""

from __future__ import annotations

import bisect
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from fasttrain.errors import UserError
from fasttrain.photos.container import Container, damaged

MAGIC = b"\x1f\x8b"
_STEP = 1 << 16  # compressed bytes that are read at a time
_APART = 1 << 20  # decompressed bytes between saved points, at least
_MOST_POINTS = 1000  # each takes 40 kB


@dataclass
class _Place:
    """A position in a gzip file, with the state of the decompressor there.

    `out` and `taken` are the decompressed and the compressed bytes before the position. `inflater` is the decompressor,
    or None between two members of the file.
    """

    out: int = 0
    taken: int = 0
    inflater: Any = None

    def copy(self) -> _Place:
        return _Place(self.out, self.taken, self.inflater and self.inflater.copy())


class Gzipped(Container):
    """The decompressed content of a gzip file as a `Container`.

    While `Forward` reads the file, it saves copies of the decompressor's state at regular distances. `read` continues
    from the last copy before the requested bytes. On average that copy is 0.5 MB before them, or a 2,000th of the file
    if that is more.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._points = [_Place()]
        self._apart = max(_APART, self.size // _MOST_POINTS)

    def read(self, start: int, length: int) -> bytes:
        """Return `length` decompressed bytes from position `start`. Raises OSError if the file is damaged or ends too
        early."""
        place, end = self.before(start), start + length
        pieces = []
        while place.out < end:
            first = place.out
            try:
                piece = self.step(place)
            except (zlib.error, EOFError) as error:
                raise damaged(str(error), self.path) from error
            if not piece:
                raise damaged("it ends too early", self.path)
            pieces.append(piece[max(start - first, 0) : end - first])
        return b"".join(pieces)

    def open(self) -> IO[bytes]:
        """Open the decompressed content, to read it once from beginning to end."""
        return cast(IO[bytes], Forward(self))

    def before(self, start: int) -> _Place:
        """Return a copy of the last saved place (position and decompressor) at or before byte `start`."""
        return self._points[bisect.bisect_right(self._points, start, key=lambda place: place.out) - 1].copy()

    def step(self, place: _Place) -> bytes:
        """Return the next decompressed bytes at `place`, and move `place` to their end. Returns no bytes at the end of
        the file.

        Raises zlib.error or EOFError if the file is damaged.
        """
        while True:
            raw = super().read(place.taken, min(_STEP, self.size - place.taken))
            if place.inflater is None:
                if not raw.strip(b"\0"):  # the last block may be padded with zeros
                    return b""
                place.inflater = zlib.decompressobj(31)
            elif not raw:
                raise EOFError("it is truncated")
            piece: bytes = place.inflater.decompress(raw, _APART)
            ended = place.inflater.eof
            unused = place.inflater.unused_data if ended else place.inflater.unconsumed_tail
            place.taken += len(raw) - len(unused)
            place.out += len(piece)
            if ended:
                place.inflater = None
            if piece:
                return piece

    def keep(self, place: _Place) -> None:
        """Save a copy of `place` for `read`, unless another saved place is near.

        `place` must not be before the last saved one.
        """
        if place.out - self._points[-1].out >= self._apart:
            self._points.append(place.copy())


class Forward:
    """The decompressed content of a gzip file as a file object, to read from beginning to end. Seeking back is slow."""

    def __init__(self, file: Gzipped) -> None:
        self._file = file
        self._place = file.before(0)
        self._begin, self._buffer, self._at = 0, b"", 0

    def tell(self) -> int:
        """Return the current position."""
        return self._at

    def seek(self, position: int) -> int:
        """Set the position and return it."""
        self._at = position
        return position

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes. Raises UserError if the file is damaged."""
        if self._at < self._begin:
            self._place = self._file.before(self._at)
            self._begin, self._buffer = self._place.out, b""
        while self._place.out < self._at + size and (piece := self._step()):
            self._file.keep(self._place)
            end = self._begin + len(self._buffer)
            self._begin, self._buffer = (end, piece) if end <= self._at else (self._begin, self._buffer + piece)
        found = self._buffer[self._at - self._begin : self._at - self._begin + size]
        self._at += len(found)
        return found

    def close(self) -> None:
        """Do nothing, because no file stays open."""

    def _step(self) -> bytes:
        try:
            return self._file.step(self._place)
        except (zlib.error, EOFError) as error:
            raise UserError(f"--source {self._file.path} is damaged ({error}); copy it again") from error
