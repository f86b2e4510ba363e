"""Food-101 (Bossard, Guillaumin, Van Gool, ECCV 2014): download it with torchvision, and read its layout."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fasttrain.config.location import cache_root, user_path
from fasttrain.errors import UserError, fixable
from fasttrain.machine import sync_disks
from fasttrain.photos.source import TEST, TRAIN, Listing, Photo, SourceOptions, refuse_shards
from fasttrain.photos.tree import DiskTree, Tree
from fasttrain.photos.walk import Found, Ignored
from fasttrain.text import decode_text, read_text

OPTIONS: frozenset[str] = frozenset()
_INSTEAD = "use --source sample (built in) or --source DIR (your own folder)"
_TIMEOUT_S = 60.0  # without any data from the server
_PARTS = {"train": TRAIN, "test": TEST}


def claims(source: str) -> bool:
    """Return whether `source` is "food101", or a folder with Food-101's layout."""
    return source == "food101" or is_food101(user_path(source))


def is_food101(root: Path) -> bool:
    """Return whether the folder `root` has Food-101's `images/`, `meta/train.txt` and `meta/test.txt`."""
    return (root / "images").is_dir() and all((root / "meta" / f"{part}.txt").is_file() for part in _PARTS)


def has_meta(tree: Tree) -> bool:
    """Return whether a tree has Food-101's `images/`, `meta/train.txt` and `meta/test.txt`."""
    if not {"images", "meta"} <= set(tree.folders("")):
        return False
    there = {found.path if isinstance(found, Found) else found[0] for found in tree.files_in("meta")}
    return {f"meta/{part}.txt" for part in _PARTS} <= there


def listed(source: str | Path, options: SourceOptions) -> Listing:
    """List the photographs that the files in `meta/` name. Raises UserError if Food-101 can't be downloaded."""
    if source == "food101":
        root, kind, name = download_food101(cache_root()), "food101", "food101"
    else:
        root = user_path(source)
        kind, name = "folder", root.resolve().name
        refuse_shards(root)
    meta = {part: read_text(root / "meta" / f"{part}.txt") for part in _PARTS}
    return _list(DiskTree(root / "images"), "", meta, root, kind, name)


def list_meta(tree: Tree, read: Callable[[str], bytes], kind: str, name: str, options: SourceOptions) -> Listing:
    """List the photographs of a tree with Food-101's layout (see `has_meta`), such as an archive or a bucket.

    `read` returns the bytes of the file at a path. `kind` and `name` become the fields `kind` and `name` of the
    listing.
    """
    if options.classes is not None:
        raise UserError(
            f"--classes {options.classes} has no effect, because {tree.root} has Food-101's layout; leave it out"
        )
    files = {part: f"meta/{part}.txt" for part in _PARTS}
    meta = {part: decode_text(read(file), tree.root / file) for part, file in files.items()}
    listing = _list(tree, "images/", meta, tree.root, kind, name)
    return replace(listing, root=tree.root / "images", read=lambda path: read(f"images/{path}"))


def _list(tree: Tree, images: str, meta: dict[str, str], base: Path, kind: str, name: str) -> Listing:
    """List the photographs in the folder `images` of a tree. `meta` has the contents of the files in `meta/`."""
    named = {line.strip(): split for part, split in _PARTS.items() for line in meta[part].splitlines() if line.strip()}
    there: dict[str, Found] = {}
    ignored: list[Ignored] = []
    for _, found in tree.walk_classes(images, tree.folders(images.rstrip("/"))):
        if isinstance(found, Found):
            path = found.path.removeprefix(images)
            there[os.path.splitext(path)[0]] = Found(path, found.size, found.stamp)  # noqa: PTH122 - a million times
        else:
            ignored.append((found[0].removeprefix(images), found[1]))
    photos = []
    for stem, split in named.items():
        found = there.pop(stem, None) or Found(f"{stem}.jpg", -1, (0, 0, 0))
        photos.append(Photo(found.path, stem.partition("/")[0], split, found.size, found.stamp))
    ignored += [(found.path, "not named in meta/train.txt or meta/test.txt") for found in there.values()]
    learnt = {photo.name for photo in photos if photo.split == TRAIN}
    for photo in photos:
        if photo.name not in learnt:
            raise UserError(
                f"{base / 'meta' / 'test.txt'}: class {photo.name!r} is not in meta/train.txt; add it there"
            )
    return Listing(kind, name, tree.root, sorted(learnt), photos, ignored)


def download_food101(cache: Path) -> Path:
    """Download Food-101 (5 GB) into `cache`, unless it is there, and return its folder `cache`/food-101.

    The folder has `images/` and `meta/`, and gets its name only when it is complete. After an interruption, a complete
    archive is not downloaded again. Raises UserError if the network, the checksum or the disk fails.
    """
    done = cache / "food-101"
    if done.is_dir():
        return done
    from torchvision.datasets import Food101

    # torchvision would take a partly unpacked folder for a complete one, so such a folder is deleted first.
    staging = cache / "food-101.partial"
    shutil.rmtree(staging / "food-101", ignore_errors=True)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        staging.mkdir(parents=True, exist_ok=True)
        Food101(str(staging), split="train", download=True)
        sync_disks()  # 101,000 files, whose names may reach the disk before their contents
        (staging / "food-101").rename(done)
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        with contextlib.suppress(OSError):
            staging.rmdir()
        # urllib's errors are OSErrors; a wrong checksum is a RuntimeError of torchvision.
        why = " ".join(str(getattr(error, "reason", error)).split())
        raise fixable(error, staging, "set FASTTRAIN_CACHE to a folder with enough space") or UserError(
            f"Food-101 can't be downloaded into {cache} ({why}): {_INSTEAD}"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    shutil.rmtree(staging)
    return done
