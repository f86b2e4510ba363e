"""Folders to look for photographs in: on a disk. An archive gives the same view of its members."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from fasttrain.photos.walk import Found, Ignored, is_folder, walk


class Tree(Protocol):
    """What layouts are told by. Every path is relative to `root`, with slashes; "" is `root` itself."""

    root: Path

    def folders(self, start: str) -> list[str]:
        """Return the names of the folders in `start`, sorted, without hidden ones."""

    def walk(self, start: str, seen: set[tuple[int, int]], *, recurse: bool = True) -> Iterator[Found | Ignored]:
        """Yield every file below `start`: see `walk.walk`."""


class DiskTree:
    """The folder `root`. OSErrors pass through."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folders(self, start: str) -> list[str]:
        with os.scandir(self.root / start) as entries:
            return sorted(entry.name for entry in entries if entry.name[0] != "." and is_folder(entry))

    def walk(self, start: str, seen: set[tuple[int, int]], *, recurse: bool = True) -> Iterator[Found | Ignored]:
        return walk(self.root, start, seen, recurse=recurse)
