"""Decide what folders within class folders are: classes, splits, or neither."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from fasttrain.errors import UserError
from fasttrain.photos.source import TRAIN, Listing, Photo, few
from fasttrain.photos.split_names import split_of
from fasttrain.photos.tree import Tree
from fasttrain.text import counted

CHOICES = ("top", "leaf", "path")
_COUNTER = re.compile(r"[\W\d_]*\d[\W\d_]{2,}")  # dates and numbers of three digits, which are rarely classes


def named_by_folders(listing: Listing, folders: list[str], choice: str | None) -> Listing:
    """Return the listing with classes named by folders, as `choice` says.

    The class of a photograph in `animals/cat/` is "animals" if `choice` is "top", "cat" if it is "leaf", and
    "animals/cat" if it is "path". None means that the user made no choice, and then the top folders are the classes.
    `folders` has the folder of each photograph, relative to the parent of the class folders. Raises UserError if
    `choice` is None and the folders within the class folders may be the classes.
    """
    if choice not in (None, *CHOICES):
        raise UserError(f"--classes {choice}: not a choice; give top, leaf or path")
    distinct = set(folders)
    if not any("/" in folder for folder in distinct):
        return listing
    if choice is None:
        if listing.folder or len({folder.split("/")[0] for folder in distinct}) > 1:
            _require_choice(listing, distinct)
        return listing
    notes = [f"{_found(distinct)}; the classes are --classes {choice}"]
    if choice == "top":
        return replace(listing, notes=(*listing.notes, *notes))
    if choice == "leaf":
        joined = defaultdict(list)
        for folder in sorted(distinct):
            joined[_leaf(folder)].append(folder)
        same = [f"{name} ({', '.join(some[:3])})" for name, some in joined.items() if len(some) > 1]
        if same:
            notes.append(f"folders with the same name are one class (to avoid it, give --classes path): {few(same)}")
    named = [
        replace(photo, name=folder if choice == "path" else _leaf(folder))
        for photo, folder in zip(listing.photos, folders, strict=True)
    ]
    return replace(
        listing,
        names=sorted({photo.name for photo in named}),
        photos=named,
        folder=None,
        notes=(*listing.notes, *notes),
        settings={**listing.settings, "classes": choice},
    )


def folders_of(photos: list[Photo], prefix: str = "") -> list[str]:
    """Return the folder of each photograph, relative to the folder `prefix`."""
    known: dict[str, str] = {}  # saves memory: one string per folder, not one per photograph
    start = len(prefix)
    folders = (photo.path[start:].rpartition("/")[0] for photo in photos)
    return [known.setdefault(folder, folder) for folder in folders]


def splits_below(root: Path, photos: list[Photo]) -> tuple[list[Photo], list[str]]:
    """Find splits within class folders, as in `cat/train/` and `cat/test/`.

    Return the photographs with the splits set, and the folder of each photograph without the part that names the split.
    Raises UserError if only some class folders are divided in this way.
    """
    folders = folders_of(photos)
    divided: dict[str, set[int | None]] = defaultdict(set)
    for folder in set(folders):
        top, *inner = folder.split("/")
        divided[top].add(split_of(inner[0]) if inner else None)
    splits = {top for top, found in divided.items() if _are_splits(found)}
    if not splits:
        return photos, folders
    if undivided := sorted(set(divided) - splits):
        raise UserError(
            f"--source {root}: {min(splits)}/ holds a folder for each split, but {undivided[0]}/ doesn't; divide all "
            "classes, or give fasttrain convert --classes top to use all photographs of a class together"
        )
    parts = [folder.split("/") for folder in folders]
    placed = [
        replace(photo, split=TRAIN if (split := split_of(inner[1])) is None else split)
        for photo, inner in zip(photos, parts, strict=True)
    ]
    return placed, ["/".join([top, *inner]) for top, _, *inner in parts]


def has_splits_below(tree: Tree) -> bool:
    """Return whether every class folder is divided into splits; see `splits_below`."""
    names = tree.folders("")
    return bool(names) and all(_are_splits({split_of(each) for each in tree.folders(name)}) for name in names)


def _are_splits(found: set[int | None]) -> bool:
    """Return whether the folders in a class folder are the splits of the class. `found` has the split of each, None if
    it is not one."""
    return len(found) > 1 and TRAIN in found and None not in found


def _require_choice(listing: Listing, folders: set[str]) -> None:
    """Raise UserError if it is not clear which folders are the classes."""
    leaves: dict[str, set[str]] = defaultdict(set)
    for folder in folders:
        leaves[folder.split("/")[0]].add(folder)
    nested = [folder for folder in folders if "/" in folder]
    several = any(sum("/" in folder for folder in below) > 1 for below in leaves.values())
    if not several or all(_COUNTER.fullmatch(_leaf(folder)) for folder in nested):
        return
    names = {_leaf(folder) for folder in folders}
    deepest = max(nested, key=lambda folder: (folder.count("/"), folder))
    where = listing.root / listing.folder if listing.folder else listing.root
    raise UserError(
        f"--source {where}: {_found(folders)}, such as {deepest}; which are the classes? Give fasttrain convert "
        f"--classes top ({len(leaves):,}: {few(sorted(leaves))}), leaf ({len(names):,}: {few(sorted(names))}) or path "
        f"({len(folders):,}){_splits_hint(leaves)}"
    )


def _splits_hint(leaves: dict[str, set[str]]) -> str:
    """Return a hint that the top folders may be splits with names in another language, or "".

    The hint is given if every top folder holds the same folders.
    """
    below = [{folder.partition("/")[2].split("/")[0] for folder in some} for some in leaves.values()]
    if len(below) > 1 and all(some == below[0] for some in below):
        return f"; if {few(sorted(leaves))} are splits, name them train, val and test"
    return ""


def _found(folders: set[str]) -> str:
    """Return a description of the folders for messages."""
    tops = {folder.split("/")[0] for folder in folders}
    depth = max(folder.count("/") for folder in folders) + 1
    held = f"{counted(len(folders), 'folder')} with photographs, {counted(depth, 'level')} deep"
    return f"{held}, in {counted(len(tops), 'class folder')}"


def _leaf(folder: str) -> str:
    """Return the last part of a folder's path."""
    return folder.rpartition("/")[2]
