"""The interface for searching the folders of a source, and its implementation for a disk. Archives and buckets have
their own implementations."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from fasttrain.photos.walk import Found, Ignored, is_folder, walk


class Tree(Protocol):
    """The interface to the folders and files of a source. All paths are relative to `root`, with slashes; "" is `root`
    itself."""

    root: Path

    def folders(self, start: str) -> list[str]:
        """Return the names of the folders in the folder `start`, sorted, without hidden ones."""

    def files_in(self, start: str) -> Iterator[Found | Ignored]:
        """Yield the files in the folder `start`, without those in subfolders."""

    def walk_classes(self, prefix: str, names: list[str]) -> Iterator[tuple[str, Found | Ignored]]:
        """Yield (class name, file) for every file below each class folder. The folders' paths are `prefix` + name."""


class DiskTree:
    """The folder `root` on this machine. Its methods raise OSError if a folder can't be read."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folders(self, start: str) -> list[str]:
        with os.scandir(self.root / start) as entries:
            return sorted(entry.name for entry in entries if entry.name[0] != "." and is_folder(entry))

    def files_in(self, start: str) -> Iterator[Found | Ignored]:
        return walk(self.root, start, set(), recurse=False)

    def walk_classes(self, prefix: str, names: list[str]) -> Iterator[tuple[str, Found | Ignored]]:
        """Yield (class name, file) for every file below each class folder. The folders' paths are `prefix` + name.

        Links to another class folder, and to photographs in it, are yielded as ignored files.
        """
        base = os.path.realpath(self.root / prefix)
        paths = {name: self.root / prefix / name for name in names}
        aliases = {name: os.path.realpath(path) for name, path in paths.items() if path.is_symlink()}
        real = set(names) - set(aliases)

        def read_as(target: str, here: str) -> str | None:
            inside = os.path.relpath(target, base)
            if os.path.commonpath([target, base]) == target:
                return f"{target}, a folder above"
            first, *others = Path(inside).parts
            if first not in real or (first == here and os.path.isfile(target)):  # noqa: PTH113 - a million times
                return None
            return None if any(part[0] == "." for part in others) else prefix + inside

        seen: set[tuple[int, int]] = set()
        for name in names:
            if name in aliases and (own := read_as(aliases[name], name)):
                yield name, (f"{prefix}{name}/", f"a link to {own}, which is read under its own name")
                continue
            for found in walk(self.root, f"{prefix}{name}", seen, own_name=functools.partial(read_as, here=name)):
                yield name, found
