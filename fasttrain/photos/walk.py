"""List the files below a folder: which are photographs, and why the others are not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fasttrain.photos.formats import HEAD, RAW, sniff, why_not

Ignored = tuple[str, str]
"""(path relative to the source, reason)."""

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
"""Most cameras' raw files begin like a TIFF, whose first image is a thumbnail."""
_THUMBNAIL = "a camera's thumbnail (THM) of another file"

OwnName = Callable[[str], str | None]
"""Maps a link's target to the name under which it is read anyway, or to None."""


@dataclass(frozen=True)
class Found:
    """A photograph, according to its name or first bytes. `path` is relative to the source, `size` in bytes.

    `stamp`: times of modification and of change in nanoseconds, and inode. They distinguish a file from another one
    with the same name and size that replaces it later: the kernel sets the time of change, and no program can set it
    back.
    """

    path: str
    size: int
    stamp: tuple[int, int, int]


def walk(
    root: Path, start: str, seen: set[tuple[int, int]], *, recurse: bool = True, own_name: OwnName = lambda _: None
) -> Iterator[Found | Ignored]:
    """Yield every file below `root / start`, sorted. Hidden files are skipped and links are followed.

    `seen` holds (device, inode) of the folders read so far, so that links can't form circles. A link to a target with
    an `own_name` is not followed.
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
    """Return whether an entry is a folder, or a link to one. False for broken links, and if it can't be examined."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _judge(entry: os.DirEntry[str], path: str) -> Found | Ignored:
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
    """Return whether a part of a path, with slashes, begins with a dot, or is the folder that macOS adds to zips."""
    return any(part[:1] == "." or part == "__MACOSX" for part in path.split("/"))


def left_out(name: str, head: Callable[[], bytes]) -> str | None:
    """Return why a file is not a photograph, or None if its suffix, or else its first HEAD bytes, show
    that it is one."""
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
    """Return the first HEAD bytes of a file. Raises OSError."""
    with Path(path).open("rb") as file:
        return file.read(HEAD)
