"""Read a table of photographs: a row for each, with its path, its label and other columns."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from fasttrain.config.location import cache_root, is_url, url_in_path, user_path
from fasttrain.errors import UserError
from fasttrain.files import atomic_write_bytes, make_folder
from fasttrain.photos.bucket import UrlRoot, find, found_in, reader
from fasttrain.photos.extra import extra_columns
from fasttrain.photos.label_sets import LabelSets, sets_in_cells, sets_in_columns
from fasttrain.photos.labels import choose_labels, class_name, read_class_names, sorted_names
from fasttrain.photos.rows import LABELS, PATHS, SPLITS, SUFFIXES, Table, looks_like_path, read_table, text_of
from fasttrain.photos.source import TEST, TRAIN, UNDECIDED, VAL, Listing, Photo, SourceOptions, few
from fasttrain.photos.split_names import split_of
from fasttrain.photos.walk import Ignored
from fasttrain.text import counted

OPTIONS = frozenset({"path_column", "label_column", "split_column", "class_names", "root", "multi_label"})
_ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".webp", ".tif", ".tiff", ".bmp")
_NUMBER = re.compile(r"(-?[\d.]+(e-?\d+)?)?")
_TRIED = 20
_HAS_BUCKET = re.compile(r"(?!https?:|file:)[a-z][a-z0-9+.-]*://[^/]+/")


def claims(source: str) -> bool:
    """Return whether `source` is a file or URL with the name of a table."""
    if is_url(source):
        return source.lower().endswith(SUFFIXES)
    path = user_path(source)
    return path.suffix.lower() in SUFFIXES and path.is_file()


@dataclass(frozen=True)
class _Columns:
    """The positions of a table's columns by their roles. If `labels` has several positions, these are columns of 0 and
    1, one for each class."""

    path: int
    labels: tuple[int, ...]
    split: int | None
    group: int | None


class _Place(Protocol):
    """The folder that the paths in a table are relative to. `base` is its path or URL."""

    base: str

    def found(self, given: str) -> tuple[str, int, tuple[int, int, int]]:
        """Return the full path, size in bytes and stamp of the photograph with the path `given`. The size is -1 if it
        is missing."""


class _Disk:
    """A folder on this machine: the one of the table, or `--root`."""

    def __init__(self, path: Path, root: str | Path | None) -> None:
        self.base = os.path.abspath(user_path(root) if root is not None else path.parent)  # noqa: PTH100
        if not Path(self.base).is_dir():
            raise UserError(f"--root {self.base} is not a folder; give the folder that the paths are relative to")

    def found(self, given: str) -> tuple[str, int, tuple[int, int, int]]:
        for path in dict.fromkeys((given, given.replace("\\", "/"))):
            full = os.path.normpath(os.path.join(self.base, path))  # noqa: PTH118 - pathlib is slow for a million paths
            for end in ("", *(() if looks_like_path(path) else _ENDINGS)):
                try:
                    file = os.stat(full + end)  # noqa: PTH116
                except OSError:
                    continue
                if stat.S_ISREG(file.st_mode):
                    return full + end, file.st_size, (file.st_mtime_ns, file.st_ctime_ns, file.st_ino)
        return full, -1, (0, 0, 0)


class _Remote:
    """A folder behind a URL. It is listed once."""

    def __init__(self, url: str) -> None:
        self.base = url
        self._files = find(url)

    def found(self, given: str) -> tuple[str, int, tuple[int, int, int]]:
        path = posixpath.normpath(given.removeprefix(f"{self.base}/").replace("\\", "/"))
        for end in ("", *(() if looks_like_path(path) else _ENDINGS)):
            if info := self._files.get(path + end):
                return f"{self.base}/{path}{end}", *found_in(info)
        return f"{self.base}/{path}", -1, (0, 0, 0)


def _url(table: Table, source: str, options: SourceOptions) -> str | None:
    """Return the URL that the table's paths are relative to, or None if they are on this machine.

    It is `--root`, the common beginning of the table's URLs, or the table's own folder.
    """
    if options.root is not None:
        return url_in_path(options.root)
    first = table.rows[0] if table.rows else []
    column = next((at for at, cell in enumerate(first) if _HAS_BUCKET.match(text_of(cell))), None)
    if column is not None:
        cells = [cell for row in table.rows if _HAS_BUCKET.match(cell := text_of(row[column]))]
        common = os.path.commonprefix(cells).rpartition("/")[0]  # noqa: RUF071 - commonpath knows no "//"
        if _HAS_BUCKET.match(f"{common}/"):
            return common
        raise UserError(
            f"{table.path}: its URLs are in several buckets; copy the photographs into one bucket or folder"
        )
    return source.rpartition("/")[0] if is_url(source) else None


def _local_copy(url: str) -> Path:
    """Return the path of a copy of the table at `url` in the cache. Raises UserError if it can't be read."""
    folder, _, name = url.rpartition("/")
    try:
        data = reader(folder)(name)
    except FileNotFoundError as error:
        raise UserError(f"--source {url} does not exist; give the URL of a table, or of a folder") from error
    path = cache_root() / "tables" / hashlib.sha256(url.encode()).hexdigest()[:16] / name
    make_folder(path.parent)
    atomic_write_bytes(path, data)
    return path


def listed(source: str | Path, options: SourceOptions) -> Listing:
    """List the photographs in a table. Raises UserError if its columns can't be identified, or if no photograph
    exists."""
    path = _local_copy(str(source)) if is_url(source) else user_path(source)
    table = read_table(path, (options.path_column, options.label_column, options.split_column, options.group_by))
    url = _url(table, str(source), options)
    place: _Place = _Disk(path, options.root) if url is None else _Remote(url)
    base = place.base
    columns, sets = _columns(table, place, options)
    extra = extra_columns(table, (columns.path, *columns.labels, columns.split, columns.group))
    multi_label = sets is not None and (options.multi_label is True or not sets.single)
    classes = None if options.class_names is None else read_class_names(user_path(options.class_names))
    named: dict[str, tuple[tuple[str, ...], int, int]] = {}
    photos: list[Photo] = []
    ignored: list[Ignored] = []
    for number, row in enumerate(table.rows):
        given = text_of(row[columns.path])
        if not given:
            raise UserError(f"{table.where(number)}: no path in column {table.columns[columns.path]}; fill it in")
        if "://" in given and not given.startswith(f"{base}/"):
            raise UserError(
                f"{table.where(number)}: {given} is a URL that is not below {base}; download the photographs, and "
                "give their paths"
            )
        full, size, stamp = place.found(given)
        found: tuple[str, ...]
        if sets is None:
            label = label_of(table, number, columns.labels[0])
            found = (label,) if label else ()
        else:
            found = sets.sets[number]
        if not found and not multi_label:
            ignored.append((full, f"no label in {path.name}"))
            continue
        names = found if classes is None else tuple(class_name(classes, each, table.where(number)) for each in found)
        if full in named:
            before, line, place_of = named[full]
            if multi_label:
                names = tuple(dict.fromkeys((*before, *names)))
                photos[place_of] = replace(photos[place_of], names=names)
                named[full] = names, line, place_of
            elif before != names:
                raise UserError(
                    f"{table.where(number)}: {given} is {names[0]!r} here, but {before[0]!r} in line {line}; remove "
                    "one line, or give --multi-label"
                )
            else:
                ignored.append((full, f"named again in line {table.lines[number]} of {path.name}"))
            continue
        named[full] = names, table.lines[number], len(photos)
        split = UNDECIDED if columns.split is None else split_in_cell(row[columns.split], table.where(number))
        group = "" if columns.group is None else text_of(row[columns.group])
        others = tuple(cells[number] for cells in extra.values())
        photos.append(Photo(full, "" if multi_label else names[0], split, size, stamp, group, others, names))
    _require_some(table, photos, base)
    root = _root(base, photos)
    start = len(root.rstrip("/")) + 1
    photos = [replace(each, path=each.path[start:]) for each in photos]
    known = sorted_names({name for photo in photos for name in photo.names})
    if given_order := classes or (sets.names if sets is not None else ()):
        known = [name for name in given_order if name]
    digest = hashlib.sha256("\n".join(known).encode())
    for photo in sorted(photos, key=lambda photo: photo.path):
        label = json.dumps(sorted(photo.names)) if multi_label else photo.name
        digest.update(b"\0".join(os.fsencode(each) for each in (photo.path, label, photo.group)) + b"\n")
    return Listing(
        "table",
        path.name,
        Path(root) if url is None else UrlRoot(root),
        known,
        photos,
        [(full[start:] if full.startswith(f"{root}/") else full, reason) for full, reason in ignored],
        content=digest.digest(),
        notes=(
            _note(table, columns, list(extra)),
            *_label_notes(table, columns, photos, sets if multi_label else None),
        ),
        settings={} if columns.group is None else {"group_by": options.group_by},
        extra_columns=tuple(extra),
        multi_label=multi_label,
        read=None if url is None else reader(root),
    )


def split_in_cell(cell: Any, where: str) -> int:
    """Return the split named in a cell: a word such as "train", or 0 train, 1 val, 2 test. An empty cell gives -1,
    undecided.

    Raises UserError, which begins with `where`, for other text.
    """
    text = text_of(cell)
    split = {"": UNDECIDED, "0": TRAIN, "1": VAL, "2": TEST}.get(text, split_of(text))
    if split is None:
        raise UserError(f"{where}: {text!r} is not a split; give train, val or test, or name another --split-column")
    return split


def _columns(table: Table, place: _Place, options: SourceOptions) -> tuple[_Columns, LabelSets | None]:
    """Return the roles of the columns, and the sets of classes in each row if the labels are sets.

    Labels are treated as single classes if every row has exactly one, unless the user asks for `--multi-label`.
    """
    path = table.column(options.path_column) if options.path_column else _path_column(table, place)
    given = options.group_by
    group = table.columns.index(given) if given in table.columns else None
    labels: tuple[int, ...]
    sets: LabelSets | None
    if (found := _class_columns(table, path, group, options)) is not None:
        labels, sets = found
    else:
        label = table.column(options.label_column) if options.label_column else label_column(table, path)
        wanted = options.multi_label is not False
        labels, sets = (
            (label,),
            sets_in_cells(table, label, multi_label=options.multi_label is True) if wanted else None,
        )
    split = table.column(options.split_column) if options.split_column else split_column(table, (path, *labels))
    return _Columns(path, labels, split, group), sets


def _class_columns(
    table: Table, path: int, group: int | None, options: SourceOptions
) -> tuple[tuple[int, ...], LabelSets] | None:
    """Return the columns of 0 and 1, one for each class, and the sets of classes, or None if a column holds the
    label."""
    unnamed = table.columns == [str(1 + number) for number in range(len(table.columns))]
    if options.label_column or unnamed or any(column != path for column in table.known(LABELS)):
        return None
    split = table.column(options.split_column) if options.split_column else split_column(table, (path,))
    free = [column for column in range(len(table.columns)) if column not in (path, split, group)]
    if options.class_names is not None:
        classes = read_class_names(user_path(options.class_names))
        free = [column for column in free if table.columns[column] in classes]
    sets = sets_in_columns(table, free)
    if sets is None or (options.multi_label is False and not sets.single):
        return None
    others = [column for column in free if table.columns[column] not in sets.names]
    if options.multi_label is None and any(_holds_text(table, column) for column in others):
        return None  # that column may be the label, and the columns of 0 and 1 other data
    return tuple(table.columns.index(name) for name in sets.names), sets


def _path_column(table: Table, place: _Place) -> int:
    """Return the position of the column of paths. Raises UserError if no column looks like paths."""
    some = table.rows[:_TRIED]
    named = table.known(PATHS)
    shaped = [each for each in range(len(table.columns)) if some and all(looks_like_path(row[each]) for row in some)]
    for column in dict.fromkeys([*named, *shaped]):
        if any(place.found(text_of(row[column]))[1] >= 0 for row in some if text_of(row[column])):
            return column
    for column in (*shaped, *named):
        return column
    raise UserError(f"{table.path}: none of its columns ({few(table.columns)}) looks like paths; give --path-column")


def label_column(table: Table, path: int) -> int:
    """Return the position of the column of labels, which is found by its name.

    If the columns have no names, the labels are in the column to the right of the column of paths. If the paths are in
    the last column, the labels are to the left of them. `path`: the position of the column of paths.

    Raises UserError if no column is named like a label, or if several columns are and contradict each other.
    """
    named = [column for column in table.known(LABELS) if column != path]
    if not named and table.columns == [str(1 + number) for number in range(len(table.columns))]:
        named = [path + 1 if path + 1 < len(table.columns) else path - 1]
    if not named or named[0] < 0:
        raise UserError(
            f"{table.path}: none of its columns ({', '.join(table.columns)[:200]}) is named like a label; give "
            "--label-column, or --multi-label if each class has a column of 0 and 1"
        )
    texts = [[text_of(row[column]) for row in table.rows] for column in named]
    chosen = choose_labels(texts)
    if chosen is None:
        names = " or ".join(table.columns[column] for column in named)
        raise UserError(f"{table.path}: {names} may be the label; give --label-column")
    return named[chosen]


def split_column(table: Table, taken: Sequence[int]) -> int | None:
    """Return the position of the column that names splits, or None if there is none.

    `taken` are the positions of columns with another role.
    """
    for column in table.known(SPLITS):
        cells = {text_of(row[column]) for row in table.rows} - {""}
        if column not in taken and any(split_of(cell) is not None for cell in cells):
            return column
    return None


def _note(table: Table, columns: _Columns, extra: list[str]) -> str:
    """Return the message that says which column has which role."""
    used = {"path": columns.path, "label": columns.labels[0], "split": columns.split, "group": columns.group}
    named = [f"{what} = {table.columns[column]}" for what, column in used.items() if column is not None]
    if len(columns.labels) > 1:
        named[1] = f"label = {len(columns.labels):,} columns of 0 and 1"
    return f"{table.path.name}: {', '.join(named)}" + (f"; extra labels: {', '.join(extra)[:200]}" if extra else "")


def _holds_text(table: Table, column: int) -> bool:
    """Return whether the column has a cell that is neither empty nor a number."""
    return any(not _NUMBER.fullmatch(text_of(row[column])) for row in table.rows)


def _label_notes(table: Table, columns: _Columns, photos: list[Photo], sets: LabelSets | None) -> list[str]:
    """Return messages about labels that are sets of classes, or that look like sets but are read as single names."""
    if sets is not None:
        mean = sum(len(photo.names) for photo in photos) / max(len(photos), 1)
        none = sum(not photo.names for photo in photos)
        without = counted(none, "photograph")
        notes = [f"multi-label: {sets.how}; {mean:.2f} classes per photograph, {without} without a class"]
        if absent := sorted(set(sets.names).difference(*(photo.names for photo in photos))):
            notes.append(f"classes without a photograph, left out: {', '.join(absent)[:200]}")
        return notes
    texts = [text_of(row[columns.labels[0]]) for row in table.rows]
    joined = [(mark, count) for mark in "|;" if (count := sum(mark in text for text in texts))]
    return [
        f"labels with {mark!r}, {count:,} of them, are read as one name each; --multi-label splits them"
        for mark, count in joined
    ]


def _require_some(table: Table, photos: list[Photo], base: str) -> None:
    """Raise UserError if no row of the table has a label, or if none of its image files exists under `base`."""
    if not table.rows:
        raise UserError(f"{table.path} has no rows below its header; add a line for each photograph")
    if not photos:
        raise UserError(f"{table.path}: no row has a label; give another --label-column")
    if all(photo.size < 0 for photo in photos):
        raise UserError(
            f"{table.path}: it lists {counted(len(photos), 'photograph')}, but none exists (the first: "
            f"{photos[0].path}); give --root, the folder that the paths are relative to (now {base})"
        )


def _root(base: str, photos: list[Photo]) -> str:
    """Return `base`, or the nearest folder above it that contains all photographs."""
    start = f"{base}/"
    outside = [photo.path for photo in photos if not photo.path.startswith(start)]
    return os.path.commonpath([*map(os.path.dirname, outside), base]) if outside else base


def label_of(table: Table, number: int, column: int) -> str:
    """Return the label in row `number` as text, or "" if there is none. Raises UserError if there are several."""
    cell = table.rows[number][column]
    if isinstance(cell, (list, tuple)):
        if len(cell) > 1:
            raise UserError(
                f"{table.where(number)}: {len(cell)} labels, but a photograph can have only one; give --label-column"
            )
        cell = cell[0] if cell else ""
    return text_of(cell)
