"""Find the files of a Hugging Face data set and their splits, by its card, its folders and the files' names."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fasttrain.errors import UserError
from fasttrain.photos.row_files import SUFFIXES, Features
from fasttrain.photos.source import TRAIN, UNDECIDED, few
from fasttrain.photos.split_names import split_of
from fasttrain.photos.walk import Ignored
from fasttrain.text import nearest

CARD = "README.md"
_DEFAULT = "default"
_NUMBERED = re.compile(r"(-\d+)?(-of-\d+)?(-[0-9a-f]{16})?$")  # train-00000-of-00003-0123456789abcdef


@dataclass(frozen=True)
class DataFile:
    """A file of a data set: its path, with slashes, and its split."""

    name: str
    split: int


@dataclass(frozen=True)
class Card:
    """The metadata at the beginning of a data set's README.md.

    - `files`: for each configuration, pairs of a split's name and a file pattern. The name is None if the card gives
      no split for the pattern.
    - `default`: the configuration to use if the user names none.
    - `features`: the features of each configuration; those under "" apply to all.
    """

    files: dict[str, list[tuple[str | None, str]]] = field(default_factory=dict)
    default: str = _DEFAULT
    features: dict[str, Features] = field(default_factory=dict)


def choose_files(
    names: Sequence[str], card: Card, config: str | None, where: str, how: str
) -> tuple[list[DataFile], str]:
    """Return the Parquet and Arrow files of one configuration, and the configuration's name.

    `names` are all files of the data set. `config` is the configuration that the user chose, or None. In messages,
    `where` is the name of the data set, and `how` tells the user how to choose a configuration. Raises UserError if
    `config` does not exist, or if the user chose none of several configurations.
    """
    found = [name for name in names if name.lower().endswith(SUFFIXES) and not re.search(r"(^|/)[._]", name)]
    given = {
        each: files
        for each, patterns in card.files.items()
        if (files := [(name, split) for split, pattern in patterns for name in found if _matches(name, pattern)])
    }
    by_config: dict[str, list[tuple[str, str | None]]] = given
    if not given:
        for name in found:
            by_config.setdefault(_config_of(name), []).append((name, None))
    if not by_config:
        return [], config or _DEFAULT
    chosen = _chosen(list(by_config), config, card.default, where, how)
    splits = {name: _split(name, split) for name, split in by_config[chosen]}
    if partial := next((name for name in splits if "/partial-" in f"/{name}"), None):
        raise UserError(
            f"{where}: the Hub has converted only the first 5 GB to Parquet ({partial}); download the data set, and "
            "give its folder"
        )
    return [DataFile(name, split) for name, split in sorted(splits.items())], chosen


def without_other_splits(files: list[DataFile], where: str) -> tuple[list[DataFile], list[Ignored]]:
    """Return the files that belong to a split, and (name, reason) of the others.

    If no file is named after a split, all are returned. Raises UserError if there are no training files.
    """
    if all(file.split == UNDECIDED for file in files):
        return files, []
    if not any(file.split == TRAIN for file in files):
        raise UserError(
            f"{where} has no training split, only {few([file.name for file in files])}; give a data set that has one"
        )
    kept = [file for file in files if file.split != UNDECIDED]
    return kept, [
        (file.name, "belongs to no split: neither train, validation nor test") for file in files if file not in kept
    ]


def read_card(path: Path) -> Card:
    """Read the metadata of a README.md. Returns an empty card if the file has no metadata, or if they can't be read."""
    import yaml

    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return Card()
    found = re.match(r"\ufeff?---\r?\n(.*?)\r?\n---\s", text, re.DOTALL)
    try:
        plain = yaml.safe_load(found[1]) if found else None
        return _card(plain) if isinstance(plain, dict) else Card()
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return Card()


def saved_features(folder: Path) -> Features:
    """Return the features in the dataset_info.json in `folder`, which `datasets` saves next to the rows.

    Return an empty dict if the file is missing or invalid.
    """
    try:
        found = json.loads((folder / "dataset_info.json").read_bytes())["features"]
        return {name: each for name, each in found.items() if isinstance(each, dict)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _card(plain: dict[str, Any]) -> Card:
    """Return the card for the metadata of a README.md."""
    files: dict[str, list[tuple[str | None, str]]] = {}
    default = _DEFAULT
    for each in plain.get("configs") or []:
        name = str(each.get("config_name", _DEFAULT))
        files[name] = list(_patterns(each.get("data_files") or each.get("data_dir")))
        if each.get("default"):
            default = name
    infos = plain.get("dataset_info") or []
    features = {
        str(info.get("config_name", "")): {each["name"]: _feature(each) for each in info.get("features") or []}
        for info in ([infos] if isinstance(infos, dict) else infos)
    }
    return Card(files, default, features)


def _patterns(given: Any, split: str | None = None) -> list[tuple[str | None, str]]:
    """Return the pairs of split and pattern in a card's description of files."""
    if isinstance(given, str):
        return [(split, given)]
    if isinstance(given, dict) and "path" in given:
        return _patterns(given["path"], given.get("split", split))
    if isinstance(given, dict):
        return [pair for name, each in given.items() for pair in _patterns(each, str(name))]
    return [pair for each in given or [] for pair in _patterns(each, split)]


def _feature(given: dict[str, Any]) -> dict[str, Any]:
    """Return a card's description of a column in the form that `datasets` uses in its files."""
    for outer in ("sequence", "list"):
        if isinstance(inner := given.get(outer), dict):
            return {"_type": "Sequence", "feature": _feature({"dtype": inner})}
    kind = given.get("dtype")
    if isinstance(kind, dict) and "class_label" in kind:
        names = kind["class_label"]["names"]
        return {"_type": "ClassLabel", "names": [names[key] for key in sorted(names, key=int)]}
    return {"_type": "Image" if kind == "image" else "Audio" if kind == "audio" else "Value"}


def _matches(name: str, pattern: str) -> bool:
    """Return whether a file matches a pattern of a card."""
    pattern = pattern.removeprefix("./")
    options = (pattern, pattern.replace("**/", ""), f"{pattern.rstrip('/')}/*")
    return any(fnmatch.fnmatchcase(name, each) for each in options)


def _config_of(name: str) -> str:
    """Return the configuration of a file: its first folder that is neither "data" nor a split, as on the Hub."""
    folders = [part for part in name.split("/")[:-1] if part != "data" and _split_in_name(part) is None]
    return folders[0] if folders else _DEFAULT


def _chosen(configs: list[str], given: str | None, default: str, where: str, how: str) -> str:
    """Return the configuration to use. Raises UserError if the one that the user chose does not exist, or if the user
    chose none of several."""
    if given is not None and given not in configs:
        hint = nearest(given, configs)
        raise UserError(f"{where} has no configuration '{given}', only {', '.join(configs)[:200]}{hint}")
    chosen = given or (configs[0] if len(configs) == 1 else default)
    if chosen not in configs:
        raise UserError(f"{where} has several configurations ({', '.join(configs)[:200]}); give {how}")
    return chosen


def _split(name: str, given: str | None) -> int:
    """Return the split of a file by the name that its card gives, or by its path."""
    parts = [given] if given else list(reversed(name.rpartition(".")[0].split("/")))
    return next((split for each in parts if (split := _split_in_name(each)) is not None), UNDECIDED)


def _split_in_name(part: str) -> int | None:
    """Return the split in the name of a file or folder, such as `train-00000-of-00003` or `food101-train`, or None."""
    stem = _NUMBERED.sub("", part)
    return next((split for each in (stem, stem.rpartition("-")[2]) if (split := split_of(each)) is not None), None)
