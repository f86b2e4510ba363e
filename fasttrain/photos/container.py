"""Find the container files of a source, each of which holds many photographs, and read parts of these files."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fasttrain.config.location import user_path
from fasttrain.errors import UserError
from fasttrain.photos.source import UNDECIDED, refuse_shards
from fasttrain.photos.split_names import splits_in
from fasttrain.photos.walk import Ignored, is_folder, is_hidden

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class Container:
    """A file that holds many photographs. Any number of threads can read parts of it.

    It is opened for each read, because a source may have more files than a process may keep open. `stamp` is explained
    in `walk.Found`.
    """

    def __init__(self, path: Path) -> None:
        state = path.stat()
        self.path = path
        self.size = state.st_size
        self.stamp = (state.st_mtime_ns, state.st_ctime_ns, state.st_ino)

    def read(self, start: int, length: int) -> bytes:
        """Return the `length` bytes from position `start`.

        Raises OSError if the file ends before that many bytes, and UserError if the file has changed since it was
        listed.
        """
        if start < 0 or start + length > self.size:
            raise damaged(f"it ends before byte {start + length:,}", self.path)
        with self.path.open("rb", buffering=0) as file:
            state = os.fstat(file.fileno())
            if (state.st_size, (state.st_mtime_ns, state.st_ctime_ns, state.st_ino)) != (self.size, self.stamp):
                raise UserError(f"{self.path} has changed since it was listed; run the same command again")
            file.seek(start)
            pieces = []
            while length > 0 and (piece := file.read(length)):
                pieces.append(piece)
                length -= len(piece)
        if length:
            raise damaged("it ends too early", self.path)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def open(self) -> IO[bytes]:
        """Open the file, to read it once from beginning to end."""
        return self.path.open("rb")


class Within(Container):
    """A file that is stored uncompressed in a container, such as a tar in a tar."""

    def __init__(self, outer: Container, start: int, size: int) -> None:
        self.path, self.stamp, self.size = outer.path, outer.stamp, size
        self._outer, self._start = outer, start

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes of the inner file from position `start`. Raises OSError if the inner file ends before
        that many bytes."""
        if start < 0 or start + length > self.size:
            raise damaged(f"a file in it ends before byte {start + length:,}", self.path)
        return self._outer.read(self._start + start, length)

    def open(self) -> IO[bytes]:
        """Open the inner file, to read it once from beginning to end."""
        return io.BufferedReader(_Window(self))


class _Window(io.RawIOBase):
    """A `Container` as a file object."""

    def __init__(self, file: Container) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, position: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = position + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        data = self._file.read(self._at, max(0, min(len(buffer), self._file.size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def damaged(reason: str, path: Path) -> OSError:
    """Return the error for a photograph whose bytes in the file `path` are damaged, for the given `reason`."""
    return OSError(errno.EIO, f"{path.name} is damaged: {reason}", str(path))


@dataclass(frozen=True)
class Files:
    """The files of a source that hold its photographs.

    - `root`: the file if there is only one, or else the folder of the files.
    - `paths`: the paths of the files, sorted.
    - `splits`: the split of each file by its name, or `UNDECIDED`.
    - `ignored`: (path, reason) of other files in the folder.
    """

    root: Path
    paths: list[Path]
    splits: list[int]
    ignored: list[Ignored]

    def name(self, number: int) -> str:
        """Return the prefix for paths in file `number`: its path below the root and a slash, or "" if the root is the
        file."""
        path = self.paths[number]
        return "" if path == self.root else f"{path.relative_to(self.root).as_posix()}/"


def find_files(source: str | Path, match: re.Pattern[str], *, by_name: bool = True) -> Files:
    """Return the files that hold the photographs of `source`: one file, the files of a pattern, or those in a folder.

    A pattern looks like `train-{00..12}.tar`. In a folder, `match` finds the files by their names. With `by_name`, the
    names also decide the splits. Raises UserError if a file is missing, or if some files, but not all, are named after
    splits.
    """
    root, paths = file_paths(source, match)
    if not root.is_dir():
        return Files(root, paths, [UNDECIDED], [])
    ignored: list[Ignored] = []
    if user_path(source).is_dir():
        beside = sorted(set(_below(root)) - set(paths))
        ignored = [(path.relative_to(root).as_posix(), "not a file that holds photographs") for path in beside]
    return Files(root, paths, _splits(root, paths) if by_name else [UNDECIDED] * len(paths), ignored)


def file_paths(source: str | Path, match: re.Pattern[str]) -> tuple[Path, list[Path]]:
    """Return the root and the sorted paths of the files of a source, as in `Files`, without looking at their splits."""
    path = user_path(source)
    if path.is_file():
        return path, [path]
    if path.is_dir():
        refuse_shards(path)
        return path, sorted(each for each in _below(path) if match.search(each.name))
    paths = sorted(set(_expanded(path)))
    return Path(os.path.commonpath([each.parent for each in paths])), paths


def _below(folder: Path) -> list[Path]:
    """Return the files in a folder and its subfolders, without hidden ones."""
    return [each for each in folder.rglob("*") if each.is_file() and not is_hidden(each.relative_to(folder).as_posix())]


def _splits(root: Path, paths: list[Path]) -> list[int]:
    """Return the split of each file by its name. Raises UserError if only some are named after splits."""
    found = [_split_of(path.relative_to(root).as_posix()) for path in paths]
    named = next((path for path, split in zip(paths, found, strict=True) if split is not None), None)
    if named is None:
        return [UNDECIDED] * len(paths)
    for path, split in zip(paths, found, strict=True):
        if split is None:
            raise UserError(f"--source {root}: {named.name} is named after a split, but {path.name} isn't; rename it")
    return [UNDECIDED if split is None else split for split in found]


def _split_of(name: str) -> int | None:
    """Return the split in a file's name or, if there is none, in the name of its folder. Return None if neither is
    named after a split."""
    for part in reversed(name.split("/")):
        found = splits_in(part)
        if len(found) > 1:
            raise UserError(f"{name}: its name contains more than one split; rename it")
        if found:
            return found.pop()
    return None


def holds(source: str | Path, match: re.Pattern[str]) -> bool:
    """Return whether `source` gives files whose names match `match`.

    `source` may be the path of one such file, a brace pattern of paths (`data-{000..009}.tar`), or a folder that holds
    such files. A folder with subfolders counts only if every subfolder holds some.
    """
    path = user_path(source)
    if not path.is_dir():
        return match.search(path.name) is not None and (path.is_file() or _BRACES.search(str(path)) is not None)
    with os.scandir(path) as entries:
        folders = [entry.path for entry in entries if not is_hidden(entry.name) and is_folder(entry)]
    if folders:
        return all(_has(folder, match) for folder in folders)
    return _has(path, match)


def _has(folder: str | Path, match: re.Pattern[str]) -> bool:
    """Return whether a folder has a file whose name `match` finds."""
    with os.scandir(folder) as entries:
        return any(match.search(entry.name) and entry.name[0] != "." and entry.is_file() for entry in entries)


def _expanded(path: Path) -> list[Path]:
    """Return the files of a pattern. Raises UserError if one is missing."""
    paths = []
    for each in _choices(str(path)):
        if not Path(each).is_file():
            raise UserError(f"--source {path}: {each} does not exist; give the numbers of existing files")
        paths.append(Path(each))
    return paths


def _choices(pattern: str) -> Iterator[str]:
    """Yield the names that a pattern with braces stands for."""
    found = _BRACES.search(pattern)
    if not found:
        yield pattern
        return
    choices: Iterable[str] = found[1].split(",")
    if numbers := _RANGE.fullmatch(found[1]):
        first, last = numbers.groups()
        choices = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    for choice in choices:
        yield from _choices(pattern[: found.start()] + choice + pattern[found.end() :])
