"""`Source`: a list of labelled photographs, the common form of all data sets before conversion."""

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
    """The options of `convert` that decide how a source is read; `fasttrain convert --help` explains each.

    Files that the options name are read when the source is opened.
    """

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
    """One photograph of a `Listing`.

    - `path`: relative to the source, with slashes.
    - `name`: the name of its class; "" if the listing is multi-label.
    - `split`: 0 train, 1 val, 2 test, -1 undecided.
    - `size`: the size of its file in bytes, -1 if it is missing. If the file holds many photographs in rows, it is the
      size of that file.
    - `stamp`: see `walk.Found`.
    - `group`: photographs of the same group stay in one split; "" means no group.
    - `extra`: a value for each of the listing's `extra_columns`.
    - `names`: the names of all of its classes, if the listing is multi-label.
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
    """The photographs and other files that were found in a source.

    - `kind`, `name`, `root`: see `Source`.
    - `names`: the name of every class in label order, with or without photographs.
    - `photos`: the photographs.
    - `ignored`: (path, reason) of each file that is not a photograph.
    - `folder`: the folder that holds the class folders, relative to `root`: "" for `root` itself, or a path such as
      "train/". None if there are no class folders.
    - `content`: bytes that decide labels, such as those of a table. They enter the fingerprint besides paths and sizes.
    - `notes`: messages for the user.
    - `settings`: settings for the manifest.
    - `read`: returns the bytes of the photograph at a path. By default the file at this path below `root` is read.
    - `extra_columns`: the names of the photographs' extra labels.
    - `multi_label`: whether a photograph may have several classes, or none.
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

    - `kind`: the name of the module that read the source, such as "folder" or "table".
    - `name`, `root`: the data set's name, and the folder that its paths are relative to.
    - `classes`: the class names in label order.
    - `paths`: the path of each photograph relative to `root`, with slashes.
    - `labels`: positions in `classes`, int32 [n]; for multi-label sources uint8 [n, bytes], see `label_bits.packed`.
    - `splits`: int8 [n], 0 train, 1 val, 2 test, and -1 if `convert` decides.
    - `ignored`: (path, reason) of each file that is not a photograph.
    - `fingerprint`: "sha256:" and the hash of (path, size in bytes, split) of all photographs.
    - `local_state`: a hash like `fingerprint`, which covers each file's `walk.Found.stamp` in addition. It differs
      between copies of the data set, and changes if a photograph is modified.
    - `groups`: the group of each photograph, or empty.
    - `extra`: a JSON value per photograph for each further column of a table, by the column's name.
    - `notes`, `settings`, `reader`: see `notes`, `settings` and `read` in `Listing`.
    - `near_duplicates`: the groups of near-duplicates, as positions; see `photos.together`.
    - `sizes`: the size of each photograph in bytes, int64 [n], -1 if it is missing; empty if sizes are not known.
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
    near_duplicates: tuple[tuple[int, ...], ...] = ()
    sizes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def multi_label(self) -> bool:
        """Return whether a photograph may have several classes, or none."""
        return self.labels.ndim == 2

    def read(self, row: int) -> bytes:
        """Return the bytes of the photograph at position `row`. Raises OSError if they can't be read."""
        path = self.paths[row]
        return (self.root / path).read_bytes() if self.reader is None else self.reader(path)

    def size(self, row: int) -> int:
        """Return the size in bytes of the photograph at position `row`, or 0 if it isn't known."""
        return max(int(self.sizes[row]), 0) if len(self.sizes) else 0

    def summary(self) -> SourceSummary:
        """Return the description of the source for the manifest."""
        return SourceSummary(
            self.kind, self.name, self.classes, len(self.paths), self.ignored, self.fingerprint, self.multi_label
        )


@dataclass(frozen=True)
class SourceSummary:
    """The description of a source without its photographs. `photos` is the number of photographs. The other fields are
    explained in `Source`."""

    kind: str
    name: str
    classes: tuple[str, ...]
    photos: int
    ignored: tuple[Ignored, ...]
    fingerprint: str
    multi_label: bool = False


def make_source(listing: Listing) -> Source:
    """Return the `Source` of a listing: sort the photographs and number the classes.

    Classes without photographs are left out and added to `ignored`. Raises UserError if the name of a class isn't
    printable, or if no photograph is left.
    """
    for name in listing.names:
        if not name or not name.isprintable():
            raise UserError(f"--source {listing.root}: the class name {name!r} isn't printable UTF-8; rename it")
    photos = sorted(listing.photos, key=lambda photo: photo.path)
    used = {name for photo in photos for name in (photo.names if listing.multi_label else (photo.name,))}
    classes = tuple(name for name in listing.names if name in used)
    if not classes:
        why = f" ({reasons([reason for _, reason in listing.ignored])})" if listing.ignored else ""
        raise UserError(
            f"--source {listing.root} holds classes ({few(listing.names)}) but no photographs in them{why}; add some"
        )
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
    """Return the two most frequent reasons with their counts, such as "3 x empty file; 1 x not a photograph", for
    messages."""
    found = Counter(each).most_common(2)
    return "; ".join(f"{count:,} x {reason}" for reason, count in found) + (" …" if len(set(each)) > 2 else "")


def refuse_shards(root: Path) -> None:
    """Raise UserError if the folder `root` holds shards, because they can't be converted again."""
    if (root / "manifest.json").exists():
        raise UserError(f"--source {root} holds shards already; train on them: fasttrain train {root}")
    if (root / ".parts").is_dir():
        raise UserError(f"--source {root} holds an unfinished conversion; give the folder of the photographs")
    if any(root.glob("index*.npy")) and any(root.glob("*.tar")):
        raise UserError(f"--source {root} holds shards without manifest.json; copy that file again, or convert again")


def few(names: Sequence[str]) -> str:
    """Return the first three names for messages, followed by " …" if there are more."""
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
