"""Read folders of photographs: a folder for each class, directly or within a folder for each split."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fasttrain.config.location import user_path
from fasttrain.errors import UserError, of_os
from fasttrain.photos.nested import folders_of, has_splits_below, named_by_folders, splits_below
from fasttrain.photos.source import TRAIN, UNDECIDED, VAL, Listing, Photo, SourceOptions, few, reasons, refuse_shards
from fasttrain.photos.split_names import SPLIT_WORDS, split_of
from fasttrain.photos.tree import DiskTree, Tree
from fasttrain.photos.walk import Found, Ignored
from fasttrain.text import counted

OPTIONS = frozenset({"classes"})
_NO_CLASS = "not in a class folder"
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


def claims(source: str) -> bool:
    """Return True, because this kind is tried last and accepts every source that no other kind accepts."""
    return True


def listed(source: str | Path, options: SourceOptions) -> Listing:
    """List the photographs of a folder. Raises UserError if it holds neither class folders nor split folders."""
    root = user_path(source)
    if not root.is_dir():
        problem = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(
            f"--source {root} {problem}; give a folder or archive of class folders, a table, `sample` or `food101`"
        )
    refuse_shards(root)
    return list_tree(DiskTree(root), "folder", root.resolve().name, options)


def defines_splits(folder: Path) -> bool:
    """Return whether the folders in `folder` decide which of its photographs are for validation or testing.

    Raises UserError if `folder` can't be read.
    """
    try:
        tree = DiskTree(folder)
        return any(split != TRAIN for split in _split_folders(tree).values()) or has_splits_below(tree)
    except OSError as error:
        raise of_os(error, fix="make it readable") from error


def list_tree(tree: Tree, kind: str, name: str, options: SourceOptions) -> Listing:
    """List the photographs of a tree of class folders, with or without a folder for each split.

    `kind` and `name` become the fields `kind` and `name` of the listing.
    """
    if splits := _split_folders(tree):
        return _split_layout(tree, kind, name, splits, options)
    if options.classes is None:
        _refuse_loose_splits(tree)
    return _class_folders(tree, kind, name, options)


def _split_folders(tree: Tree) -> dict[str, int]:
    """Return the split of each folder that is named after one, or an empty dict if the folders are classes."""
    names = tree.folders("")
    folders = {name: split for name in names if (split := split_of(name)) is not None}
    trains = [name for name, split in folders.items() if split == TRAIN]
    if not any(tree.folders(name) for name in trains):
        return {}
    return folders if len(folders) > 1 or len(names) == 1 else {}


def _refuse_loose_splits(tree: Tree) -> None:
    """Raise UserError if folders are named after splits but can't be used as splits, because they would become
    classes."""
    named = {name: split for name in tree.folders("") if (split := split_of(name)) is not None}
    if len(set(named.values())) < 2:
        return
    holds = " and ".join(f"{name}/" for name in named)
    train = next((name for name, split in named.items() if split == TRAIN), None)
    if train is None:
        if len(named) < len(tree.folders("")) and not any(tree.folders(name) for name in named):
            return  # they are classes that happen to have such names
        problem = "but no train/; rename one of them to train"
    else:
        problem = f"but no class folders in {train}/{_table_hint(tree) or '; give each class a folder there'}"
    raise UserError(
        f"--source {tree.root} holds {holds} {problem} (if these folders are the classes, give fasttrain convert "
        "--classes top)"
    )


def _class_folders(tree: Tree, kind: str, name: str, options: SourceOptions) -> Listing:
    """List the photographs of class folders without split folders."""
    names = tree.folders("")
    beside = _beside(tree)
    if not names:
        raise UserError(f"--source {tree.root} holds {_no_folders(tree, beside)}")
    photos, ignored = _walk_classes(tree, "", names, UNDECIDED)
    if not photos:
        why = f": {reasons([reason for _, reason in ignored])}" if ignored else ""
        raise UserError(
            f"--source {tree.root} holds class folders ({few(names)}) but no photographs in them{why}; add some"
        )
    photos, folders = splits_below(tree.root, photos) if options.classes is None else (photos, folders_of(photos))
    listing = Listing(kind, name, tree.root, names, photos, [*beside, *ignored], folder="")
    return named_by_folders(listing, folders, options.classes)


def _split_layout(tree: Tree, kind: str, name: str, splits: dict[str, int], options: SourceOptions) -> Listing:
    """List the photographs of class folders within split folders."""
    for split in set(splits.values()):
        same = [folder for folder, each in splits.items() if each == split]
        if len(same) > 1:
            raise UserError(
                f"--source {tree.root} holds {' and '.join(same)}, both for {SPLIT_WORDS[split]}: keep one folder"
            )
    photos: list[Photo] = []
    folders: list[str] = []
    ignored = _beside(tree)
    ignored += [(f"{other}/", "beside train/") for other in tree.folders("") if other not in splits]
    for folder, split in splits.items():
        names = tree.folders(folder)
        found, others = _walk_classes(tree, f"{folder}/", names, split)
        others += _beside(tree, folder)
        if not found:
            ignored += _empty_split(tree, folder, split, names, others)
        photos += found
        folders += folders_of(found, f"{folder}/")
        ignored += others
    train = next(folder for folder, split in splits.items() if split == TRAIN)
    listing = Listing(kind, name, tree.root, tree.folders(train), photos, ignored, folder=f"{train}/")
    listing = named_by_folders(listing, folders, options.classes)
    learnt = {photo.name for photo in listing.photos if photo.split == TRAIN}
    for photo in listing.photos:
        if photo.name not in learnt:
            raise UserError(
                f"{tree.root / photo.path}: {train}/ holds no photographs of its class, {photo.name!r}; add some, or "
                "remove the class"
            )
    return listing


def _empty_split(tree: Tree, folder: str, split: int, classes: list[str], left_out: list[Ignored]) -> list[Ignored]:
    """Return the entries of `rejected.tsv` for a split folder without photographs. Raises UserError for the training
    split, and for a validation folder that holds other files."""
    where = tree.root / folder
    if split == TRAIN:
        raise UserError(f"--source {where} holds class folders ({few(classes)}) but no photographs in them; add some")
    if not left_out:
        if split == VAL:
            return [(f"{folder}/", "empty: --val-fraction decides how many training photographs are for validation")]
        return [(f"{folder}/", "empty")]
    if split == VAL:
        loose = sum(reason == _NO_CLASS for _, reason in left_out)
        what = (
            f"{counted(loose, 'photograph')} but no class folders"
            if loose
            else f"no photographs ({': '.join(left_out[0])})"
        )
        fix = "give each class a folder there" if loose else "add some"
        raise UserError(
            f"--source {where} holds {what}; {fix}, or remove {folder}/: then --val-fraction decides how many "
            "training photographs are for validation"
        )
    return []


def _no_folders(tree: Tree, beside: list[Ignored]) -> str:
    """Return the message for a folder without class folders."""
    photos = sum(reason == _NO_CLASS for _, reason in beside)
    where = f"{counted(photos, 'photograph')} but no class folders" if photos else "no class folders"
    return where + (_table_hint(tree) or "; give each class its own folder")


def _table_hint(tree: Tree) -> str:
    """Return a hint that a file in the folder may be the table of labels, or ""."""
    tables = [path for path, _ in _beside(tree) if path.lower().endswith(_TABLES)]
    return f"; if {tables[0]} has their labels, give --source {tree.root / tables[0]}" if tables else ""


def _walk_classes(tree: Tree, prefix: str, names: Iterable[str], split: int) -> tuple[list[Photo], list[Ignored]]:
    """Return the photographs in class folders, and (path, reason) of other files."""
    photos: list[Photo] = []
    ignored: list[Ignored] = []
    for name, found in tree.walk_classes(prefix, list(names)):
        if isinstance(found, Found):
            photos.append(Photo(found.path, name, split, found.size, found.stamp))
        else:
            ignored.append(found)
    return photos, ignored


def _beside(tree: Tree, start: str = "") -> list[Ignored]:
    """Return (path, reason) of the files that are in no class folder."""
    loose = tree.files_in(start)
    return [(item.path, _NO_CLASS) if isinstance(item, Found) else item for item in loose]
