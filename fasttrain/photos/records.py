"""List photographs that are stored with their labels in container files, and choose the label that is the class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fasttrain.config.location import user_path
from fasttrain.errors import UserError
from fasttrain.photos.container import Files
from fasttrain.photos.labels import choose_labels, class_name, is_number, read_class_names, sorted_names
from fasttrain.photos.rows import LABELS, plain
from fasttrain.photos.source import UNDECIDED, Listing, Photo, SourceOptions, reasons
from fasttrain.photos.split_names import SPLIT_WORDS
from fasttrain.photos.walk import Ignored
from fasttrain.text import nearest

_MANY = 20  # photographs; if each of them has its own label, it is not a class


@dataclass(frozen=True)
class Record:
    """A photograph in a container file.

    - `path`: its path in the source.
    - `labels`: the text of each of its labels by the label's name; "" if it is empty.
    - `checksum`: a checksum in the file, which distinguishes photographs of the same size.
    - `extra`: all other data about it, by name, as JSON values. They become extra labels, except for the label that is
      the class.
    """

    path: str
    size: int
    split: int
    stamp: tuple[int, int, int]
    labels: dict[str, str]
    checksum: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


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
    """Return the listing of `records`. The class of a photograph is one of its labels.

    `options.label_column` names this label. If it is None, the label is one in `own`, the names that the format gives
    to labels with the class. If that label holds numbers and another label names the same classes, the other label is
    used. `names` is a file of class names that was found next to the data, or None.

    `kind` is the listing's kind, and `read` returns the bytes of the photograph at a path. Raises UserError if it isn't
    clear which label is the class.
    """
    where = f"--source {files.root}"
    if not records:
        why = f" ({reasons([reason for _, reason in ignored])})" if ignored else ""
        raise UserError(f"{where} holds no photographs with a label{why}; give files that have labels")
    columns = list(dict.fromkeys(name for record in records for name in record.labels))
    column = _column(where, records, columns, own, options.label_column)
    extra = tuple(name for name in dict.fromkeys(name for record in records for name in record.extra) if name != column)
    others = [name for name in columns if name != column and name not in extra]
    rest = {"not used": others, "extra labels": extra}
    more = (f"; {what}: {', '.join(names)[:200]}" for what, names in rest.items() if names)
    notes = [f"{files.root.name}: label = {column}{''.join(more)}"]
    given = names if options.class_names is None else user_path(options.class_names)
    if given is not None and all(is_number(record.labels.get(column, "")) for record in records):
        notes += [f"class names: {given}"] if options.class_names is None else []
    elif options.class_names is None:
        given = None
    classes = None if given is None else read_class_names(given)
    beside = [each for each in files.ignored if given is None or not _is_same(files.root / each[0], given)]
    known: dict[str, str] = {}
    photos, left_out = [], list(ignored)
    for record in records:
        label = record.labels.get(column, "")
        if not label:
            left_out.append((record.path, f"{column}: no label, or several"))
            continue
        if label not in known:
            known[label] = label if classes is None else class_name(classes, label, f"{given}: {record.path}")
        values = tuple(record.extra.get(name) for name in extra)
        photos.append(Photo(record.path, known[label], record.split, record.size, record.stamp, extra=values))
    if any(split != UNDECIDED for split in files.splits):
        counts = {word: sum(photo.split == split for photo in photos) for split, word in SPLIT_WORDS.items()}
        notes.append(
            "by the files' names: " + ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
        )
    if len(known) == len(photos) >= _MANY:
        raise UserError(f"{where}: each photograph has its own {column}, so it is not a class; give --label-column")
    used = sorted_names({photo.name for photo in photos})
    all_names = used if classes is None else [name for name in classes if name]
    return Listing(
        kind,
        files.root.name,
        files.root,
        all_names,
        photos,
        [*beside, *left_out],
        content=_digest(all_names, records, column),
        notes=tuple(notes),
        read=read,
        extra_columns=extra,
    )


def _is_same(path: Path, other: Path) -> bool:
    """Return whether two paths are the same file."""
    return path.name == other.name and path.resolve() == other.resolve()


def _column(where: str, records: list[Record], columns: list[str], own: tuple[str, ...], given: str | None) -> str:
    """Return the label that is the class: `given` by the user, the format's `own`, or one with a suitable name."""
    if not columns:
        raise UserError(f"{where} holds photographs without labels; give files that have labels")
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
    if sure is not None:  # other labels only count if they name the same classes
        full = [name for name in full if choose_labels([texts[sure], texts[name]]) is not None]
    chosen = choose_labels([texts[name] for name in full])
    if chosen is None:
        raise UserError(f"{where}: {' or '.join(full)[:200]} may be the label; give --label-column")
    return full[chosen]


def _digest(names: list[str], records: list[Record], column: str) -> bytes:
    """Return a digest of the labels and checksums of all photographs."""
    digest = hashlib.sha256("\n".join(names).encode())
    for record in sorted(records, key=lambda record: record.path):
        label = record.labels.get(column, "").encode("utf-8", "surrogateescape")
        digest.update(os.fsencode(record.path) + b"\0%s\0%d\n" % (label, record.checksum))
    return digest.digest()
