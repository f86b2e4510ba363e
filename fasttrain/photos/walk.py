"""The files below a folder: which are photographs, and why the others are not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Ignored = tuple[str, str]
"""(path relative to the source, reason)."""

_PHOTOGRAPHS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
        *(".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2"),
    }
)
_UNREADABLE = {
    suffix: f"{suffix[1:].upper()} can't be read here: save it as JPEG or PNG"
    for suffix in (".heic", ".heif", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".svg", ".psd", ".jxl")
}
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class Found:
    """A photograph by its name or first bytes; `path` relative to the source, `size` in bytes.

    stamp: times of modification and of change in nanoseconds, and inode. They tell a file from another one of the same
    name and size that takes its place later: the kernel sets the time of change, and no program can set it back.
    """

    path: str
    size: int
    stamp: tuple[int, int, int]


def walk(root: Path, start: str, seen: set[tuple[int, int]], *, recurse: bool = True) -> Iterator[Found | Ignored]:
    """Every file below `root / start`, sorted, hidden ones passed over, links followed.

    `seen` holds (device, inode) of the folders read so far, so that links can't lead around in circles.
    """
    folder = root / start if start else root
    identity = folder.stat()
    if (identity.st_dev, identity.st_ino) in seen:
        yield f"{start}/", "a link to a folder that is read already"
        return
    seen.add((identity.st_dev, identity.st_ino))
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if entry.name[0] == "." or entry.name == "__MACOSX":
            continue
        path = f"{start}/{entry.name}" if start else entry.name
        if is_folder(entry):
            if recurse:
                yield from walk(root, path, seen)
        else:
            yield _judge(entry, path)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one; False for links that lead nowhere, or where nobody may look."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _judge(entry: os.DirEntry[str], path: str) -> Found | Ignored:
    try:
        if not entry.is_file():
            return path, "a broken link" if entry.is_symlink() else "not a regular file"
        stat = entry.stat()
        suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - pathlib is slow for a million files
        if suffix in _PHOTOGRAPHS or (suffix not in _UNREADABLE and _looks_like_photograph(entry.path)):
            return Found(path, stat.st_size, (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
    except OSError as error:
        return path, f"can't be read: {error.strerror}"
    return path, _UNREADABLE.get(suffix, f"not a photograph ({suffix})" if suffix else "not a photograph")


def _looks_like_photograph(path: str) -> bool:
    with Path(path).open("rb") as file:
        head = file.read(12)
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")
