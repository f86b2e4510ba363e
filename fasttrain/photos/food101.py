"""Food-101 (Bossard, Guillaumin, Van Gool, ECCV 2014), by torchvision's own download and checksum, and its layout."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tarfile
from pathlib import Path

from fasttrain.config.location import cache_root, user_path
from fasttrain.errors import UserError, mendable
from fasttrain.photos.source import TEST, TRAIN, Listing, Photo, SourceOptions, refuse_shards
from fasttrain.photos.tree import DiskTree
from fasttrain.photos.walk import Found, Ignored
from fasttrain.text import read_text

OPTIONS: frozenset[str] = frozenset()
_INSTEAD = "use --source sample (built in) or --source DIR (a folder of yours)"
_SILENCE_S = 60.0


def claims(source: str) -> bool:
    """Return whether `source` is "food101", or a folder laid out as Food-101 is."""
    return source == "food101" or is_food101(user_path(source))


def is_food101(root: Path) -> bool:
    """Return whether the folder `root` has Food-101's `images/`, `meta/train.txt` and `meta/test.txt`."""
    meta = (root / "meta" / f"{part}.txt" for part in ("train", "test"))
    return (root / "images").is_dir() and all(file.is_file() for file in meta)


def listed(source: str | Path, options: SourceOptions) -> Listing:
    """List the photographs that the two files in `meta/` name. Raises UserError where Food-101 can't be downloaded."""
    if source == "food101":
        return _list(download_food101(cache_root()), "food101", "food101")
    root = user_path(source)
    refuse_shards(root)
    return _list(root, "folder", root.resolve().name)


def _list(base: Path, kind: str, name: str) -> Listing:
    root = base / "images"
    named = {
        line.strip(): split
        for part, split in (("train", TRAIN), ("test", TEST))
        for line in read_text(base / "meta" / f"{part}.txt").splitlines()
        if line.strip()
    }
    tree = DiskTree(root)
    there: dict[str, Found] = {}
    ignored: list[Ignored] = []
    for _, found in tree.walk_classes("", tree.folders("")):
        if isinstance(found, Found):
            there[os.path.splitext(found.path)[0]] = found  # noqa: PTH122 - a million times
        else:
            ignored.append(found)
    photos = []
    for stem, split in named.items():
        found = there.pop(stem, None) or Found(f"{stem}.jpg", -1, (0, 0, 0))
        photos.append(Photo(found.path, stem.partition("/")[0], split, found.size, found.stamp))
    ignored += [(found.path, "not named in meta/train.txt or meta/test.txt") for found in there.values()]
    learnt = {photo.name for photo in photos if photo.split == TRAIN}
    for photo in photos:
        if photo.name not in learnt:
            raise UserError(f"{base / 'meta' / 'test.txt'}: class {photo.name!r} is not in meta/train.txt")
    return Listing(kind, name, root, sorted(learnt), photos, ignored)


def download_food101(cache: Path) -> Path:
    """The folder `cache`/food-101 with `images/` and `meta/`, downloaded (5 GB) and unpacked once.

    It appears under its name only when it is whole; the archive of an interrupted unpacking is
    used again. Raises UserError where the network, the checksum or the disk fails.
    """
    done = cache / "food-101"
    if done.is_dir():
        return done
    from torchvision.datasets import Food101

    # torchvision takes a half-unpacked folder for a whole one, so it may only ever see one of its own making.
    staging = cache / "food-101.partial"
    shutil.rmtree(staging / "food-101", ignore_errors=True)
    waits = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE_S)
    try:
        staging.mkdir(parents=True, exist_ok=True)
        Food101(str(staging), split="train", download=True)
        os.sync()  # 101,000 files, whose names may reach the disk before what is in them
        (staging / "food-101").rename(done)
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        with contextlib.suppress(OSError):
            staging.rmdir()
        # urllib's errors are OSErrors, a wrong checksum is torchvision's RuntimeError.
        why = " ".join(str(getattr(error, "reason", error)).split())
        raise mendable(error, staging, "set FASTTRAIN_CACHE to a folder with room for it") or UserError(
            f"Food-101 can't be downloaded into {cache} ({why}): {_INSTEAD}"
        ) from error
    finally:
        socket.setdefaulttimeout(waits)
    shutil.rmtree(staging)
    return done
