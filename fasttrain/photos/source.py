"""The common form of all sources: a list of labelled photographs, from which shards are made."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasttrain.errors import UserError
from fasttrain.photos.label_bits import packed
from fasttrain.photos.walk import Ignored

TRAIN, VAL, TEST, UNDECIDED = 0, 1, 2, -1


@dataclass(frozen=True)
class SourceOptions:
    """The options for reading a source: see `convert`. The files are read when the source is opened."""

    classes: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    class_names: str | Path | None = None
    root: str | Path | None = None
    group_by: str | None = None
    splits: str | Path | None = None
    relabel: str | Path | None = None
    multi_label: bool | None = None
    skip_empty_classes: bool = False
    keep_duplicates_together: bool = False


@dataclass(frozen=True)
class Photo:
    """One photograph.

    `path`: relative to its source, with slashes. `name`: of its class. `size`: in bytes, -1 if it is missing; that of
    the file if it is a row in one. `stamp`: see `walk.Found`. `group`: photographs of a group stay in one split; "" is
    no group. `extra`: a value for each of the listing's `extra_columns`. `names`: of all its classes, if the listing
    is multi-label; `name` is then empty.
    """

    path: str
    name: str
    split: int
    size: int
    stamp: tuple[int, int, int] = (0, 0, 0)
    group: str = ""
    extra: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """Everything found by a kind of source.

    `names`: every class's name, in label order, with or without photographs. `ignored`: (path, reason) of files that
    are not photographs. `folder`: where class folders are, "" or "train/"; None if there are none. `content`: what
    decides the labels besides paths and sizes, for the fingerprint. `notes`: lines for the user. `settings`: for the
    manifest. `read`: returns the bytes of the photograph at a path; by default those of the file below `root`.
    `extra_columns`: the names of the photographs' extra labels. `multi_label`: whether a photograph may have any
    number of classes.
    """

    kind: str
    name: str
    root: Path
    names: Sequence[str]
    photos: list[Photo]
    ignored: list[Ignored]
    folder: str | None = None
    content: bytes = b""
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    read: Callable[[str], bytes] | None = None
    extra_columns: tuple[str, ...] = ()
    multi_label: bool = False


@dataclass(frozen=True)
class Source:
    """The photographs of a data set, sorted by path.

    `kind`: the name of its module, such as "folder" or "table". `paths`: relative to `root`, with slashes. `labels`:
    int32 [n], positions in `classes`; for multi-label sources uint8 [n, bytes], see `label_bits.packed`. `splits`:
    int8 [n], 0 train, 1 val, 2 test, -1 if `convert` decides between train and val. `ignored`: (path, reason) of files
    that are not photographs. `fingerprint`: "sha256:" and the hash of all (path, size in bytes, split). `local_state`:
    the same for all (path, size, split, `walk.Found.stamp`); it differs between copies of the photographs, and changes
    with each of them. `groups`: one name per photograph, or empty. `extra`: each further column of a table, with a
    JSON value per photograph. `notes`, `settings`, `reader`: see `Listing`. `twins`: see `photos.together`. `sizes`:
    int64 [n], bytes, -1 if a photograph is missing; empty if they are not known.
    """

    kind: str
    name: str
    root: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: NDArray[np.int32] | NDArray[np.uint8]
    splits: NDArray[np.int8]
    ignored: tuple[Ignored, ...]
    fingerprint: str
    local_state: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, list[Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    reader: Callable[[str], bytes] | None = None
    twins: tuple[tuple[int, ...], ...] = ()
    sizes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def multi_label(self) -> bool:
        """Return whether a photograph may have any number of classes."""
        return self.labels.ndim == 2

    def read(self, row: int) -> bytes:
        """Return the bytes of the photograph at position `row`. Raises OSError if they can't be read."""
        path = self.paths[row]
        return (self.root / path).read_bytes() if self.reader is None else self.reader(path)

    def size(self, row: int) -> int:
        """Return the size in bytes of the photograph at position `row`, or 0 if it is not known."""
        return max(int(self.sizes[row]), 0) if len(self.sizes) else 0

    def summary(self) -> SourceSummary:
        """Return the manifest's description of the source."""
        return SourceSummary(
            self.kind, self.name, self.classes, len(self.paths), self.ignored, self.fingerprint, self.multi_label
        )


@dataclass(frozen=True)
class SourceSummary:
    """A source without its photographs. The fields are those of `Source`, and `photos` is their number."""

    kind: str
    name: str
    classes: tuple[str, ...]
    photos: int
    ignored: tuple[Ignored, ...]
    fingerprint: str
    multi_label: bool = False


def make_source(listing: Listing) -> Source:
    """Sort and number the listed photographs. Classes without photographs are left out and listed in `ignored`.

    Raises UserError if a class's name can't be printed, or if no photograph is left.
    """
    for name in listing.names:
        if not name or not name.isprintable():
            raise UserError(f"--source {listing.root}: the class name {name!r} isn't printable UTF-8; rename it")
    photos = sorted(listing.photos, key=lambda photo: photo.path)
    used = {name for photo in photos for name in (photo.names if listing.multi_label else (photo.name,))}
    classes = tuple(name for name in listing.names if name in used)
    if not classes:
        why = f": {reasons([reason for _, reason in listing.ignored])}" if listing.ignored else ""
        raise UserError(f"--source {listing.root} holds classes ({few(listing.names)}) but no photographs in them{why}")
    ignored = list(listing.ignored)
    if listing.folder is not None:
        ignored += [(f"{listing.folder}{name}/", "empty class") for name in listing.names if name not in used]
    label = {name: number for number, name in enumerate(classes)}
    extra = {name: [photo.extra[at] for photo in photos] for at, name in enumerate(listing.extra_columns)}
    content = listing.content + (json.dumps(extra).encode() if extra else b"")
    digest, local = hashlib.sha256(content), hashlib.sha256(content)
    for photo in photos:
        line = os.fsencode(photo.path) + b"\0%d\0%d\n" % (photo.size, photo.split)
        digest.update(line)
        local.update(line + b"%d\0%d\0%d\n" % photo.stamp)
    return Source(
        listing.kind,
        listing.name,
        listing.root,
        classes,
        tuple(photo.path for photo in photos),
        packed([[label[name] for name in photo.names] for photo in photos], len(classes))
        if listing.multi_label
        else np.array([label[photo.name] for photo in photos], dtype=np.int32),
        np.array([photo.split for photo in photos], dtype=np.int8),
        tuple(sorted(ignored)),
        f"sha256:{digest.hexdigest()}",
        f"sha256:{local.hexdigest()}",
        tuple(photo.group for photo in photos) if any(photo.group for photo in photos) else (),
        extra,
        listing.notes,
        listing.settings,
        listing.read,
        sizes=np.array([photo.size for photo in photos], dtype=np.int64),
    )


def reasons(each: Sequence[str]) -> str:
    """Return the two most frequent reasons with their counts, and " …" if there are more."""
    found = Counter(each).most_common(2)
    return "; ".join(f"{count:,} x {reason}" for reason, count in found) + (" …" if len(set(each)) > 2 else "")


def refuse_shards(root: Path) -> None:
    """Raise UserError if `root` holds shards, which can't be a source."""
    if (root / "manifest.json").exists():
        raise UserError(f"--source {root} holds shards already; train on them: fasttrain train {root}")
    if (root / ".parts").is_dir():
        raise UserError(f"--source {root} holds a conversion that isn't finished; give the photographs themselves")
    if any(root.glob("index*.npy")) and any(root.glob("*.tar")):
        raise UserError(f"--source {root} holds shards without their manifest.json; copy it again, or convert again")


def few(names: Sequence[str]) -> str:
    """Return the first three names, and " …" if there are more."""
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
