"""Find a Hugging Face data set on this machine or on the Hub, and the split of each of its files."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fasttrain.config.location import user_path
from fasttrain.errors import UserError
from fasttrain.photos.data_files import CARD, Card, DataFile, choose_files, read_card, saved_features
from fasttrain.photos.hub import HUB, download
from fasttrain.photos.row_files import SUFFIXES, Features
from fasttrain.photos.source import UNDECIDED
from fasttrain.photos.split_names import split_of

_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"
_EXAMINED = 64  # entries of a folder that are searched for files of rows


def is_saved(folder: Path) -> bool:
    """Return whether `folder` holds a data set that `datasets` saved."""
    return any((folder / name).is_file() for name in (_SAVED, _SAVED_SPLITS))


@dataclass(frozen=True)
class DataSet:
    """A data set on this machine.

    - `root`: its folder, or its only file. The name of that file in `files` is then "".
    - `files`: its Parquet and Arrow files.
    - `features`: the description of each column, from its card or its dataset_info.json.
    - `config`: the name of its configuration, or None if it has no configurations.
    """

    root: Path
    name: str
    files: list[DataFile]
    features: Features
    config: str | None = None


def find_data_set(source: str) -> DataSet:
    """Return the data set at `source`, after downloading it if it is on the Hub.

    Raises UserError if the data set can't be downloaded, if its metadata don't name its files, or if it has several
    configurations and the user chose none.
    """
    if source.startswith(HUB):
        there = download(source)
        name = source.removeprefix(HUB).replace("/", "-").replace(":", "-")
        return DataSet(there.root, name, there.files, _features(there.card, there.config), there.config)
    path = user_path(source)
    if path.is_file():
        return DataSet(path, path.name, [DataFile("", UNDECIDED)], saved_features(path.parent))
    name = path.resolve().name
    if (path / _SAVED_SPLITS).is_file():
        splits = _json(path / _SAVED_SPLITS).get("splits")
        if not isinstance(splits, list) or not all(isinstance(split, str) for split in splits):
            raise UserError(f"{path / _SAVED_SPLITS} names no splits; save the data set again with `save_to_disk`")
        files = [
            DataFile(f"{split}/{file}", known if (known := split_of(split)) is not None else UNDECIDED)
            for split in splits
            for file in _saved(path / split)
        ]
        return DataSet(path, name, files, saved_features(path / splits[0]) if splits else {})
    if (path / _SAVED).is_file():
        return DataSet(path, name, [DataFile(file, UNDECIDED) for file in _saved(path)], saved_features(path))
    card = read_card(path / CARD)
    names = [each.relative_to(path).as_posix() for each in row_files(path, every=True)]
    files, config = choose_files(names, card, None, f"--source {path}", "a folder that holds only one")
    return DataSet(path, name, files, {**saved_features(path), **_features(card, config)}, config)


def _saved(folder: Path) -> list[str]:
    """Return the names of the files that `Dataset.save_to_disk` wrote into a folder."""
    state = _json(folder / _SAVED)
    if state.get("_indices_data_files"):
        raise UserError(
            f"{folder}: its rows are a selection by indices; call `flatten_indices()` and save the data set again"
        )
    try:
        return [PurePosixPath(each["filename"]).name for each in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / _SAVED} names no data files; save the data set again") from error


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises UserError if the file is missing or doesn't hold an object."""
    try:
        plain = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: missing or not JSON; save the data set again with `save_to_disk`") from error
    if not isinstance(plain, dict):
        raise UserError(f"{path}: not a JSON object; save the data set again with `save_to_disk`")
    return plain


def _features(card: Card, config: str) -> Features:
    """Return the features of a configuration from a card."""
    return {**card.features.get("", {}), **card.features.get(config, {})}


def row_files(folder: Path, *, every: bool = False) -> Iterator[Path]:
    """Yield the Parquet and Arrow files in a folder and its subfolders, two levels deep.

    Unless `every` is True, only the first entries of each folder are examined, because class folders may hold millions
    of photographs.
    """
    level = [folder] if folder.is_dir() else []
    for _ in range(3):
        below: list[Path] = []
        for each in level:
            with os.scandir(each) as entries:
                some = sorted(itertools.islice(entries, None if every else _EXAMINED), key=lambda entry: entry.name)
            for entry in some:
                if entry.name[0] == ".":
                    continue
                if entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                    yield Path(entry.path)
                elif entry.is_dir():
                    below.append(Path(entry.path))
        level = below if every else below[:_EXAMINED]
