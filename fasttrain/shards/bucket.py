"""Write shards to a folder behind a URL. Each shard is written on this machine, uploaded, and then deleted here.

At most two shards are on this machine at a time: one that is being written and one that is being uploaded. Both are in
`$FASTTRAIN_CACHE/upload`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

from fasttrain.config.location import cache_root
from fasttrain.errors import UserError
from fasttrain.shards.destination import CACHE, Destination, FileState, locked
from fasttrain.shards.format import MANIFEST, PARTS, Manifest, parse_manifest
from fasttrain.shards.layout import SHARD_NAME
from fasttrain.urls import retried, stamp_of

T = TypeVar("T")

_SHARD = re.compile(rf"{SHARD_NAME.pattern}\.(tar|idx)")
_PIECE = 8 << 20
_CHUNKED = ("s3", "s3a", "gs", "gcs")
_AT_ONCE = 256  # small files requested at a time
_REMOVED_AT_ONCE = 1000


class Bucket:
    """A folder behind a URL. Its methods are explained in `Destination`.

    If several machines convert parts of a data set, they all write their shards directly into this folder, so `merge`
    has nothing to move. Only the records are in a folder for each part. There is no lock between machines, and none is
    needed: two machines that write the same shard write the same bytes.
    """

    def __init__(self, url: str, part: str = "") -> None:
        self._url = url.rstrip("/")
        self._part = part
        self._staging = Path()
        self._uploads: ThreadPoolExecutor | None = None
        self._uploading: Future[None] | None = None

    def __str__(self) -> str:
        return self.location

    @property
    def location(self) -> str:
        return f"{self._url}/{self._part}" if self._part else self._url

    def below(self, part: str) -> Bucket:
        return Bucket(self._url, part)

    @contextlib.contextmanager
    def exclusive(self, *, wait: bool) -> Iterator[None]:
        """Return a context that keeps other conversions on this machine out.

        At its end, the context waits until the current upload is finished.
        If another conversion is running, wait for it if `wait` is True, and otherwise raise UserError.
        """
        self._staging = cache_root() / "upload" / hashlib.sha256(self.location.encode()).hexdigest()[:16]
        with locked(self._staging, wait=wait, fix=CACHE, shown=self.location):
            _empty(self._staging)
            try:
                with ThreadPoolExecutor(1) as self._uploads:
                    yield
            finally:
                shutil.rmtree(self._staging, ignore_errors=True)

    def manifest(self) -> Manifest:
        try:
            return parse_manifest(self.read(MANIFEST), f"{self.location}/{MANIFEST}")
        except FileNotFoundError as error:
            raise UserError(f"{self.location} holds no shards; leave out --append to write some") from error

    def has(self, name: str) -> bool:
        def there(files: Any, root: str) -> bool:
            files.invalidate_cache()
            return bool(files.exists(f"{root}/{self._path(name)}"))

        return retried(self._url, self._path(name), there)

    def names(self, folder: str = "") -> list[str]:
        return sorted(self._listed(self._path(folder) if folder else self._part))

    def shards(self) -> dict[str, FileState]:
        found = self._listed("")
        return {name: _state(info) for name, info in found.items() if info["type"] == "file"}

    def read(self, name: str) -> bytes:
        path = self._path(name)
        return retried(self._url, path, lambda files, root: bytes(files.cat_file(f"{root}/{path}")))

    def read_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        there = {f"{folder}/{name}" for folder in {_folder(name) for name in names} for name in self.names(folder)}
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            found = dict(zip(known := [name for name in some if name in there], self._read(known), strict=True))
            yield from (found.get(name) for name in some)

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        for start in range(0, len(ranges), _AT_ONCE):
            some = ranges[start : start + _AT_ONCE]

            def read(files: Any, root: str, some: Sequence[tuple[str, int, int]] = some) -> list[bytes]:
                paths = [f"{root}/{self._path(name)}" for name, _, _ in some]
                starts, ends = [first for _, first, _ in some], [first + length for _, first, length in some]
                found = files.cat_ranges(paths, starts, ends, on_error="return")
                for error in (each for each in found if isinstance(each, BaseException)):
                    raise error
                return [bytes(each) for each in found]

            yield from retried(self._url, self._path(some[0][0]), read)

    def write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        self._writing(path, lambda files, root: files.pipe_file(f"{root}/{path}", data))

    @contextlib.contextmanager
    def open_shard(self, name: str) -> Iterator[IO[bytes]]:
        path = self._staging / f"{name}.tar"
        try:
            with path.open("wb") as file:
                yield file
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def finish_shard(self, name: str, index: bytes | None, record: Callable[[str], bytes]) -> None:
        self.flush()  # only one shard is uploaded while the next is written
        assert self._uploads is not None
        self._uploading = self._uploads.submit(self._upload, name, index, record)

    def flush(self) -> None:
        uploading, self._uploading = self._uploading, None
        if uploading is not None:
            uploading.result()

    def take_shard(self, part: Destination, name: str, *, empty: bool) -> None:
        """Do nothing, because the part has already written the shard to its final place."""

    def remove(self, names: Sequence[str]) -> None:
        self._remove([self._path(name) for name in names])

    def remove_folder(self, folder: str) -> None:
        path = self._path(folder)

        def below(files: Any, root: str) -> list[str]:
            files.invalidate_cache()
            return [each.removeprefix(f"{root}/") for each in files.find(f"{root}/{path}")]

        with contextlib.suppress(FileNotFoundError):
            self._remove(retried(self._url, path, below))

    def clear_unfinished(self, folder: str = "") -> None:
        """Abort the unfinished uploads that a killed conversion left in the bucket.

        Nothing is done for a part, because other machines may still be uploading.
        """
        if folder or self._part:
            return

        def abort(files: Any, root: str) -> None:
            if hasattr(files, "list_multipart_uploads"):  # these cost money, and no listing of files shows them
                bucket, _, path = root.partition("/")
                for each in files.list_multipart_uploads(bucket):
                    if each["Key"].startswith(f"{path}/" if path else ""):
                        files.abort_mpu(bucket, each["Key"], each["UploadId"])

        with contextlib.suppress(UserError, FileNotFoundError):  # listing them needs a permission of its own
            retried(self._url, "", abort)

    def _path(self, name: str) -> str:
        """Return a file's path below the URL. A shard's path is the same for all parts."""
        return f"{self._part}/{name}" if self._part and not _SHARD.fullmatch(name) else name

    def _listed(self, path: str) -> dict[str, dict[str, Any]]:
        """Return the driver's information on the files and folders in the folder `path`, by their names."""

        def listed(files: Any, root: str) -> dict[str, dict[str, Any]]:
            files.invalidate_cache()
            start = f"{root}/{path}" if path else root
            found = {each["name"].rstrip("/"): each for each in files.ls(start, detail=True)}
            return {name.rpartition("/")[2]: info for name, info in found.items() if name != start}

        try:
            return retried(self._url, path, listed)
        except FileNotFoundError:
            return {}

    def _read(self, names: list[str]) -> list[bytes | None]:
        def read(files: Any, root: str) -> list[bytes | None]:
            paths = [f"{root}/{self._path(name)}" for name in names]
            found = files.cat_ranges(paths, [None] * len(paths), [None] * len(paths), on_error="return")
            for each in found:
                if isinstance(each, BaseException) and not isinstance(each, FileNotFoundError):
                    raise each
            return [None if isinstance(each, BaseException) else bytes(each) for each in found]

        return retried(self._url, PARTS, read) if names else []

    def _upload(self, name: str, index: bytes | None, record: Callable[[str], bytes]) -> None:
        """Upload a finished shard, its index, and then its record."""
        stamp = ""
        if index is not None:
            local, path = self._staging / f"{name}.tar", f"{name}.tar"
            chunks = {"chunksize": _PIECE} if self._url.partition("://")[0] in _CHUNKED else {}
            self._writing(path, lambda files, root: files.put_file(str(local), f"{root}/{path}", **chunks))
            stamp = self._require_complete(path, local.stat().st_size)
            local.unlink()
            self.write(f"{name}.idx", index)
        self.write(f"{PARTS}/{name}.json", record(stamp))

    def _require_complete(self, path: str, size: int) -> str:
        """Return the stamp of an uploaded shard. Raises UserError if the upload is incomplete."""

        def read_state(files: Any, root: str) -> FileState:
            files.invalidate_cache()
            return _state(files.info(f"{root}/{path}"))

        state = retried(self._url, path, read_state)
        if state.size != size:
            raise UserError(
                f"{self._url}/{path}: only {state.size:,} of {size:,} bytes were uploaded; run the same command again"
            )
        return state.stamp

    def _writing(self, path: str, work: Callable[[Any, str], T]) -> T:
        """Call `work`, which writes to the bucket, and return its result.

        `work` takes fsspec's file system and the path of the shards' folder in it. Raises UserError if the bucket
        doesn't exist.
        """
        try:
            return retried(self._url, path, work)
        except FileNotFoundError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{self._url}/{path}: {reason}; create the bucket first, or give another --out") from error

    def _remove(self, paths: list[str]) -> None:
        for start in range(0, len(paths), _REMOVED_AT_ONCE):
            some = paths[start : start + _REMOVED_AT_ONCE]
            with contextlib.suppress(FileNotFoundError):
                retried(self._url, some[0], lambda files, root: files.rm([f"{root}/{each}" for each in some]))  # noqa: B023


def _state(info: dict[str, Any]) -> FileState:
    return FileState(int(info["size"] or 0), stamp_of(info))


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
