"""List the files in a folder: which of them are photographs, and why the others are not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fasttrain.photos.formats import HEAD, RAW, sniff, why_not

Ignored = tuple[str, str]
"""A file that is not used: (its path in the source, the reason)."""

PHOTOGRAPHS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".j2c", ".jpf", ".jpx"),
    }
)
_RAWS = frozenset(
    "." + suffix
    for suffix in (  # noqa: SIM905 - a list would take forty lines
        "3fr ari arw bay cap cr2 cr3 crw dcr dcs dng drf eip erf fff gpr iiq k25 kdc "
        "mdc mef mos mrw nef nrw orf pef ptx pxn r3d raf raw rw2 rwl rwz sr2 srf srw x3f"
    ).split()
)
"""Suffixes of cameras' raw files. Most of these files begin like a TIFF whose first image is a thumbnail."""
_THUMBNAIL = "a camera's thumbnail (THM) of another file"

OwnName = Callable[[str], str | None]
"""Returns the path by which a link's target is read anyway, or None."""


@dataclass(frozen=True)
class Found:
    """A file that is a photograph, by its name or its first bytes.

    `path` is relative to the source, and `size` is in bytes. `stamp` has the times of modification and of change in
    nanoseconds, and the inode. It changes if the file is replaced by another one of the same name and size, because
    programs can't set the time of change.
    """

    path: str
    size: int
    stamp: tuple[int, int, int]


def walk(
    root: Path, start: str, seen: set[tuple[int, int]], *, recurse: bool = True, own_name: OwnName = lambda _: None
) -> Iterator[Found | Ignored]:
    """Yield every file in the folder `root / start`, sorted by name. Hidden files are skipped, and links are followed.

    `seen` holds (device, inode) of the folders read before, and is updated, so that no folder is read twice. With
    `recurse` False, subfolders are not read. A link is not followed if `own_name` returns a path for its target,
    because the target is then read at that path.
    """
    folder = root / start if start else root
    identity = folder.stat()
    if (identity.st_dev, identity.st_ino) in seen:
        yield f"{start}/", "a link to a folder that has been read already"
        return
    seen.add((identity.st_dev, identity.st_ino))
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if is_hidden(entry.name):
            continue
        path = f"{start}/{entry.name}" if start else entry.name
        linked = entry.is_symlink() and os.path.exists(entry.path)  # noqa: PTH110 - pathlib is slow
        if linked and (own := own_name(os.path.realpath(entry.path))):
            yield f"{path}/" if is_folder(entry) else path, f"a link to {own}, which is read under its own name"
        elif is_folder(entry):
            if recurse:
                yield from walk(root, path, seen, own_name=own_name)
        else:
            yield _judge(entry, path)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one. Returns False for broken links and on errors."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _judge(entry: os.DirEntry[str], path: str) -> Found | Ignored:
    """Return a file as a photograph, or its path and the reason why it is not one."""
    try:
        if not entry.is_file():
            return path, "a broken link" if entry.is_symlink() else "not a regular file"
        stat = entry.stat()
        reason = left_out(entry.name, lambda: first_bytes(entry.path))
        if reason is None:
            return Found(path, stat.st_size, (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
    except OSError as error:
        return path, f"can't be read: {error.strerror}"
    return path, reason


def is_hidden(path: str) -> bool:
    """Return whether a part of the path begins with a dot, or is the folder `__MACOSX` that macOS adds to zips."""
    return any(part[:1] == "." or part == "__MACOSX" for part in path.split("/"))


def left_out(name: str, head: Callable[[], bytes]) -> str | None:
    """Return why the file `name` is not a photograph, or None if it is one.

    The suffix decides, or if that is unknown, the file's first HEAD bytes. `head` returns these bytes.
    """
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - pathlib is slow for a million files
    if suffix in PHOTOGRAPHS:
        return None
    kind = sniff(head())
    if suffix == ".thm":
        return _THUMBNAIL
    if suffix in _RAWS and kind in ("TIFF", "BigTIFF", "raw", ""):
        return f"{suffix[1:].upper()}, {RAW}"
    if kind:
        return why_not(kind)
    return f"not a photograph ({suffix})" if suffix else "not a photograph"


def first_bytes(path: str | Path) -> bytes:
    """Return the first HEAD bytes of a file. Raises OSError if the file can't be read."""
    with Path(path).open("rb") as file:
        return file.read(HEAD)
