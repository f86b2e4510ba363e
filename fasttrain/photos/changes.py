"""Apply the user's lists of changes to a source: other splits, labels or groups for its photographs."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from fasttrain.config.location import user_path
from fasttrain.errors import UserError
from fasttrain.photos.rows import LABELS, PATHS, SPLITS, Table, looks_like_path, plain, read_table
from fasttrain.photos.source import TRAIN, UNDECIDED, VAL, Listing, few
from fasttrain.photos.table import split_in_cell
from fasttrain.photos.walk import Ignored
from fasttrain.text import counted, nearest

DROP = "drop"
_SUGGESTED = "suggested"
_NEW_LABELS = [_SUGGESTED, "newlabel", "newclass", "new", "correct", "correctlabel", "fix", "fixed", "to", *LABELS]


def with_splits(listing: Listing, path: str | Path | None) -> Listing:
    """Return the listing with the splits from a file of (path, split). Photographs that the file doesn't name keep
    their split.

    If the validation split then has any photographs, all photographs without a split go to the training split. If
    `path` is None, the listing is returned unchanged. Raises UserError if a photograph has two splits in the file, or
    if the file names none of the photographs.
    """
    if path is None:
        return listing
    file = user_path(path)
    table, paths, column = _two_columns(file, SPLITS, "split")
    found, missing = _rows_of(listing, table, paths)
    if not found:
        raise UserError(
            f"--splits {file} names none of the photographs (the first: {table.rows[0][paths]}); give paths relative "
            f"to {listing.root}"
        )
    photos = list(listing.photos)
    for position, rows in found.items():
        splits = {split_in_cell(table.rows[row][column], table.where(row)) for row in rows}
        if len(splits) > 1:
            raise UserError(f"{table.where(rows[-1])}: {photos[position].path} is in two splits; keep one line")
        photos[position] = replace(photos[position], split=splits.pop())
    if any(photo.split == VAL for photo in photos):
        photos = [replace(photo, split=TRAIN) if photo.split == UNDECIDED else photo for photo in photos]
    gone: list[Ignored] = [(table.rows[row][paths], f"named in {file.name}, but not found") for row in missing]
    return replace(
        listing,
        photos=photos,
        ignored=[*listing.ignored, *gone],
        notes=(*listing.notes, f"{file.name} gives the splits of {len(found):,} of {len(photos):,} photographs"),
        settings={**listing.settings, "splits": _checksum(file)},
    )


def relabelled(listing: Listing, path: str | Path | None) -> Listing:
    """Return the listing with the labels from a file of (path, label). Photographs with the label "drop" are left out.

    If the column of labels is called "suggested", as in the files that `inspect --labels` writes, a photograph with an
    empty cell keeps its label. If `path` is None, the listing is returned unchanged. Raises UserError if the file names
    a photograph or a class that the source doesn't have, if a photograph has two new labels, or if the listing is
    multi-label.
    """
    if path is None:
        return listing
    file = user_path(path)
    if listing.multi_label:
        raise UserError(
            f"--relabel {file} gives one class per photograph, but {listing.name} is multi-label; change the labels in "
            f"{listing.root}"
        )
    table, paths, column = _two_columns(file, _NEW_LABELS, "new label")
    found, missing = _rows_of(listing, table, paths)
    if missing:
        raise UserError(
            f"{table.where(missing[0])}: {table.rows[missing[0]][paths]!r} is not one of the photographs "
            f"(this problem is in {counted(len(missing), 'line')}); give paths relative to {listing.root}"
        )
    photos = list(listing.photos)
    dropped: set[int] = set()
    counts = Counter({"relabelled": 0, "dropped": 0, "unchanged": 0})
    for position, rows in found.items():
        labels = {str(table.rows[row][column]).strip() for row in rows}
        if labels == {""} and plain(table.columns[column]) == _SUGGESTED:
            counts["unchanged"] += 1
            continue
        if len(labels) > 1:
            raise UserError(f"{table.where(rows[-1])}: {photos[position].path} has two new labels; keep one line")
        label = labels.pop()
        if label.lower() == DROP:
            dropped.add(position)
        elif label not in listing.names:
            fix = nearest(label, list(listing.names)) or f"; give one of them ({few(listing.names)}) or drop"
            raise UserError(f"{table.where(rows[0])}: {label!r} is not one of the classes{fix}")
        same = photos[position].name == label
        counts["dropped" if position in dropped else "unchanged" if same else "relabelled"] += 1
        photos[position] = replace(photos[position], name=label)
    left_out: list[Ignored] = [(listing.photos[each].path, f"dropped by {file.name}") for each in sorted(dropped)]
    summary = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return replace(
        listing,
        photos=[photo for position, photo in enumerate(photos) if position not in dropped],
        ignored=[*listing.ignored, *left_out],
        notes=(*listing.notes, f"{file.name}: {summary}"),
        settings={**listing.settings, "relabel": {"file": _checksum(file), **counts}},
    )


def grouped(listing: Listing, pattern: str | None) -> Listing:
    """Return the listing with photographs grouped by the regular expression `pattern`, which is searched in each path.

    If `pattern` has parenthesized groups, photographs for which they match the same text form a group, and otherwise
    photographs with the same complete match. The listing is returned unchanged if `pattern` is None, or if the listing
    is a table that was already grouped by its column named `pattern`. Raises UserError if a path has no match.
    """
    if pattern is None or "group_by" in listing.settings:
        return listing
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--group-by {pattern}: not a valid regular expression ({error}); correct it") from error
    matches = [compiled.search(photo.path) for photo in listing.photos]
    lone = [photo.path for photo, found in zip(listing.photos, matches, strict=True) if not (found and found[0])]
    if lone:
        column = f"{listing.name} has no such column, and as a pattern " if listing.kind == "table" else ""
        raise UserError(
            f"--group-by {pattern}: {column}it matches nothing in the path of {len(lone):,} of {len(matches):,} "
            f"photographs ({few(lone)}); give a pattern that matches every path"
        )
    photos = [
        replace(photo, group="\0".join(each or "" for each in found.groups()) or found[0])
        for photo, found in zip(listing.photos, matches, strict=True)
        if found
    ]
    count = len({photo.group for photo in photos})
    return replace(
        listing,
        photos=photos,
        notes=(*listing.notes, f"--group-by {pattern}: {counted(count, 'group')} of {len(photos):,} photographs"),
        settings={**listing.settings, "group_by": pattern},
    )


def _two_columns(file: Path, names: list[str], value: str) -> tuple[Table, int, int]:
    """Read a table of paths and values. Return it with the positions of the two columns.

    The column of values is found by one of `names`. `value` describes it in messages. Raises UserError if there is no
    such column.
    """
    table = read_table(file, tuple(names))
    paths = table.known(PATHS) or [
        number for number in range(len(table.columns)) if table.rows and looks_like_path(table.rows[0][number])
    ]
    path = paths[0] if paths else 0
    known = [number for number in table.known(names) if number != path]
    others = known or [number for number in range(len(table.columns)) if number != path]
    if not others or not table.rows:
        raise UserError(f"{file}: give a header, path,label, and a line with the path and {value} of each photograph")
    return table, path, others[0]


def _rows_of(listing: Listing, table: Table, column: int) -> tuple[dict[int, list[int]], list[int]]:
    """Find the photographs that a table names.

    Return two things: the numbers of the table's rows for each photograph, by the photograph's position in the listing,
    and the numbers of the rows whose path is not a photograph.
    """
    position = {photo.path: number for number, photo in enumerate(listing.photos)}
    found: dict[int, list[int]] = {}
    missing = []
    root = f"{os.path.abspath(listing.root)}/"  # noqa: PTH100 - keep links to the photographs
    for row, cells in enumerate(table.rows):
        given: Any = cells[column]
        plain = os.path.normpath(str(given).strip().replace("\\", "/")).removeprefix(root)
        place = position.get(str(given), position.get(plain))
        if place is None:
            missing.append(row)
        else:
            found.setdefault(place, []).append(row)
    return found, missing


def _checksum(file: Path) -> str:
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
