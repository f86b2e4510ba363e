"""Where photographs come from: a folder in one of three layouts, Food-101, or the drawn sample."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasttrain.config.location import NoSuchHome, user_path
from fasttrain.errors import UserError, of_os
from fasttrain.photos.walk import Found, Ignored, is_folder, walk
from fasttrain.text import read_text

TRAIN, VAL, TEST, UNDECIDED = 0, 1, 2, -1
SPLIT_FOLDERS = {"train": TRAIN, "val": VAL, "validation": VAL, "valid": VAL, "test": TEST}


@dataclass(frozen=True)
class Source:
    """The photographs of a data set, sorted by path.

    kind: "food101", "folder" or "sample". paths: relative to `root`, with slashes. labels: int32 [n],
    positions in `classes`. splits: int8 [n], 0 train, 1 val, 2 test, -1 where `convert` decides between train
    and val. ignored: (path, reason) of what lies there and is no photograph. fingerprint: "sha256:" and the
    hash of all (path, size in bytes, split). local_state: the same of all (path, size, split, `walk.Found.stamp`);
    it differs between copies of the photographs, and changes with each of them.
    """

    kind: str
    name: str
    root: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: NDArray[np.int32]
    splits: NDArray[np.int8]
    ignored: tuple[Ignored, ...]
    fingerprint: str
    local_state: str = ""

    def summary(self) -> SourceSummary:
        """What the manifest says of the source."""
        return SourceSummary(self.kind, self.name, self.classes, len(self.paths), self.ignored, self.fingerprint)


@dataclass(frozen=True)
class SourceSummary:
    """As in `Source`; `photos` is their number."""

    kind: str
    name: str
    classes: tuple[str, ...]
    photos: int
    ignored: tuple[Ignored, ...]
    fingerprint: str


@dataclass(frozen=True)
class _Photo:
    path: str
    name: str  # of the class
    split: int
    size: int
    stamp: tuple[int, int, int] = (0, 0, 0)


def cache_root() -> Path:
    """`$FASTTRAIN_CACHE`, or `~/.cache/fasttrain`. Raises UserError where there is no home folder."""
    if given := os.environ.get("FASTTRAIN_CACHE"):
        return user_path(given)
    try:
        return user_path("~/.cache/fasttrain")
    except NoSuchHome as error:
        raise UserError(
            "this account has no home folder to keep a cache in; set FASTTRAIN_CACHE to a folder that can be written"
        ) from error


def open_source(source: str | Path, least_classes: int = 2, *, skip_empty_classes: bool = False) -> Source:
    """Lists `source`: "food101" (downloaded into the cache), "sample" (drawn into it), or a folder.

    A folder holds class folders; or Food-101's `images/`, `meta/train.txt` and `meta/test.txt`; or `train/`
    and any of `val/` (or `validation/`, `valid/`) and `test/`, each with class folders. Hidden files are
    passed over, links followed, no folder read twice. `least_classes`: 1 where photographs of a single class will do.
    Raises UserError, one line, where that isn't what lies there, or Food-101 can't be downloaded, or all files of a
    class are left out and not `skip_empty_classes`.
    """
    found = _open(source)
    if not skip_empty_classes:
        _require_all_classes(found)
    if len(found.classes) < least_classes:
        raise UserError(_one_class(found))
    return found


def divides_itself(folder: Path) -> bool:
    """Return whether `folder` says which of its photographs validate or test: by `val/`, `test/` or Food-101's `meta/`.

    Raises UserError where it can't be read.
    """
    try:
        return _is_food101(folder) or any(split != TRAIN for split in _split_folders(folder).values())
    except OSError as error:
        raise of_os(error, mend="make it readable") from error


def require_known(classes: Sequence[str], known: Sequence[str], where: str | Path) -> None:
    """Raise UserError if one of `classes`, those of the photographs in `where`, is none of the model's, `known`."""
    names = set(known)
    unknown = [name for name in classes if name not in names]
    if not unknown:
        return
    inner = next((name for name in unknown if any((Path(where) / name / each).is_dir() for each in known)), None)
    mend = f"did you mean --data {Path(where) / inner}?" if inner else f"the model's are {_few(sorted(known))}"
    which = "a class" if len(unknown) == 1 else "classes"
    raise UserError(f"{where} holds photographs of {which} that the model doesn't know ({_few(unknown)}); {mend}")


def _open(source: str | Path) -> Source:
    if source == "food101":
        from fasttrain.photos.food101 import download_food101

        return _food101(download_food101(cache_root()), "food101", "food101")
    if source == "sample":
        from fasttrain.photos.sample import cached_sample

        return _class_folders(cached_sample(cache_root()), "sample", "sample")
    root = user_path(source)
    try:
        return _open_folder(root)
    except OSError as error:
        raise of_os(error, mend="make it readable, or take it out of the source") from error


def _open_folder(root: Path) -> Source:
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(f"--source {root} {what}; give a folder of class folders, `sample` or `food101`")
    if (root / "manifest.json").exists():
        raise UserError(f"--source {root} holds shards already; train on them: fasttrain train --data {root}")
    name = root.resolve().name
    if _is_food101(root):
        return _food101(root, "folder", name)
    if splits := _split_folders(root):
        return _split_layout(root, name, splits)
    return _class_folders(root, "folder", name)


def _is_food101(root: Path) -> bool:
    meta = (root / "meta" / f"{part}.txt" for part in ("train", "test"))
    return (root / "images").is_dir() and all(file.is_file() for file in meta)


def _split_folders(root: Path) -> dict[str, int]:
    folders = {name: SPLIT_FOLDERS[name] for name in _folders(root) if name in SPLIT_FOLDERS}
    if "train" not in folders or not _folders(root / "train"):
        return {}
    return folders if len(folders) > 1 or len(_folders(root)) == 1 else {}


def _class_folders(root: Path, kind: str, name: str) -> Source:
    names = _folders(root)
    beside = _beside(root)
    if not names:
        photos = [path for path, reason in beside if reason == _NO_CLASS]
        where = f"{len(photos):,} photographs but no class folders" if photos else "no class folders"
        raise UserError(f"--source {root} holds {where}; give each class a folder of its own")
    listed = _walk_classes(root, "", names, UNDECIDED)
    classes = _used_classes(root, names, listed)
    empty = [(f"{name}/", _EMPTY) for name in names if name not in classes]
    return _source(kind, name, root, classes, listed.photos, [*beside, *listed.ignored, *empty])


def _split_layout(root: Path, name: str, splits: dict[str, int]) -> Source:
    if len(set(splits.values())) < len(splits):
        raise UserError(f"--source {root} holds {', '.join(splits)}: keep one folder for validation")
    photos: list[_Photo] = []
    ignored = _beside(root)
    ignored += [(f"{other}/", "beside train/") for other in _folders(root) if other not in splits]
    names = _folders(root / "train")
    for folder, split in splits.items():
        # Without a val folder, validation photographs are taken out of train/, never out of test/.
        undecided = split == TRAIN and VAL not in splits.values()
        here = _folders(root / folder)
        listed = _walk_classes(root, f"{folder}/", here, UNDECIDED if undecided else split)
        photos += listed.photos
        ignored += [*_beside(root, folder), *listed.ignored]
    learnt = [photo for photo in photos if photo.split in (TRAIN, UNDECIDED)]
    classes = _used_classes(root / "train", names, _Listed(learnt, ignored))
    for photo in photos:
        if photo.name not in classes:
            raise UserError(f"{root / photo.path}: train/ holds no photographs of its class, {photo.name!r}")
    ignored += [(f"train/{name}/", _EMPTY) for name in names if name not in classes]
    return _source("folder", name, root, classes, photos, ignored)


def _food101(base: Path, kind: str, name: str) -> Source:
    root = base / "images"
    named = {
        line.strip(): split
        for part, split in (("train", UNDECIDED), ("test", TEST))
        for line in read_text(base / "meta" / f"{part}.txt").splitlines()
        if line.strip()
    }
    listed = _walk_classes(root, "", _folders(root), UNDECIDED)
    sizes = {os.path.splitext(photo.path)[0]: photo for photo in listed.photos}  # noqa: PTH122 - a million times
    photos = []
    for stem, split in named.items():
        photo = sizes.pop(stem, None)
        path = photo.path if photo else f"{stem}.jpg"
        photos.append(_Photo(path, stem.partition("/")[0], split, *((photo.size, photo.stamp) if photo else (-1,))))
    ignored = [(photo.path, "not named in meta/train.txt or meta/test.txt") for photo in sizes.values()]
    learnt = [photo for photo in photos if photo.split == UNDECIDED]
    classes = _used_classes(root, sorted({photo.name for photo in photos}), _Listed(learnt, listed.ignored))
    for photo in photos:
        if photo.name not in classes:
            raise UserError(f"{base / 'meta' / 'test.txt'}: class {photo.name!r} is not in meta/train.txt")
    return _source(kind, name, root, classes, photos, [*listed.ignored, *ignored])


_NO_CLASS, _EMPTY = "not in a class folder", "empty class"


@dataclass(frozen=True)
class _Listed:
    photos: list[_Photo]
    ignored: list[Ignored]


def _walk_classes(root: Path, prefix: str, names: list[str], split: int) -> _Listed:
    photos: list[_Photo] = []
    ignored: list[Ignored] = []
    seen: set[tuple[int, int]] = set()
    base = os.path.realpath(root / prefix)
    aliases = {name: os.path.realpath(root / prefix / name) for name in names if (root / prefix / name).is_symlink()}
    real = set(names) - set(aliases)

    def read_as(target: str, here: str) -> str | None:
        inside = os.path.relpath(target, base)
        if os.path.commonpath([target, base]) == target:
            return f"{target}, a folder above"
        first, *others = Path(inside).parts
        if first not in real or (first == here and os.path.isfile(target)):  # noqa: PTH113 - a million times
            return None
        return None if any(part[0] == "." for part in others) else prefix + inside

    for name in names:
        if name in aliases and (own := read_as(aliases[name], name)):
            ignored.append((f"{prefix}{name}/", f"a link to {own}, which is read under its own name"))
            continue
        for found in walk(root, f"{prefix}{name}", seen, own_name=functools.partial(read_as, here=name)):
            if isinstance(found, Found):
                photos.append(_Photo(found.path, name, split, found.size, found.stamp))
            else:
                ignored.append(found)
    return _Listed(photos, ignored)


def _used_classes(root: Path, names: list[str], listed: _Listed) -> tuple[str, ...]:
    for name in names:
        if not name.isprintable():
            raise UserError(f"--source {root}: the class folder's name {name!r} isn't printable UTF-8; rename it")
    used = {photo.name for photo in listed.photos}
    classes = tuple(name for name in names if name in used)
    if not classes:
        why = f": {_reasons([reason for _, reason in listed.ignored])}" if listed.ignored else ""
        raise UserError(f"--source {root} holds class folders ({_few(names)}) but no photographs in them{why}")
    return classes


def _require_all_classes(source: Source) -> None:
    """Raise UserError where a class folder holds files, and all of them are left out."""
    empty = [path for path, reason in source.ignored if reason == _EMPTY]
    for folder in empty:
        inside = [reason for path, reason in source.ignored if path.startswith(folder) and reason != _EMPTY]
        if inside:
            raise UserError(
                f"{source.root / folder}: every file of this class is left out ({_reasons(inside)}); make them "
                "readable, take the folder out of the source, or give `convert --skip-empty-classes`"
            )


def _reasons(reasons: list[str]) -> str:
    found = Counter(reasons).most_common(2)
    return "; ".join(f"{count:,} x {reason}" for reason, count in found) + (" …" if len(set(reasons)) > 2 else "")


def _one_class(source: Source) -> str:
    inner = source.root / source.classes[0]
    mend = f"did you mean --source {inner}?" if inner.is_dir() and _folders(inner) else "a classifier needs two"
    return f"--source {source.root} holds photographs of one class only, {source.classes[0]!r}; {mend}"


def _source(
    kind: str, name: str, root: Path, classes: tuple[str, ...], photos: list[_Photo], ignored: list[Ignored]
) -> Source:
    photos = sorted(photos, key=lambda photo: photo.path)
    label = {name: number for number, name in enumerate(classes)}
    digest, local = hashlib.sha256(), hashlib.sha256()
    for photo in photos:
        line = os.fsencode(photo.path) + b"\0%d\0%d\n" % (photo.size, photo.split)
        digest.update(line)
        local.update(line + b"%d\0%d\0%d\n" % photo.stamp)
    return Source(
        kind,
        name,
        root,
        classes,
        tuple(photo.path for photo in photos),
        np.array([label[photo.name] for photo in photos], dtype=np.int32),
        np.array([photo.split for photo in photos], dtype=np.int8),
        tuple(sorted(ignored)),
        f"sha256:{digest.hexdigest()}",
        f"sha256:{local.hexdigest()}",
    )


def _folders(root: Path) -> list[str]:
    """Names of the folders in `root`, sorted, without hidden ones."""
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.name[0] != "." and is_folder(entry))


def _beside(root: Path, start: str = "") -> list[Ignored]:
    """What lies loose beside the class folders."""
    loose = walk(root, start, set(), recurse=False)
    return [(item.path, _NO_CLASS) if isinstance(item, Found) else item for item in loose]


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
