"""Photographs that lie with their labels in container files: which label counts, and the list of them all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fasttrain.config.location import user_path
from fasttrain.errors import UserError
from fasttrain.photos.container import Files
from fasttrain.photos.labels import class_name, is_number, named_alike, read_class_names, sorted_names
from fasttrain.photos.rows import LABELS, plain
from fasttrain.photos.source import UNDECIDED, Listing, Photo, SourceOptions, reasons
from fasttrain.photos.split_names import SPLIT_WORDS
from fasttrain.photos.walk import Ignored
from fasttrain.text import nearest

_MANY = 20


@dataclass(frozen=True)
class Record:
    """A photograph in a container file.

    path: below the source. labels: what each of its labels says, by name, "" where it says nothing. checksum: as the
    file has it, to tell a photograph from another of its size.
    """

    path: str
    size: int
    split: int
    stamp: tuple[int, int, int]
    labels: dict[str, str]
    checksum: int = 0


def list_records(
    kind: str,
    files: Files,
    records: list[Record],
    options: SourceOptions,
    *,
    own: tuple[str, ...],
    ignored: list[Ignored],
    read: Callable[[str], bytes],
    names: Path | None = None,
) -> Listing:
    """List records under one of their labels.

    own: labels that are the class by the format's own rule; names of the same classes are taken instead of numbers.
    names: a file of class names that the user didn't give. Raises UserError where the label can't be told.
    """
    where = f"--source {files.root}"
    if not records:
        why = f" ({reasons([reason for _, reason in ignored])})" if ignored else ""
        raise UserError(f"{where} holds no photographs with a label{why}")
    columns = list(dict.fromkeys(name for record in records for name in record.labels))
    column = _column(where, records, columns, own, options.label_column)
    others = [name for name in columns if name != column]
    notes = [f"{files.root.name}: label = {column}" + (f"; not used: {', '.join(others)[:200]}" if others else "")]
    given = names if options.class_names is None else user_path(options.class_names)
    if given is not None and all(is_number(record.labels.get(column, "")) for record in records):
        notes += [f"class names: {given}"] if options.class_names is None else []
    elif options.class_names is None:
        given = None
    classes = None if given is None else read_class_names(given)
    known: dict[str, str] = {}
    photos, left_out = [], list(ignored)
    for record in records:
        label = record.labels.get(column, "")
        if not label:
            left_out.append((record.path, f"without a single {column}"))
            continue
        if label not in known:
            known[label] = label if classes is None else class_name(classes, label, f"{given}: {record.path}")
        photos.append(Photo(record.path, known[label], record.split, record.size, record.stamp))
    if any(split != UNDECIDED for split in files.splits):
        counts = {word: sum(photo.split == split for photo in photos) for split, word in SPLIT_WORDS.items()}
        notes.append(
            "by the files' names: " + ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
        )
    if len(known) == len(photos) >= _MANY:
        raise UserError(f"{where}: each photograph has a {column} of its own, which is no class; give --label-column")
    used = sorted_names({photo.name for photo in photos})
    all_names = used if classes is None else [name for name in classes if name]
    return Listing(
        kind,
        files.root.name,
        files.root,
        all_names,
        photos,
        [*files.ignored, *left_out],
        content=_digest(all_names, records, column),
        notes=tuple(notes),
        read=read,
    )


def _column(where: str, records: list[Record], columns: list[str], own: tuple[str, ...], given: str | None) -> str:
    """Return which label is the class: `given`, or one that the format has for it, or one whose name says so."""
    if not columns:
        raise UserError(f"{where} holds photographs without labels")
    if given is not None:
        if given not in columns:
            raise UserError(f"{where} has no label '{given}', only {', '.join(columns)}{nearest(given, columns)}")
        return given
    sure = next((name for name in own if name in columns), None)
    known = [name for name in columns if name != sure and plain(name) in LABELS]
    known.sort(key=lambda name: LABELS.index(plain(name)))
    others = [name for name in columns if name != sure and name not in known]
    candidates = [sure, *known, *others] if sure is not None else known or others
    full = [name for name in candidates if all(record.labels.get(name) for record in records)]
    if candidates[0] not in full:
        return candidates[0]
    texts = {name: [record.labels[name] for record in records] for name in full}
    if sure is not None:  # the others can only name its classes
        full = [name for name in full if named_alike([texts[sure], texts[name]]) is not None]
    chosen = named_alike([texts[name] for name in full])
    if chosen is None:
        raise UserError(f"{where}: {' or '.join(full)[:200]} may be the label; give --label-column")
    return full[chosen]


def _digest(names: list[str], records: list[Record], column: str) -> bytes:
    digest = hashlib.sha256("\n".join(names).encode())
    for record in sorted(records, key=lambda record: record.path):
        label = record.labels.get(column, "").encode("utf-8", "surrogateescape")
        digest.update(os.fsencode(record.path) + b"\0%s\0%d\n" % (label, record.checksum))
    return digest.digest()
