"""Open a source of photographs: find out which kind it is, and list its photographs.

The kinds are tried in order, and the first one that accepts the source reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Protocol

from fasttrain.config.location import user_path
from fasttrain.errors import UserError, of_os
from fasttrain.photos import (
    archive,
    beton,
    bucket,
    folder,
    food101,
    huggingface,
    sample,
    table,
    tfrecord,
    webdataset,
)
from fasttrain.photos.changes import grouped, relabelled, with_splits
from fasttrain.photos.container import find_files
from fasttrain.photos.source import (
    TEST,
    TRAIN,
    UNDECIDED,
    VAL,
    Listing,
    Source,
    SourceOptions,
    few,
    make_source,
    reasons,
)
from fasttrain.photos.tree import DiskTree


class Kind(Protocol):
    """The interface of a module that reads one kind of source."""

    OPTIONS: frozenset[str]
    """The fields of `SourceOptions` that have an effect on this kind, besides those for every kind."""

    def claims(self, source: str) -> bool:
        """Return whether `source` is of this kind, by its name and contents."""

    def listed(self, source: str | Path, options: SourceOptions) -> Listing:
        """List the photographs of `source`. Raises UserError if they can't be read as this kind."""


_KINDS: tuple[Kind, ...] = (
    food101,
    sample,
    huggingface,
    table,
    bucket,
    tfrecord,
    webdataset,
    beton,
    archive,
    folder,
)
_ANY = frozenset({"group_by", "splits", "relabel", "skip_empty_classes", "keep_duplicates_together"})
_LISTS = ("splits", "relabel", "class_names")
_NO_OPTIONS = SourceOptions()


def open_source(source: str | Path, least_classes: int = 2, options: SourceOptions = _NO_OPTIONS) -> Source:
    """Return the photographs of `source`, which may have one of these forms:

    - "food101", which is downloaded into the cache, or "sample", which is drawn into it.
    - A folder that holds a folder for each class.
    - A folder that holds `train/` and at least one of `val/` and `test/` (or similar names), each with class folders.
    - A folder that holds Food-101's `images/`, `meta/train.txt` and `meta/test.txt`.
    - A table with a row for each photograph: its path and its label.
    - A zip or a tar of such a folder, or a folder of archives.
    - WebDataset's tars, FFCV's `.beton` files or TFRecords: a file, a folder, or a pattern with braces.
    - A Hugging Face data set: `hf://OWNER/NAME`, a folder saved by `datasets`, or Parquet files with photographs.
    - The URL of a folder of class folders, or of a table, which fsspec can read.

    Files on this machine and behind URLs are read in place. Hidden files are skipped, links are followed, and no folder
    is read twice. Raises UserError if the source has none of these forms, if it can't be downloaded, if it has fewer
    than `least_classes` classes, or if every file of a class is unusable and `options.skip_empty_classes` is not set.
    """
    try:
        kind = next(kind for kind in _KINDS if kind.claims(str(source)))
        _check_options(kind, source, options)
        listing = kind.listed(source, options)
        if not options.skip_empty_classes:
            _require_all_classes(listing)
        listing = with_splits(_undecided(listing), options.splits)
        listing = grouped(relabelled(listing, options.relabel), options.group_by)
    except OSError as error:
        raise of_os(error, fix="make it readable, or remove it from the source") from error
    found = make_source(listing)
    if len(found.classes) < least_classes:
        raise UserError(_one_class(found))
    return found


def defines_splits(data: Path) -> bool:
    """Return whether the data in the folder `data` decide which photographs are for validation or testing.

    They do so by the names of folders or files, or by Food-101's `meta/`. Raises UserError if the folder can't be read.
    """
    if huggingface.claims(str(data)):
        return huggingface.defines_splits(data)
    try:
        for kind in (webdataset, beton, tfrecord):
            if kind.claims(str(data)):
                return any(split in (VAL, TEST) for split in find_files(data, kind.FILES).splits)
    except OSError as error:
        raise of_os(error, fix="make it readable") from error
    return food101.is_food101(data) or folder.defines_splits(data)


def require_known(classes: Sequence[str], known: Sequence[str], where: str | Path) -> None:
    """Raise UserError if a name in `classes` is not among the model's classes, `known`. `where` is the photographs'
    folder."""
    names = set(known)
    unknown = [name for name in classes if name not in names]
    if not unknown:
        return
    inner = next((name for name in unknown if any((Path(where) / name / each).is_dir() for each in known)), None)
    fix = f"did you mean --data {Path(where) / inner}?" if inner else f"the model's are {few(sorted(known))}"
    which = "a class" if len(unknown) == 1 else "classes"
    raise UserError(f"{where} holds photographs of {which} that the model doesn't know ({few(unknown)}); {fix}")


def _check_options(kind: Kind, source: str | Path, options: SourceOptions) -> None:
    """Raise UserError for an option that has no effect on this kind of source, or that names a missing file."""
    for each in fields(options):
        given = getattr(options, each.name)
        if given not in (None, False) and each.name not in kind.OPTIONS | _ANY:
            flag = each.name.replace("_", "-")
            raise UserError(f"--{flag} {given} has no effect on --source {source}: leave out --{flag}")
        if given is not None and each.name in _LISTS and not user_path(given).exists():
            raise UserError(f"--{each.name.replace('_', '-')} {given} does not exist; check the path")


def _undecided(listing: Listing) -> Listing:
    """Make training photographs undecided if there are none for validation, so that some of them are drawn for
    validation."""
    if any(photo.split == VAL for photo in listing.photos):
        return listing
    photos = [replace(photo, split=UNDECIDED) if photo.split == TRAIN else photo for photo in listing.photos]
    return replace(listing, photos=photos)


def _require_all_classes(listing: Listing) -> None:
    """Raise UserError if a class folder holds files, but none of them can be used."""
    if listing.folder is None:
        return
    used = {photo.name for photo in listing.photos}
    for name in (name for name in listing.names if name not in used):
        folder = f"{listing.folder}{name}/"
        inside = [reason for path, reason in listing.ignored if path.startswith(folder)]
        if inside:
            raise UserError(
                f"{listing.root / folder}: every file of this class is left out ({reasons(inside)}); make them "
                "readable, remove the folder from the source, or give `convert --skip-empty-classes`"
            )


def _one_class(source: Source) -> str:
    """Return the message for a source with a single class."""
    inner = source.root / source.classes[0]
    nested = inner.is_dir() and DiskTree(source.root).folders(source.classes[0])
    files = sorted(source.root.glob("*")) if source.root.is_dir() else []
    tables = [each for each in files if each.suffix.lower() != ".txt" and table.claims(str(each))]
    meant = inner if nested else tables[0] if tables else None
    fix = f"did you mean --source {meant}?" if meant else "a classifier needs two"
    return f"--source {source.root} holds photographs of one class only, {source.classes[0]!r}; {fix}"
