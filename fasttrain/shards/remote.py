"""Read shards from a URL. A shard is downloaded through fsspec when it is first needed, checked, and kept in the cache.

The manifest is read again at each start. The folder in the cache is named after the manifest's hash. So old and new
shards at the same URL are never mixed, and two URLs of the same shards share their files.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar

from fasttrain.config.location import cache_root, upload_command
from fasttrain.config.values import CacheSize
from fasttrain.errors import UserError
from fasttrain.shards.cache import Cache
from fasttrain.shards.format import MANIFEST, Manifest, parse_manifest, read_manifest
from fasttrain.urls import retried

T = TypeVar("T")

_PIECE = 4 << 20
_AT_ONCE = 4  # pieces requested in parallel, because a single connection to S3 is slower than most networks


def open_remote(location: str, cache_size: CacheSize | None = None) -> RemoteFiles:
    """Download the manifest at the URL `location` and return access to its files.

    Without `cache_size`, the cache may use the spare space of the disk. Raises UserError if there are no shards, if the
    driver or the network is missing, or if the disk has no space for a cache.
    """
    limit = None if cache_size is None else cache_size.bytes
    text = _fetched(location, MANIFEST, lambda files, path: files.cat_file(path))
    parse_manifest(text, f"{location}/{MANIFEST}")
    folder = cache_root() / "remote" / hashlib.sha256(text).hexdigest()[:16]
    Cache(folder.parent, limit).put(folder / MANIFEST, text)
    return RemoteFiles(location, folder, limit)


class RemoteFiles:
    """Access to the files of a data set at the URL `location`, which are cached in `folder`. Its methods are explained
    in `ShardFiles`.

    It can be pickled, and used after a fork. Errors are UserErrors of one line that name the URL or the file.
    """

    remote = True
    index_must_match = True

    def __init__(self, location: str, folder: Path, limit: int | None) -> None:
        self.location, self.folder, self.limit = location, folder, limit
        self._cache = Cache(folder.parent, limit)
        manifest = read_manifest(folder)
        self._sizes = {shard.name: shard.bytes for shard in manifest.shards}
        shards = {shard.name: shard.sha256 for shard in manifest.shards}
        self._digests = {**manifest.files, manifest.index.name: manifest.index.sha256, **shards}

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFiles, (self.location, self.folder, self.limit)

    def path(self, name: str, stop: threading.Event | None = None) -> Path:
        """Return the file's path on this machine, after downloading it if needed.

        Raises Cancelled if `stop` is set during the download. The cache may delete a shard at any time, unless it is
        open; see `open`.
        """
        local = self.folder / name
        if self._is_cached(local):
            return local
        with self._cache.exclusive(local):
            if not self._is_cached(local):  # another thread or process may have downloaded it meanwhile
                self._fetch(local, stop)
        return local

    def open(self, name: str) -> BinaryIO:
        """Open the file for reading or mapping. The cache keeps it as long as it is open or mapped."""
        while True:
            if (file := self._cache.open(self.path(name))) is not None:
                return file

    def check(self, manifest: Manifest) -> None:
        """Do nothing, because each shard is checked when it is downloaded."""

    def mappable(self, manifest: Manifest) -> int | None:
        """Return how many bytes of shards a process may keep mapped, so that other processes can use the cache too.

        None means no limit.
        """
        budget = self.budget()
        return None if sum(shard.bytes for shard in manifest.shards) <= budget else budget // 3

    def budget(self) -> int:
        """Return how many bytes the cache may hold, for all data sets together."""
        return self._cache.budget()

    def _is_cached(self, local: Path) -> bool:
        """Return whether the file is in the cache with its full size, and mark it as used."""
        try:
            size = local.stat().st_size
        except FileNotFoundError:
            return False
        if self._sizes.get(local.name, size) != size:
            return False
        self._cache.touch(local)
        return True

    def _fetch(self, local: Path, stop: threading.Event | None) -> None:
        """Download the file and compare its checksum. Raises UserError if the checksum is wrong twice."""
        with self._cache.adding(local, self._sizes.get(local.name, 0)) as file:
            for _ in range(2):  # a wrong checksum may be a fault of the network
                file.seek(0)
                if self._download(local.name, file, stop) == self._digests[local.name]:
                    return
            raise UserError(
                f"{self.location}/{local.name}: its bytes don't match {MANIFEST}; copy the shards "
                f"there again{_copy_hint(self.location)}"
            )

    def _download(self, name: str, file: IO[bytes], stop: threading.Event | None) -> str:
        """Download a file into `file` and return its sha256."""
        size = self._sizes.get(name)
        if size is None:
            data = _fetched(self.location, name, lambda files, path: files.cat_file(path), stop)
            file.write(data)
            file.truncate()
            return hashlib.sha256(data).hexdigest()
        digest = hashlib.sha256()
        at = 0
        while at < size:
            # The first piece is requested alone, because a web server without ranges sends the complete file each time.
            ends = range(at + _PIECE, at + _PIECE * ((_AT_ONCE if at else 1) + 1), _PIECE)
            spans = [(end - _PIECE, min(end, size)) for end in ends if end - _PIECE < size]
            for (start, end), piece in zip(spans, self._read(name, spans, stop), strict=True):
                if len(piece) == size and start == 0:
                    end = size
                if len(piece) != end - start:
                    return "another size"
                file.write(piece)
                digest.update(piece)
                at = end
        return digest.hexdigest()

    def _read(self, name: str, spans: list[tuple[int, int]], stop: threading.Event | None) -> list[bytes]:
        """Return the bytes of each span of a file. `spans` are (first byte, end)."""
        starts, ends = zip(*spans, strict=True)

        def read(files: Any, path: str) -> list[bytes]:
            pieces: list[Any] = files.cat_ranges([path] * len(spans), list(starts), list(ends), on_error="return")
            for position, (piece, (start, end)) in enumerate(zip(pieces, spans, strict=True)):
                if isinstance(piece, BaseException):
                    raise piece
                if len(piece) < end - start:
                    return pieces[: position + 1]  # the file ends here, and servers refuse ranges beyond its end
            return pieces

        return _fetched(self.location, name, read, stop)


def _fetched(location: str, name: str, read: Callable[[Any, str], T], stop: threading.Event | None = None) -> T:
    """Return the result of `read`, which is called with fsspec's file system and the file's path in it.

    Raises UserError if the file doesn't exist.
    """
    try:
        return retried(location, name, lambda files, root: read(files, f"{root}/{name}"), stop)
    except FileNotFoundError as error:
        url = f"{location}/{name}"
        raise UserError(
            f"{url} does not exist; convert into a local folder and copy it{_copy_hint(location)}"
        ) from error


def _copy_hint(location: str) -> str:
    """Return the command that copies shards to `location`, for the end of a message, or ""."""
    command = upload_command(location)
    return f": {command}" if command else ""
