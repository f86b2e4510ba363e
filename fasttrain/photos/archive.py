"""A zip or tar of class folders, read in place."""

from __future__ import annotations

import functools
import json
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fasttrain.config.location import user_path
from fasttrain.errors import UserError
from fasttrain.photos.container import Container
from fasttrain.photos.folder import list_tree
from fasttrain.photos.formats import HEAD
from fasttrain.photos.gzipped import MAGIC, Gzipped
from fasttrain.photos.source import Listing, SourceOptions
from fasttrain.photos.split_names import split_of
from fasttrain.photos.tars import tar_members
from fasttrain.photos.walk import Found, Ignored, left_out
from fasttrain.photos.zips import is_link, read_member, require_readable, zip_members

OPTIONS = frozenset({"classes"})
_OTHERS = (
    (b"BZh", "tar compressed by bzip2", "bzip2 -dk"),
    (b"\xfd7zXZ\0", "tar compressed by xz", "xz -dk"),
    (b"\x28\xb5\x2f\xfd", "tar compressed by zstd", "zstd -dk"),
    (b"7z\xbc\xaf\x27\x1c", "7z archive", "7z x"),
    (b"Rar!", "RAR archive", "unrar x"),
)
_ZIP = (b"PK\3\4", b"PK\5\6")
_NAMES = (".zip", ".tar")
_USTAR = slice(257, 262)
_MOST_LINKS = 8


@dataclass(frozen=True)
class _Member:
    """A file in an archive, or a folder, whose path ends with a slash.

    reason: why it is left out. link: where a symbolic link leads to. twin: the file of which it is another name.
    checksum: as a zip has it.
    """

    path: str
    size: int
    read: Callable[[], bytes]
    reason: str | None = None
    link: str | None = None
    twin: str | None = None
    checksum: int = 0


def claims(source: str) -> bool:
    """Return whether `source` is a file that begins as an archive does, or is named as one."""
    path = user_path(source)
    if not path.is_file():
        return False
    head = _head(path)
    starts = (*_ZIP, MAGIC, *(start for start, _, _ in _OTHERS))
    return path.suffix.lower() in _NAMES or head.startswith(starts) or head[_USTAR] == b"ustar"


def listed(source: str | Path, options: SourceOptions) -> Listing:
    """List an archive's photographs. Raises UserError where it is damaged, encrypted, or can't be read in place."""
    path = user_path(source)
    head = _head(path)
    for start, kind, command in _OTHERS:
        if head.startswith(start):
            raise UserError(f"--source {path} is a {kind}, which can't be read in place; unpack it: {command} {path}")
    is_tar = head.startswith(MAGIC) or head[_USTAR] == b"ustar"
    is_zip = head.startswith(_ZIP) or (path.suffix.lower() == ".zip" and not is_tar)
    container = Gzipped(path) if head.startswith(MAGIC) else Container(path)
    members: dict[str, _Member] = {}
    folders: set[str] = set()
    ignored: list[Ignored] = []
    for member in _zip(container) if is_zip else _tar(container):
        name = _plain(member.path)
        if member.path.endswith("/"):
            folders.add(name or "")
            continue
        if not name:
            ignored.append((member.path, "its path leads out of the archive"))
            continue
        if name in members and not _hidden(name):
            ignored.append((name, "there twice: the last one is read, as after unpacking"))
        if member.twin is not None:
            twin = members.get(_plain(member.twin) or "")
            member = twin or replace(member, reason="a link to a file that isn't in the archive")
        members[name] = member
    if not members:
        raise UserError(f"--source {path} holds no files")
    tree = _Tree(container, members, folders)
    listing = list_tree(tree, "archive", path.name, options)
    checksums = [(photo.path, tree.member(photo.path).checksum) for photo in listing.photos] if is_zip else []
    return replace(
        listing,
        ignored=[*listing.ignored, *ignored, *tree.above],
        content=json.dumps(checksums).encode() if is_zip else b"",
        read=lambda inner: tree.member(inner).read(),
    )


class _Tree:
    """An archive's members, without hidden ones. A lone folder that holds all the others is passed through.

    above: (path, reason) of what lies beside such a folder.
    """

    def __init__(self, container: Container, members: dict[str, _Member], folders: set[str]) -> None:
        self.root, self.above = container.path, list[Ignored]()
        self._stamp, self._members, self._start = container.stamp, members, ""
        self._folders: dict[str, set[str]] = {"": set()}
        self._files: dict[str, list[str]] = {}
        for name in members:
            if not _hidden(name):
                self._add(name)
        for folder in folders:
            if folder and not _hidden(folder):
                self._add_folder(folder)
        while inner := self._wrapper():
            beside = (each for each in self.loose("") if not isinstance(each, Found))
            self.above += [(self._start + path, reason) for path, reason in beside]
            self._start += f"{inner}/"

    def member(self, path: str) -> _Member:
        """Return the file at a path, or to which a link leads from there."""
        return self._members[self._target(self._start + path)]

    def folders(self, start: str) -> list[str]:
        return sorted(self._folders.get(self._at(start), ()))

    def loose(self, start: str) -> Iterator[Found | Ignored]:
        for name in sorted(self._files.get(self._at(start), [])):
            yield self._judged(name)

    def walk_classes(self, prefix: str, names: list[str]) -> Iterator[tuple[str, Found | Ignored]]:
        """See `Tree`. A link to another class folder's file is yielded as ignored, as is one to any folder."""
        base, known = self._start + prefix, set(names)
        for name in names:
            for file in self._below(f"{base}{name}"):
                target = self._target(file)
                other = target[len(base) :].partition("/")[0] if target.startswith(base) else name
                if other != name and other in known and target in self._members:
                    own = target[len(self._start) :]
                    yield name, (file[len(self._start) :], f"a link to {own}, which is read under its own name")
                else:
                    yield name, self._judged(file)

    def _judged(self, name: str) -> Found | Ignored:
        path, target = name[len(self._start) :], self._target(name)
        member = self._members.get(target)
        if member is None:
            to_folder = f"a link to the folder {target}, which is not followed in an archive"
            return path, to_folder if target in self._folders else "a broken link"
        reason = "a link in a circle" if member.link is not None and member.reason is None else member.reason
        return Found(path, member.size, self._stamp) if reason is None else (path, reason)

    def _target(self, name: str) -> str:
        for _ in range(_MOST_LINKS):
            member = self._members.get(name)
            if member is None or member.link is None:
                break
            name = member.link
        return name

    def _wrapper(self) -> str | None:
        inner = self.folders("")
        if len(inner) != 1 or split_of(inner[0]) is not None or not self.folders(inner[0]):
            return None
        return None if any(isinstance(each, Found) for each in self.loose("")) else inner[0]

    def _below(self, folder: str) -> Iterator[str]:
        yield from sorted(self._files.get(folder, []))
        for inner in sorted(self._folders.get(folder, ())):
            yield from self._below(f"{folder}/{inner}")

    def _at(self, start: str) -> str:
        return (self._start + start).rstrip("/")

    def _add(self, name: str) -> None:
        folder = name.rpartition("/")[0]
        self._files.setdefault(folder, []).append(name)
        self._add_folder(folder)

    def _add_folder(self, folder: str) -> None:
        while folder:
            above, _, own = folder.rpartition("/")
            siblings = self._folders.setdefault(above, set())
            if own in siblings:
                return
            siblings.add(own)
            self._folders.setdefault(folder, set())
            folder = above


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _plain(name: str) -> str | None:
    """Return a member's path from the top of the archive on, as `tar` unpacks it; None where it leads out of it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts else "/".join(parts)


def _hidden(name: str) -> bool:
    return any(part[0] == "." or part == "__MACOSX" for part in name.split("/"))


def _tar(container: Container) -> Iterator[_Member]:
    for info, head in tar_members(container):
        name, start, size = info.name, info.offset_data, info.size
        read = functools.partial(container.read, start, size)
        if info.islnk():
            yield _Member(name, size, read, twin=info.linkname)
        elif info.issym():
            yield _link(name, info.linkname)
        elif info.isfile() and info.sparse is None:
            yield _Member(name, size, read, left_out(name, functools.partial(head, HEAD)))
        elif info.isdir():
            yield _Member(f"{name}/", 0, bytes)
        else:
            yield _Member(name, size, read, "not a regular file")


def _zip(container: Container) -> Iterator[_Member]:
    for name, info in zip_members(container):
        read = functools.partial(read_member, container, info)
        if name.endswith("/"):
            yield _Member(name, 0, bytes)
            continue
        require_readable(container, info)
        if is_link(info):
            yield _link(name, read().decode("utf-8", "surrogateescape"))
            continue
        try:
            reason = left_out(name, functools.partial(read, HEAD))
        except OSError as error:
            reason = f"can't be read: {error.strerror}"
        yield _Member(name, info.file_size, read, reason, checksum=info.CRC)


def _link(name: str, target: str) -> _Member:
    found = posixpath.normpath(posixpath.join("/", posixpath.dirname(name), target))
    above = posixpath.normpath(posixpath.join(posixpath.dirname(_plain(name) or ""), target))
    if target.startswith("/") or above.startswith("../"):
        return _Member(name, 0, bytes, "a link that leads out of the archive")
    return _Member(name, 0, bytes, link=found.lstrip("/"))
