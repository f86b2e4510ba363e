"""Find the kind of a source: the kinds are tried in order, and the first that claims it lists its photographs."""

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
    """A module for one kind of source."""

    OPTIONS: frozenset[str]
    """The fields of `SourceOptions` that it supports, besides those that every kind accepts."""

    def claims(self, source: str) -> bool:
        """Return whether `source` is of this kind, according to its name and contents."""

    def listed(self, source: str | Path, options: SourceOptions) -> Listing:
        """List its photographs. Raises UserError, one line, if the contents don't fit."""


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
    """List `source`: "food101" (downloaded into the cache), "sample" (drawn into it), or the data at a path.

    A folder holds class folders; or Food-101's `images/`, `meta/train.txt` and `meta/test.txt`; or `train/` and `val/`
    or `test/` or both (or other words for these), each with class folders. A table has a row for each photograph, with
    its path and label; `options` says how a table or a folder is read. An archive is a zip or tar of such a folder, or
    a folder of archives. WebDataset's tars, FFCV's `.beton` files and TFRecords are given as a file, a folder or a
    pattern with braces. A Hugging Face data set is `hf://OWNER/NAME`, a folder saved by `datasets`, or Parquet files
    that hold photographs. A folder of class folders, or a table, may be behind a URL that fsspec can list. All of
    these are read in place. Hidden files are skipped, links are followed, and no folder is read twice.
    `least_classes`: 1 if photographs of a single class are enough. Raises UserError, one line, if the source is none
    of these, if Food-101 can't be downloaded, or if all files of a class are left out without
    `options.skip_empty_classes`.
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
        raise of_os(error, repair="make it readable, or remove it from the source") from error
    found = make_source(listing)
    if len(found.classes) < least_classes:
        raise UserError(_one_class(found))
    return found


def divides_itself(data: Path) -> bool:
    """Return whether the folder `data` defines its validation or test photographs, by folders, files or `meta/`.

    Raises UserError if it can't be read.
    """
    if huggingface.claims(str(data)):
        return huggingface.divides_itself(data)
    try:
        for kind in (webdataset, beton, tfrecord):
            if kind.claims(str(data)):
                return any(split in (VAL, TEST) for split in find_files(data, kind.FILES).splits)
    except OSError as error:
        raise of_os(error, repair="make it readable") from error
    return food101.is_food101(data) or folder.divides_itself(data)


def require_known(classes: Sequence[str], known: Sequence[str], where: str | Path) -> None:
    """Raise UserError if the photographs in `where` have a class in `classes` that is not among the
    model's, `known`."""
    names = set(known)
    unknown = [name for name in classes if name not in names]
    if not unknown:
        return
    inner = next((name for name in unknown if any((Path(where) / name / each).is_dir() for each in known)), None)
    fix = f"did you mean --data {Path(where) / inner}?" if inner else f"the model's are {few(sorted(known))}"
    which = "a class" if len(unknown) == 1 else "classes"
    raise UserError(f"{where} holds photographs of {which} that the model doesn't know ({few(unknown)}); {fix}")


def _check_options(kind: Kind, source: str | Path, options: SourceOptions) -> None:
    for each in fields(options):
        given = getattr(options, each.name)
        if given not in (None, False) and each.name not in kind.OPTIONS | _ANY:
            flag = each.name.replace("_", "-")
            raise UserError(f"--{flag} {given} has no effect on --source {source}: leave out --{flag}")
        if given is not None and each.name in _LISTS and not user_path(given).exists():
            raise UserError(f"--{each.name.replace('_', '-')} {given}: no such file; check the path")


def _undecided(listing: Listing) -> Listing:
    """Let training photographs be drawn for validation if there are none for it. Test photographs never are."""
    if any(photo.split == VAL for photo in listing.photos):
        return listing
    photos = [replace(photo, split=UNDECIDED) if photo.split == TRAIN else photo for photo in listing.photos]
    return replace(listing, photos=photos)


def _require_all_classes(listing: Listing) -> None:
    """Raise UserError if a class folder holds files, but all of them are left out."""
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
    inner = source.root / source.classes[0]
    nested = inner.is_dir() and DiskTree(source.root).folders(source.classes[0])
    files = sorted(source.root.glob("*")) if source.root.is_dir() else []
    tables = [each for each in files if each.suffix.lower() != ".txt" and table.claims(str(each))]
    meant = inner if nested else tables[0] if tables else None
    fix = f"did you mean --source {meant}?" if meant else "a classifier needs two"
    return f"--source {source.root} holds photographs of one class only, {source.classes[0]!r}; {fix}"
