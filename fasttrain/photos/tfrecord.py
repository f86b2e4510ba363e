"""Read TFRecords of `tf.train.Example`, as TensorFlow Datasets and TF-Slim write them, without TensorFlow."""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fasttrain.errors import UserError
from fasttrain.photos.container import Container, damaged, find_files, holds
from fasttrain.photos.crc32c import masked_crc32c
from fasttrain.photos.formats import HEAD
from fasttrain.photos.gzipped import MAGIC
from fasttrain.photos.records import Record, list_records
from fasttrain.photos.rows import LABELS, plain
from fasttrain.photos.source import Listing, SourceOptions
from fasttrain.photos.walk import Ignored, left_out
from fasttrain.text import counted

OPTIONS = frozenset({"class_names", "label_column"})
FILES = re.compile(
    r"\.tfrecords?(?:-\d+-of-\d+)?(?:\.gz)?$|\.tfrec$|-\d+-of-\d+(?:\.tfrecords?)?$", re.IGNORECASE
)  # `train-00000-of-01024` has no suffix
_IMAGES = ("image/encoded", "image", "image_raw", "image_bytes", "encoded_image", "jpeg", "png", "img")
_LABELS = ("image/class/label", "label")
_NAMES = ("image/class/text", "image/class/synset")
_PATHS = ("image/filename", "file_name", "filename", "image/source_id")
_NAMESFILES = ("label.labels.txt", "labels.txt")
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_MOST_TEXT = 200
_AT_ONCE = 1 << 10
_KEY, _VALUE = 1, 2  # the fields of an entry of a map
_BYTES, _INTEGERS = 1, 3  # the kinds of a Feature; 2 stands for floating-point numbers
_VARINT, _LENGTH = 0, 2  # wire types of protobuf; 1 and 5 are numbers of 8 and 4 bytes


def claims(source: str) -> bool:
    """Return whether `source` is a file named as a TFRecord, a pattern of such files, or a folder with them."""
    return holds(source, FILES)


@dataclass(frozen=True)
class _Place:
    """The position of a record in its file, its checksum, and the position (start, end) of the photograph in the
    file."""

    container: Container
    start: int
    length: int
    checksum: int
    image: tuple[int, int]


def listed(source: str | Path, options: SourceOptions) -> Listing:
    """List the photographs in TFRecords. Raises UserError if a file is damaged, or if no photograph has a label."""
    files = find_files(source, FILES)
    records: list[Record] = []
    ignored: list[Ignored] = []
    places: dict[str, _Place] = {}
    for number, path in enumerate(files.paths):
        container = Container(path)
        if not container.size:  # there may have been more files than records
            ignored.append((files.name(number).rstrip("/") or path.name, "an empty file, without records"))
        with path.open("rb") as stream:
            for row, (start, length, checksum) in enumerate(_records(container, stream)):
                inner = f"{files.name(number)}{row:07d}"
                try:
                    example = _Example(stream, start, length)
                    inner += example.file_name()
                    image, labels = example.image(), example.labels(options.label_column)
                except (ValueError, IndexError, UnicodeDecodeError):
                    ignored.append((inner, "not a readable tf.train.Example"))
                    continue
                if isinstance(image, str):
                    ignored.append((inner, image))
                    continue
                size = image[1] - image[0]
                records.append(Record(inner, size, files.splits[number], container.stamp, labels, checksum))
                places[inner] = _Place(container, start, length, checksum, image)

    def read(path: str) -> bytes:
        place = places[path]
        data = place.container.read(place.start, place.length)
        if masked_crc32c(data) != place.checksum:
            raise damaged("a record's checksum differs", place.container.path)
        return data[place.image[0] - place.start : place.image[1] - place.start]

    folder = files.root if files.root.is_dir() else files.root.parent
    names = next((folder / name for name in _NAMESFILES if (folder / name).is_file()), None)
    return list_records("tfrecord", files, records, options, own=_LABELS, ignored=ignored, read=read, names=names)


def _records(container: Container, stream: IO[bytes]) -> Iterator[tuple[int, int, int]]:
    """Yield the position, the length and the masked checksum of each record. Raises UserError if the file is
    damaged."""
    position = count = 0
    while position < container.size:
        stream.seek(position)
        head = stream.read(_HEADER.size)
        if not position and head.startswith(MAGIC):
            raise UserError(f"{container.path} is compressed by gzip; decompress it: gunzip -k {container.path}")
        length, checksum = _HEADER.unpack(head.ljust(_HEADER.size, b"\0"))
        start = position + _HEADER.size
        if len(head) < _HEADER.size:
            raise UserError(f"{container.path}: truncated after {counted(count, 'record')}; copy it again")
        if masked_crc32c(head[:8]) != checksum:
            what = f"damaged after {counted(count, 'record')}" if count else "not a TFRecord"
            raise UserError(f"{container.path}: {what} (a length's checksum differs); copy it again")
        stream.seek(start + length)
        tail = stream.read(_CHECKSUM.size)
        if len(tail) < _CHECKSUM.size:
            raise UserError(f"{container.path}: truncated after {counted(count, 'record')}; copy it again")
        yield start, length, _CHECKSUM.unpack(tail)[0]
        position, count = start + length + _CHECKSUM.size, count + 1


class _Example:
    """The features of one `tf.train.Example`, read without the photograph's bytes. Raises ValueError if it is
    invalid."""

    def __init__(self, stream: IO[bytes], start: int, length: int) -> None:
        self._stream, self._window, self._begin = stream, b"", 0
        self._features: dict[str, tuple[int, list[tuple[int, int]]]] = {}
        for features in self._parts(start, start + length, 1):
            for entry in self._parts(*features, 1):
                parts = {number: (first, last) for number, (_, first, last) in self._fields(*entry)}
                if _KEY in parts and _VALUE in parts:
                    self._features[self._bytes(*parts[_KEY]).decode()] = self._feature(*parts[_VALUE])

    def image(self) -> tuple[int, int] | str:
        """Return the position (start, end) of the photograph in the file, or the reason why there is none."""
        found = {name: spans[0] for name, (kind, spans) in self._features.items() if (kind, len(spans)) == (_BYTES, 1)}
        named = [name for name in _IMAGES if name in found]
        reasons = []
        for name in named or found:
            start, end = found[name]
            reason = left_out("", functools.partial(self._bytes, start, min(end, start + HEAD)))
            if reason is None:
                return start, end
            reasons.append(f"{name}: {reason}")
        return reasons[0] if named else f"no photograph in its features ({', '.join(sorted(self._features))[:200]})"

    def labels(self, given: str | None) -> dict[str, str]:
        """Return the text of each feature that may be a label, by its name. The text is "" for a feature with several
        values.

        `given` is the name of a label that the user chose.
        """
        found = {}
        for name, (kind, spans) in self._features.items():
            if name not in (given, *_LABELS, *_NAMES) and plain(name) not in LABELS:
                continue
            if kind == _INTEGERS:
                values = [value for span in spans for value in self._integers(*span)]
                found[name] = str(values[0]) if len(values) == 1 else ""
            elif kind == _BYTES and len(spans) == 1 and spans[0][1] - spans[0][0] <= _MOST_TEXT:
                found[name] = self._bytes(*spans[0]).decode("utf-8", "surrogateescape").strip()
        return found

    def file_name(self) -> str:
        """Return "-" and the name of the photograph's original file, or "" if it isn't known."""
        for name in _PATHS:
            kind, spans = self._features.get(name, (0, []))
            if kind == _BYTES and len(spans) == 1 and spans[0][1] - spans[0][0] <= _MOST_TEXT:
                text = self._bytes(*spans[0]).decode().rpartition("/")[2]
                if text.isprintable() and text:
                    return f"-{text}"
        return ""

    def _feature(self, start: int, end: int) -> tuple[int, list[tuple[int, int]]]:
        """Return the kind of a feature, and the positions of its values. Integers may be packed, or stored one by
        one."""
        for kind, (wire, first, last) in self._fields(start, end):
            if wire == _LENGTH:
                return kind, [(one, other) for _, (_, one, other) in self._fields(first, last)]
        return 0, []

    def _integers(self, start: int, end: int) -> Iterator[int]:
        """Yield the integers at a position."""
        while start < end:
            value, start = self._varint(start)
            yield value - (1 << 64) if value >> 63 else value

    def _parts(self, start: int, end: int, number: int) -> Iterator[tuple[int, int]]:
        """Yield the positions of the fields with this number and a length."""
        return (
            (first, last) for each, (wire, first, last) in self._fields(start, end) if (each, wire) == (number, _LENGTH)
        )

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, tuple[int, int, int]]]:
        """Yield the number, the wire type and the position of each field."""
        while start < end:
            tag, start = self._varint(start)
            wire = tag & 7
            if wire == _LENGTH:
                length, start = self._varint(start)
            elif wire == _VARINT:
                length = self._varint(start)[1] - start
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                raise ValueError(f"wire type {wire}")
            if start + length > end:
                raise ValueError("longer than its record")
            yield tag >> 3, (wire, start, start + length)
            start += length

    def _varint(self, start: int) -> tuple[int, int]:
        """Return the integer at a position, and the position after it."""
        at = start - self._begin
        if 0 <= at < len(self._window) and self._window[at] < 128:  # most integers take one byte
            return self._window[at], start + 1
        value = 0
        for place, byte in enumerate(self._bytes(start, start + 10)):
            value |= (byte & 127) << 7 * place
            if byte < 128:
                return value, start + place + 1
        raise ValueError("a number without an end")

    def _bytes(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end` in the file."""
        at = start - self._begin
        if at < 0 or end - self._begin > len(self._window):
            self._stream.seek(start)
            self._window, self._begin, at = self._stream.read(max(end - start, _AT_ONCE)), start, 0
        return self._window[at : at + end - start]
