"""Find the split of each file in a Hugging Face data set: by its card, by its folders, and by the files' names."""

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
    """A file by its path in the data set, with slashes, and its split."""

    name: str
    split: int


@dataclass(frozen=True)
class Card:
    """The front matter of a data set's README.md.

    `files`: for each configuration, its file patterns, each with the split's name or None. `default`: the
    configuration to use if none is named. `features`: those of each configuration; "" applies to all.
    """

    files: dict[str, list[tuple[str | None, str]]] = field(default_factory=dict)
    default: str = _DEFAULT
    features: dict[str, Features] = field(default_factory=dict)


def choose_files(
    names: Sequence[str], card: Card, config: str | None, where: str, how: str
) -> tuple[list[DataFile], str]:
    """Return the files of rows among all files of a data set, and the name of their configuration.

    Raises UserError, which names `where`, for a configuration that does not exist, or if one must be chosen. `how`
    says what to give then.
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
            f"{where}: the Hub converted only the first 5 GB to Parquet ({partial}); download the data set, and give "
            "its folder"
        )
    return [DataFile(name, split) for name, split in sorted(splits.items())], chosen


def without_other_splits(files: list[DataFile], where: str) -> tuple[list[DataFile], list[Ignored]]:
    """Leave out files without a split in their name, if others have one. Raises UserError if none is for training."""
    if all(file.split == UNDECIDED for file in files):
        return files, []
    if not any(file.split == TRAIN for file in files):
        raise UserError(
            f"{where} has no training split, only {few([file.name for file in files])}; give a data set with one"
        )
    kept = [file for file in files if file.split != UNDECIDED]
    return kept, [
        (file.name, "belongs to no split: neither train, validation nor test") for file in files if file not in kept
    ]


def read_card(path: Path) -> Card:
    """Read a README.md's front matter. Returns an empty card if there is none, or if it can't be read."""
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
    """Return the features in the dataset_info.json that `datasets` saves next to the rows, or none."""
    try:
        found = json.loads((folder / "dataset_info.json").read_bytes())["features"]
        return {name: each for name, each in found.items() if isinstance(each, dict)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _card(plain: dict[str, Any]) -> Card:
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
    if isinstance(given, str):
        return [(split, given)]
    if isinstance(given, dict) and "path" in given:
        return _patterns(given["path"], given.get("split", split))
    if isinstance(given, dict):
        return [pair for name, each in given.items() for pair in _patterns(each, str(name))]
    return [pair for each in given or [] for pair in _patterns(each, split)]


def _feature(given: dict[str, Any]) -> dict[str, Any]:
    """Return a column of a card in the form that `datasets` uses in its files."""
    for outer in ("sequence", "list"):
        if isinstance(inner := given.get(outer), dict):
            return {"_type": "Sequence", "feature": _feature({"dtype": inner})}
    kind = given.get("dtype")
    if isinstance(kind, dict) and "class_label" in kind:
        names = kind["class_label"]["names"]
        return {"_type": "ClassLabel", "names": [names[key] for key in sorted(names, key=int)]}
    return {"_type": "Image" if kind == "image" else "Audio" if kind == "audio" else "Value"}


def _matches(name: str, pattern: str) -> bool:
    pattern = pattern.removeprefix("./")
    options = (pattern, pattern.replace("**/", ""), f"{pattern.rstrip('/')}/*")
    return any(fnmatch.fnmatchcase(name, each) for each in options)


def _config_of(name: str) -> str:
    """Return the first folder that is neither "data" nor a split. The Hub has a folder for each configuration."""
    folders = [part for part in name.split("/")[:-1] if part != "data" and _split_word(part) is None]
    return folders[0] if folders else _DEFAULT


def _chosen(configs: list[str], given: str | None, default: str, where: str, how: str) -> str:
    if given is not None and given not in configs:
        hint = nearest(given, configs)
        raise UserError(f"{where} has no configuration '{given}', only {', '.join(configs)[:200]}{hint}")
    chosen = given or (configs[0] if len(configs) == 1 else default)
    if chosen not in configs:
        raise UserError(f"{where} has several configurations ({', '.join(configs)[:200]}); give {how}")
    return chosen


def _split(name: str, given: str | None) -> int:
    words = [given] if given else list(reversed(name.rpartition(".")[0].split("/")))
    return next((split for each in words if (split := _split_word(each)) is not None), UNDECIDED)


def _split_word(part: str) -> int | None:
    """Return the split in a file's or folder's name: `train-00000-of-00003`, `food101-train`."""
    stem = _NUMBERED.sub("", part)
    return next((split for each in (stem, stem.rpartition("-")[2]) if (split := split_of(each)) is not None), None)
