"""Read class folders behind a URL (s3://, gs://, …) through fsspec."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PosixPath
from typing import Any

from fasttrain.config.location import is_url
from fasttrain.errors import UserError
from fasttrain.photos.folder import list_tree
from fasttrain.photos.food101 import has_meta, list_meta
from fasttrain.photos.formats import HEAD
from fasttrain.photos.source import Listing, SourceOptions
from fasttrain.photos.walk import PHOTOGRAPHS, Found, Ignored, is_hidden, left_out
from fasttrain.urls import retried, stamp_of

OPTIONS = frozenset({"classes"})
_AT_ONCE = 256  # files of which the first bytes are requested at a time


def claims(source: str) -> bool:
    """Return whether `source` is a URL."""
    return is_url(source)


def listed(source: str | Path, options: SourceOptions) -> Listing:
    """List the photographs below a URL. Raises UserError if there are no photographs, or if the URL can't be listed.

    A local copy of the photographs gives the same listing, and so the same shards.
    """
    url = str(source).rstrip("/")
    tree, name = _BucketTree(url), url.rpartition("/")[2]
    if has_meta(tree):
        return list_meta(tree, reader(url), "folder", name, options)
    return replace(list_tree(tree, "folder", name, options), read=reader(url))


def reader(url: str) -> Callable[[str], bytes]:
    """Return a function that returns the bytes of the file at a path below `url`.

    The function raises FileNotFoundError if there is no such file, and UserError if the file can't be read.
    """

    def read(path: str) -> bytes:
        try:
            return retried(url, path, lambda files, root: bytes(files.cat_file(f"{root}/{path}")))
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error

    return read


class UrlRoot(PosixPath):
    """A URL in place of the path of a source's root folder. It is only shown in messages, never opened."""

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)


class _BucketTree:
    """The files below a URL as a `Tree`, without hidden files. They are listed once."""

    def __init__(self, url: str) -> None:
        self.root: Path = UrlRoot(url)
        self._folders: dict[str, set[str]] = {"": set()}
        self._files: dict[str, list[Found | Ignored]] = {}
        found = find(url)
        if "manifest.json" in found:
            raise UserError(f"--source {url} holds shards already; train on them: fasttrain train {url}")
        unknown = {path: int(info["size"] or 0) for path, info in found.items() if _suffix(path) not in PHOTOGRAPHS}
        heads = _heads(url, unknown)
        for path, info in found.items():
            *folders, _ = path.split("/")
            parent = ""
            for folder in folders:
                self._folders[parent].add(folder)
                parent = f"{parent}/{folder}" if parent else folder
                self._folders.setdefault(parent, set())
            reason = left_out(path, functools.partial(heads.__getitem__, path))
            file = Found(path, *found_in(info)) if reason is None else (path, reason)
            self._files.setdefault(parent, []).append(file)

    def folders(self, start: str) -> list[str]:
        return sorted(self._folders.get(start, ()))

    def files_in(self, start: str) -> Iterator[Found | Ignored]:
        yield from self._files.get(start, ())

    def walk_classes(self, prefix: str, names: list[str]) -> Iterator[tuple[str, Found | Ignored]]:
        for name in names:
            for found in self._below(f"{prefix}{name}"):
                yield name, found

    def _below(self, start: str) -> Iterator[Found | Ignored]:
        yield from self.files_in(start)
        for folder in self.folders(start):
            yield from self._below(f"{start}/{folder}")


def find(url: str) -> dict[str, dict[str, Any]]:
    """Return fsspec's information on each file below `url`, by its path, without hidden files.

    Raises UserError if there are no files, or if the URL can't be listed.
    """

    def listed(files: Any, root: str) -> dict[str, dict[str, Any]]:
        files.invalidate_cache()
        found = files.find(root, detail=True)
        return {path.removeprefix(f"{root}/"): info for path, info in sorted(found.items()) if path != root}

    try:
        found = retried(url, "", listed)
    except FileNotFoundError:
        found = {}
    if not found:
        raise UserError(f"--source {url} holds no files; give the URL of a folder with photographs")
    return {
        path: info
        for path, info in found.items()
        if info["type"] == "file" and all(path.split("/")) and not is_hidden(path)
    }


def found_in(info: dict[str, Any]) -> tuple[int, tuple[int, int, int]]:
    """Return the size in bytes and the stamp (see `walk.Found`) of a file, from fsspec's information on it."""
    return int(info["size"] or 0), (int.from_bytes(hashlib.sha256(stamp_of(info).encode()).digest()[:8], "big"), 0, 0)


def _heads(url: str, sizes: dict[str, int]) -> dict[str, bytes]:
    """Return the first bytes of each file. `sizes` has the size of each by its path."""
    found = {path: b"" for path, size in sizes.items() if not size}  # servers refuse a range of an empty file
    paths = [path for path, size in sizes.items() if size]
    for start in range(0, len(paths), _AT_ONCE):
        some = paths[start : start + _AT_ONCE]

        def read(files: Any, root: str, some: list[str] = some) -> list[bytes]:
            full = [f"{root}/{path}" for path in some]
            return [bytes(head) for head in files.cat_ranges(full, [0] * len(full), [HEAD] * len(full))]

        found.update(zip(some, retried(url, "", read), strict=True))
    return found


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 - pathlib is slow for a million files
