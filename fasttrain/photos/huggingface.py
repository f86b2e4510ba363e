"""Read Hugging Face data sets: from the Hub, saved by `datasets`, or Parquet files with photographs."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice, repeat
from pathlib import Path, PurePosixPath
from typing import Any

from fasttrain.config.location import user_path
from fasttrain.errors import UserError
from fasttrain.extras import require
from fasttrain.photos.data_files import DataFile, without_other_splits
from fasttrain.photos.data_set import DataSet, find_data_set, is_saved, row_files
from fasttrain.photos.extra import extra_columns
from fasttrain.photos.hub import HUB
from fasttrain.photos.labels import class_name, read_class_names, sorted_names
from fasttrain.photos.pictures import BrokenPhoto
from fasttrain.photos.row_files import (
    SUFFIXES,
    Features,
    RowFile,
    file_names,
    holds_photographs,
    open_rows,
    photograph_columns,
    read_table,
)
from fasttrain.photos.rows import LABELS, Table, text_of
from fasttrain.photos.source import TEST, UNDECIDED, VAL, Listing, Photo, SourceOptions, few
from fasttrain.photos.spool import Spool
from fasttrain.photos.table import label_column, label_of, split_column, split_in_cell
from fasttrain.photos.walk import Ignored

OPTIONS = frozenset({"path_column", "label_column", "split_column", "class_names"})
_TRIED = 8  # files that are examined, as some may be damaged
_SPLITS = {0: "train", 1: "val", 2: "test", UNDECIDED: "photographs"}


def claims(source: str) -> bool:
    """Return whether `source` is a data set on the Hub, or Parquet or Arrow files with photographs in their rows.

    The files may be given as one file, as a folder, or as a folder that `datasets` saved.
    """
    if source.startswith(HUB):
        return True
    path = user_path(source)
    if is_saved(path):
        return True
    if importlib.util.find_spec("pyarrow") is None:
        return False
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return holds_photographs(path)
    try:
        return any(map(holds_photographs, islice(row_files(path), _TRIED)))
    except OSError:
        return False  # the kind that accepts the source reports the error


def listed(source: str | Path, options: SourceOptions) -> Listing:
    """List the photographs in the rows of a data set.

    Raises UserError if it isn't clear which columns hold the photographs and the labels, or if no row has a label.
    """
    require(f"--source {source}", "parquet", "pyarrow")
    found = find_data_set(str(source))
    files, ignored = without_other_splits(found.files, str(source))
    classes = None if options.class_names is None else read_class_names(user_path(options.class_names))
    spool = Spool()
    opened: list[_Opened] = []
    # Training files come first, because the first file decides the roles of the columns.
    for file in sorted(files, key=lambda file: (file.split, file.name)):
        rows = open_rows(found.root / file.name if file.name else found.root, spool)
        if opened and file.split in (VAL, TEST) and options.label_column not in rows.types:
            ignored.append((file.name, f"no column {options.label_column}"))
            continue
        opened.append(_open(found, file, rows, options, classes))
        first = opened[0]
        options = replace(options, path_column=first.image, label_column=first.table.columns[first.label])
    if not opened:
        raise UserError(f"--source {source} holds no Parquet or Arrow files; save or download the data set again")
    _require_same_classes(opened)
    extra = tuple(dict.fromkeys(name for each in opened for name in each.extra))
    photos: list[Photo] = []
    for each in opened:
        listing, others = each.photographs(extra)
        photos += listing
        ignored += others
    if not photos:
        raise UserError(f"--source {source}: no row has a label; give another --label-column")
    labelled = sorted((photo.path, photo.name, photo.group) for photo in photos)
    digest = hashlib.sha256(json.dumps(labelled).encode())
    for each in opened:
        digest.update(each.rows.digest(each.image))
    names = opened[0].classes or sorted_names({photo.name for photo in photos})
    return Listing(
        "huggingface",
        found.name,
        found.root,
        [name for name in names if name],
        photos,
        ignored,
        content=digest.digest(),
        notes=(_note(found, opened[0], photos, extra),),
        settings={"group_by": options.group_by} if any(each.group is not None for each in opened) else {},
        read=_Reader({each.prefix: (each.rows, each.image) for each in opened}),
        extra_columns=extra,
    )


def defines_splits(data: Path) -> bool:
    """Return whether a data set on this machine has files for validation or testing."""
    return any(file.split in (VAL, TEST) for file in find_data_set(str(data)).files)


@dataclass(frozen=True)
class _Opened:
    """An opened file of rows, and the roles of its columns.

    The paths of the file's photographs begin with `prefix`. `own_split` is the split of the file. `classes` has the
    name of every class if labels are numbers. `extra` holds the columns without another role; see `extra_columns`.
    """

    prefix: str
    own_split: int
    rows: RowFile
    table: Table
    image: str
    label: int
    split: int | None
    group: int | None
    classes: list[str] | None
    extra: dict[str, list[Any]]

    def photographs(self, extra: Sequence[str]) -> tuple[list[Photo], list[Ignored]]:
        """Return the photographs of the file, and (path, reason) of rows that are left out. `extra` names the extra
        labels to keep.

        A photograph's path consists of the file's path, the row from 0, and the photograph's own file name if it has
        one.
        """
        state = self.rows.path.stat()
        stamp = (state.st_mtime_ns, state.st_ctime_ns, state.st_ino)
        names = file_names(self.rows, self.image)
        missing = [None] * self.rows.rows
        others = zip(*(self.extra.get(name, missing) for name in extra), strict=True) if extra else repeat(())
        photos: list[Photo] = []
        ignored: list[Ignored] = []
        for number, (row, name, more) in enumerate(zip(self.table.rows, names, others, strict=bool(extra))):
            base = PurePosixPath((name or "").replace("\\", "/")).name
            path = f"{self.prefix}{number:06d}" + (f"/{base}" if base else "")
            label = self._label(number)
            if not label:
                ignored.append((path, f"no label in column {self.table.columns[self.label]}"))
                continue
            split = self.own_split if self.split is None else split_in_cell(row[self.split], self.table.where(number))
            group = "" if self.group is None else text_of(row[self.group])
            photos.append(Photo(path, label, split, state.st_size, stamp, group, more))
        return photos, ignored

    def _label(self, number: int) -> str:
        """Return the class name in row `number`, or "" if the row has no label. The class number -1 means no label."""
        label = label_of(self.table, number, self.label)
        if not label or self.classes is None:
            return label
        if label == "-1":
            return ""
        where = self.table.where(number)
        if isinstance(self.table.rows[number][self.label], str):
            return class_name(self.classes, label, where)
        if not label.isdigit() or int(label) >= len(self.classes) or not self.classes[int(label)]:
            raise UserError(
                f"{where}: label {label} is not one of the {len(self.classes):,} classes; give --class-names"
            )
        return self.classes[int(label)]


def _open(found: DataSet, file: DataFile, rows: RowFile, options: SourceOptions, classes: list[str] | None) -> _Opened:
    """Find the roles of a file's columns. Raises UserError if they can't be identified."""
    features = {**found.features, **rows.features}
    table = read_table(rows)
    image = _image_column(rows, features, options.path_column)
    label = _label_column(table, features, options.label_column)
    split = table.column(options.split_column) if options.split_column else None
    if split is None and file.split == UNDECIDED:
        split = split_column(table, (label,))
    group = table.columns.index(options.group_by) if options.group_by in table.columns else None
    names = {name: _class_names(features.get(name), rows.path) for name in table.columns}
    extra = {
        name: [_named(cell, names.get(name)) for cell in cells]
        for name, cells in extra_columns(table, (label, split, group)).items()
    }
    known = classes or names[table.columns[label]]
    prefix = f"{file.name}/" if file.name else ""
    return _Opened(prefix, file.split, rows, table, image, label, split, group, known, extra)


class _Reader:
    """A function that returns the bytes of the photograph at a path; see `_Opened.photographs`."""

    def __init__(self, files: dict[str, tuple[RowFile, str]]) -> None:
        self._files = files

    def __call__(self, path: str) -> bytes:
        """Return the photograph's bytes. Raises BrokenPhoto if its row has none."""
        prefix, row = self._place(path)
        rows, image = self._files[prefix]
        data = rows.read(row, image)
        if data is None:
            raise BrokenPhoto(f"no bytes in column {image}")
        return data

    def _place(self, path: str) -> tuple[str, int]:
        # The path may end with the photograph's own name.
        """Return a path's prefix, which identifies the file, and its row."""
        for _ in range(2):
            path, slash, row = path.rpartition("/")
            if path + slash in self._files and row.isdigit():
                return path + slash, int(row)
        raise KeyError(path)


def _image_column(rows: RowFile, features: Features, given: str | None) -> str:
    """Return the column of photographs: `given` by the user, or found by its type. Raises UserError if it can't be
    identified."""
    found = photograph_columns(rows, features)
    if given is not None:
        if given not in rows.types:
            raise UserError(f"{rows.path} has no column '{given}'; give one of {', '.join(rows.types)[:200]}")
        found = [given]
    if len(found) != 1:
        problem = f"{' or '.join(found)} may be the photographs" if found else "no column holds photographs"
        raise UserError(f"{rows.path}: {problem} (its columns: {', '.join(rows.types)[:200]}); give --path-column")
    return found[0]


def _label_column(table: Table, features: Features, given: str | None) -> int:
    """Return the position of the label's column: `given` by the user, or found by its description or its name.

    Raises UserError if it can't be identified.
    """
    if given is not None:
        return table.column(given)
    labels = [number for number, name in enumerate(table.columns) if _class_names(features.get(name), table.path)]
    named = [number for number in table.known(LABELS) if number in labels]
    if len(labels) == 1 or len(named) == 1:
        return (named or labels)[0]
    if labels:
        names = " or ".join(table.columns[number] for number in labels)
        raise UserError(f"{table.path}: {names} may be the label; give --label-column")
    return label_column(table, -1)


def _class_names(feature: Any, path: Path) -> list[str] | None:
    """Return the class names in the description of a column, or None if the column does not hold classes."""
    if not isinstance(feature, dict):
        return None
    if isinstance(feature.get("feature"), dict):
        feature = feature["feature"]
    names = feature.get("names")
    if feature.get("_type") != "ClassLabel" or not isinstance(names, list) or not names:
        return None
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: class {twice!r} is listed twice in its features; give --class-names")
    return names


def _named(cell: Any, classes: list[str] | None) -> Any:
    """Return a cell's value with class names instead of class numbers."""
    if classes is None or cell is None:
        return cell
    if isinstance(cell, list):
        return [_named(each, classes) for each in cell]
    return classes[cell] if isinstance(cell, int) and 0 <= cell < len(classes) else None


def _require_same_classes(opened: list[_Opened]) -> None:
    """Raise UserError if files of a data set have different classes."""
    first = opened[0]
    for each in opened:
        if each.classes != first.classes:
            here, there = (few(one.classes) if one.classes else "no names" for one in (each, first))
            raise UserError(
                f"{each.rows.path}: its classes ({here}) differ from those of {first.rows.path} ({there}); "
                "give --class-names"
            )


def _note(found: DataSet, first: _Opened, photos: list[Photo], extra: tuple[str, ...]) -> str:
    """Return the message that says which column has which role, and how many photographs each split has."""
    columns = first.table.columns
    used = {"image": first.image, "label": columns[first.label]}
    used |= {what: columns[at] for what, at in (("split", first.split), ("group", first.group)) if at is not None}
    counts = Counter(photo.split for photo in photos)
    splits = ", ".join(f"{_SPLITS[split]} {count:,}" for split, count in sorted(counts.items()))
    unread = [name for name in first.rows.types if name not in columns and name != first.image]
    config = "" if found.config in (None, "default") else f" ({found.config})"
    return (
        f"{found.name}{config}: {', '.join(f'{what} = {name}' for what, name in used.items())}; {splits}"
        + (f"; extra labels: {', '.join(extra)[:200]}" if extra else "")
        + (f"; not used: {', '.join(unread)[:200]}" if unread else "")
    )
