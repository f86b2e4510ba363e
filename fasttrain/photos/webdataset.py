"""Read WebDataset's tars in place. A photograph and its labels have a common key there."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fasttrain.config.location import user_path
from fasttrain.errors import UserError
from fasttrain.photos.container import Container, file_paths, find_files, holds
from fasttrain.photos.extra import plain_value
from fasttrain.photos.formats import HEAD
from fasttrain.photos.gzipped import MAGIC, Gzipped
from fasttrain.photos.records import Record, list_records
from fasttrain.photos.rows import LABELS, plain
from fasttrain.photos.source import Listing, SourceOptions
from fasttrain.photos.tars import tar_members
from fasttrain.photos.walk import Ignored, is_hidden, left_out

OPTIONS = frozenset({"class_names", "label_column"})
FILES = re.compile(r"\.(?:tar|tgz|tar\.gz)$", re.IGNORECASE)
_LABELS = frozenset({"cls", "txt", "json", "label", "class", "index", "cls.txt", "label.txt"})
_LABEL_BYTES = 1 << 20
_TRIED = 64
_MOST_TEXT = 200


def claims(source: str) -> bool:
    """Return whether `source` is a tar, a pattern of tars, or a folder of tars, with labels next to photographs."""
    if not holds(source, FILES):
        return False
    _, paths = file_paths(source, FILES)
    return not user_path(source).exists() or any(map(_is_webdataset, paths[:1]))


def listed(source: str | Path, options: SourceOptions) -> Listing:
    """List the photographs in WebDataset's tars. Raises UserError if one is damaged, or if no photograph has a
    label."""
    files = find_files(source, FILES)
    records: list[Record] = []
    ignored: list[Ignored] = []
    places: dict[str, tuple[Container, int, int]] = {}
    for number, path in enumerate(files.paths):
        container = Gzipped(path) if _is_gzip(path) else Container(path)
        for sample in _samples(container, files.name(number), options.label_column, ignored):
            photo = sample.photo
            if not sample.labels:
                ignored.append((photo.path, "no label next to it (.cls, .txt or .json)"))
                continue
            split = files.splits[number]
            records.append(Record(photo.path, photo.size, split, container.stamp, sample.labels, extra=sample.extra))
            places[photo.path] = container, photo.start, photo.size
    if not records:
        raise UserError(
            f"--source {files.root}: no photograph has a label next to it; add KEY.cls, KEY.txt or KEY.json"
        )

    def read(path: str) -> bytes:
        container, start, size = places[path]
        return container.read(start, size)

    own = ("cls", "cls.txt")
    return list_records("webdataset", files, records, options, own=own, ignored=ignored, read=read)


@dataclass(frozen=True)
class _Part:
    """A member of a tar: its path in the source, what follows the key in its path, its position and its size in
    bytes."""

    path: str
    ending: str
    start: int
    size: int


@dataclass
class _Sample:
    """The photographs and labels with one key. `extra` is the content of its JSON file."""

    photos: list[_Part] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    label_files: list[str] = field(default_factory=list)

    @property
    def photo(self) -> _Part:
        """Return the photograph to use: the one whose ending has the fewest dots."""
        return min(self.photos, key=lambda photo: (photo.ending.count("."), photo.path))


def _samples(container: Container, prefix: str, column: str | None, ignored: list[Ignored]) -> Iterator[_Sample]:
    """Yield the samples that have a photograph, in the order of the tar. Add (path, reason) of all other files to
    `ignored`."""
    samples: dict[str, _Sample] = {}
    places: dict[str, tuple[int, int]] = {}
    for info, head in tar_members(container):
        name = info.name.removeprefix("./")
        path = prefix + name
        if info.isdir() or is_hidden(name):
            continue
        place = places.get(info.linkname, (-1, 0)) if info.islnk() else (info.offset_data, info.size)
        if not (info.isfile() or info.islnk()) or info.sparse is not None or place[0] < 0:
            ignored.append((path, "not a regular file"))
            continue
        if name in places:
            ignored.append((path, "in the tar twice: the last one is read"))
        places[name] = place
        key, ending = _key(name)
        sample = samples.setdefault(key, _Sample())
        if ending in _LABELS:
            sample.label_files.append(path)
            if ending == "json":
                sample.extra |= _json(head(_LABEL_BYTES), path, ignored)
                sample.labels |= {
                    name: _text(value)
                    for name, value in sample.extra.items()
                    if name == column or plain(name) in LABELS
                }
            else:
                sample.labels |= _label(ending, head(_LABEL_BYTES))
        elif reason := left_out(name, functools.partial(head, HEAD)):
            ignored.append((path, reason))
        else:
            sample.photos = [photo for photo in sample.photos if photo.path != path]
            sample.photos.append(_Part(path, ending, *place))
    for sample in samples.values():
        if sample.photos:
            yield sample
            others = (photo.path for photo in sample.photos if photo is not sample.photo)
            ignored += [(other, f"another photograph with this key is used: {sample.photo.path}") for other in others]
        else:
            ignored += [(path, "a label without a photograph") for path in sample.label_files]


def _key(name: str) -> tuple[str, str]:
    """Split a member's path at the first dot of its file name, as WebDataset does. Return the key and the ending."""
    folder, _, file = name.rpartition("/")
    key, _, ending = file.partition(".")
    return f"{folder}/{key}", ending.lower()


def _label(ending: str, data: bytes) -> dict[str, str]:
    """Return a label file's text by its ending, or an empty dict if it is too long for a label."""
    text = data.decode("utf-8", "surrogateescape").strip()
    return {ending: text} if len(text) <= _MOST_TEXT and "\n" not in text else {}


def _json(data: bytes, path: str, ignored: list[Ignored]) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty dict if the file holds no object."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        ignored.append((path, "not readable JSON"))
        return {}
    return plain_value(found) if isinstance(found, dict) else {}


def _text(value: Any) -> str:
    """Return a value in a JSON file as a label, "" if it can't be one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return str(value).strip() if isinstance(value, (str, int)) else ""


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _is_webdataset(path: Path) -> bool:
    """Return whether the first members of a tar are photographs with labels, and not class folders with other files."""
    container = Gzipped(path) if _is_gzip(path) else Container(path)
    endings: dict[str, set[str]] = {}
    try:
        for info, _ in itertools.islice(tar_members(container), _TRIED):
            if info.isfile() and not info.name.rpartition("/")[2].startswith("."):
                key, ending = _key(info.name.removeprefix("./"))
                endings.setdefault(key, set()).add(ending)
    except UserError:  # the kind that accepts the source reports the error
        return False
    labelled = [key for key, there in endings.items() if there & _LABELS and there - _LABELS]
    return any("cls" in endings[key] or key.startswith("/") for key in labelled)
