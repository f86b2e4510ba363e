"""Read photographs from zips and tars without unpacking them: one archive, or one for each class or split."""

from __future__ import annotations

import errno
import functools
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fasttrain.config.location import user_path
from fasttrain.errors import UserError
from fasttrain.photos.container import Container, Within, find_files, holds
from fasttrain.photos.folder import list_tree
from fasttrain.photos.food101 import has_meta, list_meta
from fasttrain.photos.formats import HEAD
from fasttrain.photos.gzipped import MAGIC, Gzipped
from fasttrain.photos.source import Listing, SourceOptions
from fasttrain.photos.split_names import split_of
from fasttrain.photos.tars import tar_members
from fasttrain.photos.walk import Found, Ignored, first_bytes, is_hidden, left_out
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
_FILES = re.compile(r"\.(?:zip|tar|tgz|tbz2?|txz|tar\.(?:gz|bz2|xz|zst)|7z|rar)$", re.IGNORECASE)
_USTAR = slice(257, 262)
_MOST_LINKS = 8


@dataclass(frozen=True)
class _Member:
    """A file in an archive, or a folder, whose path ends with a slash.

    - `read`: returns the file's bytes.
    - `reason`: why the file is left out, or None.
    - `link`: the target of a symbolic link.
    - `hard_link`: the path of another member with the same content.
    - `checksum`: the CRC-32 that a zip stores for the file; 0 in a tar.
    - `stamp`: the stamp of the archive's file; see `walk.Found`.
    """

    path: str
    size: int
    read: Callable[[], bytes]
    reason: str | None = None
    link: str | None = None
    hard_link: str | None = None
    checksum: int = 0
    stamp: tuple[int, int, int] = (0, 0, 0)


def claims(source: str) -> bool:
    """Return whether `source` is an archive, by its first bytes or its name, or a folder that holds only archives."""
    path = user_path(source)
    if path.is_dir():
        return holds(path, _FILES)
    if not path.is_file():
        return False
    head = first_bytes(path)
    starts = (*_ZIP, MAGIC, *(start for start, _, _ in _OTHERS))
    return _FILES.search(path.name) is not None or head.startswith(starts) or head[_USTAR] == b"ustar"


def listed(source: str | Path, options: SourceOptions) -> Listing:
    """List the photographs in an archive, or in all archives of a folder.

    Each archive in a folder is read as a subfolder with the name of the archive, without the suffix such as `.zip`.

    Raises UserError if an archive is damaged or encrypted, or if its compression doesn't allow reading in place.
    """
    path = user_path(source)
    contents = _Contents({}, set(), [])
    if path.is_dir():
        files = find_files(path, _FILES, by_name=False)
        _refuse_numbered(path, [each.name for each in files.paths])
        contents.ignored.extend(files.ignored)
        for number, each in enumerate(files.paths):
            contents.add(_read(each), _FILES.sub("", files.name(number).rstrip("/")))
    else:
        contents = _read(path)
    if not contents.members:
        raise UserError(f"--source {path} holds no files; give an archive of class folders")
    tree = _Tree(path, contents)
    if has_meta(tree):
        listing, start = list_meta(tree, tree.read, "archive", path.name, options), "images/"
    else:
        listing, start = replace(list_tree(tree, "archive", path.name, options), read=tree.read), ""
    there = (photo for photo in listing.photos if photo.size >= 0)
    checksums = [(photo.path, tree.member(start + photo.path).checksum) for photo in there]
    ignored = [*listing.ignored, *contents.ignored, *tree.above]
    return replace(listing, ignored=ignored, content=json.dumps(checksums).encode())


@dataclass(frozen=True)
class _Contents:
    """The contents of an archive: its files by their paths, its folders, and (path, reason) of what is left out."""

    members: dict[str, _Member]
    folders: set[str]
    ignored: list[Ignored]

    def add(self, inner: _Contents, folder: str) -> None:
        """Add the contents of another archive, `inner`, below the path `folder`.

        If everything in `inner` is in one top folder with the same name as `folder`, that top folder is skipped, so
        that the name doesn't occur twice in the paths.
        """
        own = f"{folder.rpartition('/')[2]}/"
        prefix = own if all(name.startswith(own) or is_hidden(name) for name in inner.members) else ""
        for name, member in inner.members.items():
            link = member.link and f"{folder}/{member.link.removeprefix(prefix)}"
            self.members[f"{folder}/{name.removeprefix(prefix)}"] = replace(member, link=link)
        self.folders.update(f"{folder}/{name}" for each in inner.folders if (name := each.removeprefix(prefix)))
        self.ignored.extend((f"{folder}/{name}", reason) for name, reason in inner.ignored)


def _read(path: Path) -> _Contents:
    """Return the contents of an archive. Raises UserError if it can't be read in place."""
    head = first_bytes(path)
    for start, kind, command in _OTHERS:
        if head.startswith(start):
            raise UserError(f"--source {path} is a {kind}, which can't be read in place; unpack it: {command} {path}")
    is_tar = head.startswith(MAGIC) or head[_USTAR] == b"ustar"
    is_zip = head.startswith(_ZIP) or (path.suffix.lower() == ".zip" and not is_tar)
    container = Gzipped(path) if head.startswith(MAGIC) else Container(path)
    contents = _Contents({}, set(), [])
    for member in _zip(container) if is_zip else _tar(container):
        name = _plain(member.path)
        if member.path.endswith("/"):
            contents.folders.add(name or "")
            continue
        if not name:
            contents.ignored.append((member.path, "its path leads out of the archive"))
            continue
        if name in contents.members and not is_hidden(name):
            contents.ignored.append((name, "in the archive twice: the last one is read, as after unpacking"))
        if member.hard_link is not None:
            target = contents.members.get(_plain(member.hard_link) or "")
            member = target or replace(member, reason="a link to a file that isn't in the archive")
        contents.members[name] = member
    return contents


def _refuse_numbered(folder: Path, names: list[str]) -> None:
    """Raise UserError if archives are numbered, `000`, `001`, …, because these are parts of a data set and not
    classes."""
    numbers = [re.findall(r"\d{3,}", name) for name in names]
    words = {re.sub(r"\d", "", name) for name in names}
    if len(names) < 2 or len(words) > 1 or any(len(found) != 1 for found in numbers):
        return
    counted = sorted(int(found[0]) for found in numbers)
    if counted[0] in (0, 1) and counted[-1] - counted[0] == len(names) - 1:
        raise UserError(
            f"--source {folder}: {names[0]} and the files with the next numbers are neither classes nor WebDataset's "
            "tars, which hold labels next to photographs (KEY.cls, KEY.txt or KEY.json); give each class an archive"
        )


class _Tree:
    """The members of an archive as a `Tree`, without hidden files. If all members are in a single folder, that folder
    is the root.

    `above` has (path, reason) of each file next to the folder that became the root.
    """

    def __init__(self, root: Path, contents: _Contents) -> None:
        self.root, self.above = root, list[Ignored]()
        self._members, self._start = contents.members, ""
        self._folders: dict[str, set[str]] = {"": set()}
        self._files: dict[str, list[str]] = {}
        for name in contents.members:
            if not is_hidden(name):
                self._add(name)
        for folder in contents.folders:
            if folder and not is_hidden(folder):
                self._add_folder(folder)
        while inner := self._wrapper():
            beside = (each for each in self.files_in("") if not isinstance(each, Found))
            self.above += [(self._start + path, reason) for path, reason in beside]
            self._start += f"{inner}/"

    def member(self, path: str) -> _Member:
        """Return the file at `path`, or the target of a link there. Raises KeyError if there is neither."""
        return self._members[self._target(self._start + path)]

    def read(self, path: str) -> bytes:
        """Return the bytes of the file at `path`. Raises OSError if the file doesn't exist or is damaged."""
        try:
            member = self.member(path)
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
        return member.read()

    def folders(self, start: str) -> list[str]:
        return sorted(self._folders.get(self._at(start), ()))

    def files_in(self, start: str) -> Iterator[Found | Ignored]:
        for name in sorted(self._files.get(self._at(start), [])):
            yield self._judged(name)

    def walk_classes(self, prefix: str, names: list[str]) -> Iterator[tuple[str, Found | Ignored]]:
        """Yield (class name, file) for every file below each class folder. The folders' paths are `prefix` + name.

        Links to folders, and to files of other class folders, are yielded as ignored files.
        """
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
        """Return the file `name` as a photograph, or its path and the reason why it is not one."""
        path, target = name[len(self._start) :], self._target(name)
        member = self._members.get(target)
        if member is None:
            to_folder = f"a link to the folder {target}, which is not followed in an archive"
            return path, to_folder if target in self._folders else "a broken link"
        reason = "a link in a circle" if member.link is not None and member.reason is None else member.reason
        return Found(path, member.size, member.stamp) if reason is None else (path, reason)

    def _target(self, name: str) -> str:
        """Return the member that a chain of links leads to."""
        for _ in range(_MOST_LINKS):
            member = self._members.get(name)
            if member is None or member.link is None:
                break
            name = member.link
        return name

    def _wrapper(self) -> str | None:
        """Return the folder that contains everything else, or None."""
        inner = self.folders("")
        if len(inner) != 1 or split_of(inner[0]) is not None or not self.folders(inner[0]):
            return None
        return None if any(isinstance(each, Found) for each in self.files_in("")) else inner[0]

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


def _plain(name: str) -> str | None:
    """Return a member's path within the archive, as `tar` unpacks it, or None if the path leads out of the archive."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts else "/".join(parts)


def _tar(container: Container) -> Iterator[_Member]:
    """Yield the members of a tar, including those of uncompressed tars in it."""
    stamp = container.stamp
    for info, head in tar_members(container):
        name, start, size = info.name, info.offset_data, info.size
        read = functools.partial(container.read, start, size)
        if info.islnk():
            yield _Member(name, size, read, hard_link=info.linkname)
        elif info.issym():
            yield _link(name, info.linkname)
        elif info.isdir():
            yield _Member(f"{name}/", 0, bytes)
        elif not info.isfile() or info.sparse is not None:
            yield _Member(name, size, read, "not a regular file")
        elif name.endswith(".tar") and not isinstance(container, Gzipped) and head(HEAD)[_USTAR] == b"ustar":
            for inner in _tar(Within(container, start, size)):
                folder = name.removesuffix(".tar")
                hard_link = inner.hard_link and f"{folder}/{inner.hard_link}"
                link = inner.link and f"{folder}/{inner.link}"
                yield replace(inner, path=f"{folder}/{inner.path}", hard_link=hard_link, link=link)
        else:
            yield _Member(name, size, read, left_out(name, functools.partial(head, HEAD)), stamp=stamp)


def _zip(container: Container) -> Iterator[_Member]:
    """Yield the members of a zip."""
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
        yield _Member(name, info.file_size, read, reason, checksum=info.CRC, stamp=container.stamp)


def _link(name: str, target: str) -> _Member:
    """Return the member for a symbolic link called `name` that points to `target`."""
    found = posixpath.normpath(posixpath.join("/", posixpath.dirname(name), target))
    above = posixpath.normpath(posixpath.join(posixpath.dirname(_plain(name) or ""), target))
    if target.startswith("/") or above.startswith("../"):
        return _Member(name, 0, bytes, "a link that leads out of the archive")
    return _Member(name, 0, bytes, link=found.lstrip("/"))
