"""Cross-validation: divide the photographs of train and val into K folds, and use one fold for validation."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
from numpy.typing import NDArray

from fasttrain.config.values import Fold
from fasttrain.errors import UserError
from fasttrain.shards.format import DUPLICATES, SPLIT_FILE, SPLITS
from fasttrain.shards.keys import make_keys
from fasttrain.shards.reader import ShardSet

_TRAIN, _VAL, _TEST = range(len(SPLITS))


class FoldView(ShardSet):
    """Shards with other splits: val is one fold, and train is the rest of the stored train and val splits.

    The test split and the ids of the samples stay unchanged. Unpickling a FoldView gives the shards with their stored
    splits: loader processes get it, and they read samples by ids alone.
    """

    def __init__(self, shards: ShardSet, fold: Fold, seed: int) -> None:
        super().__init__(shards.files)
        self._stored = shards
        folds = fold_of_each(shards, fold.count, seed)
        index = np.array(self.index)
        index["split"] = np.where(folds < 0, _TEST, np.where(folds == fold.number - 1, _VAL, _TRAIN))
        self.index = index

    @property
    def stored(self) -> ShardSet:
        return self._stored


def fold_of_each(shards: ShardSet, folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each sample, int64 [N], counted from 0, or -1 for samples of the test split.

    The photographs of each class are spread evenly over the folds. Photographs of a group share a fold: near-duplicates
    (`convert --keep-duplicates-together`) and the groups of `--group-by`. Raises UserError if there are fewer groups
    than folds, and for multi-label shards.
    """
    if shards.multi_label:
        raise UserError(
            f"{shards.location} is multi-label, and folds need one class per photograph; leave out --fold and --folds "
            "to train on the stored splits"
        )
    ids = np.flatnonzero(shards.index["split"] != _TEST)
    labels = shards.class_numbers(ids)
    groups = groups_of(shards)[ids]
    if len(np.unique(groups)) < folds:
        raise UserError(
            f"{shards.location}: the train and val splits have too few photographs, {len(ids):,}, for {folds} folds; "
            "give fewer folds"
        )
    assigned = np.full(len(shards), -1, np.int64)
    assigned[ids] = assign_folds(labels, groups, folds, len(shards.classes), seed)
    return assigned


def assign_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], folds: int, classes: int, seed: int
) -> NDArray[np.int64]:
    """Distribute n photographs over folds: return the fold of each, int64 [n].

    `labels` and `groups` are int64 [n]. Photographs with the same group get the same fold, and each class is spread as
    evenly as the groups allow.
    """
    generator = np.random.default_rng(seed)
    held = np.zeros((folds, classes), np.int64)
    assigned = np.full(len(labels), -1, np.int64)
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])
    large = generator.permutation(np.flatnonzero(sizes > 1))
    for number in large[
        np.argsort(-sizes[large], kind="stable")
    ].tolist():  # the largest first, as they are the hardest to fit
        counts = np.bincount(labels[members[number]], minlength=classes)
        # Choose the fold with the fewest photographs of the group's classes, and among those the smallest fold.
        fold = int(np.lexsort((held.sum(1), held @ counts))[0])
        assigned[members[number]] = fold
        held[fold] += counts
    alone = generator.permutation(np.flatnonzero(sizes[group] == 1))
    for label in np.unique(labels[alone]).tolist():
        rows = alone[labels[alone] == label]
        levels = (held[:, label][:, None] + np.arange(len(rows))).ravel()  # a fold's count before each added photograph
        fold_of_slot = np.repeat(np.arange(folds), len(rows))
        slots = np.lexsort((fold_of_slot, held.sum(1)[fold_of_slot], levels))[: len(rows)]
        assigned[rows] = fold_of_slot[slots]
        held[:, label] += np.bincount(fold_of_slot[slots], minlength=folds)
    return assigned


def groups_of(shards: ShardSet) -> NDArray[np.int64]:
    """Return the group of each sample, int64 [N]. Samples of a group must stay in the same fold.

    Raises UserError if `convert` grouped photographs by a column of a table, because shards don't store that column.
    """
    from scipy.sparse import coo_array  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    number = {key: sample for sample, key in enumerate(shards.index["key"].tolist())}
    sample_of = {path: number[key] for path, key in keys_of_paths(shards).items() if key in number}
    members: dict[str, list[int]] = {}
    for name, path in [*_duplicates(shards), *_named_groups(shards, list(sample_of))]:
        if path in sample_of:
            members.setdefault(name, []).append(sample_of[path])
    pairs = [(samples[0], each) for samples in members.values() for each in samples[1:]]
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    edges = coo_array((np.ones(len(pairs), np.int8), (first, second)), shape=(len(shards), len(shards)))
    groups: NDArray[np.int64] = connected_components(edges, directed=False)[1].astype(np.int64)
    return groups


def keys_of_paths(shards: ShardSet) -> dict[str, bytes]:
    """Return the key of each photograph of the source, by its path. Returns an empty dict if the shards lack
    `splits.csv`."""
    paths = [row["path"] for row in _table(shards, SPLIT_FILE)]
    return {path: key.encode() for path, key in zip(paths, make_keys(paths), strict=True)}


def _duplicates(shards: ShardSet) -> list[tuple[str, str]]:
    """Return (group, path) of each near-duplicate."""
    return [(f"duplicates {row['group']}", row["path"]) for row in _table(shards, DUPLICATES)]


def _named_groups(shards: ShardSet, paths: list[str]) -> list[tuple[str, str]]:
    """Return (group, path) of each photograph, by the regular expression given to `convert --group-by`."""
    pattern = shards.manifest.settings.get("group_by")
    if not pattern:
        return []
    try:
        compiled = re.compile(str(pattern))
        found = [compiled.search(path) for path in paths]
    except re.error:
        found = [None]
    if not found or not all(each and each[0] for each in found):
        raise UserError(
            f"{shards.location} was converted with --group-by {pattern}, a column that shards don't store, so folds "
            "would split its groups; convert with --group-by PATTERN, a regular expression for the paths"
        )
    names = ["\0".join(each or "" for each in match.groups()) or match[0] for match in found if match]
    return [(f"group {name}", path) for name, path in zip(names, paths, strict=True)]


def _table(shards: ShardSet, name: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file of the shards, or no rows if there is no such file."""
    file = shards.manifest.current(name)
    if file not in shards.manifest.files:
        return []
    text = shards.files.path(file).read_bytes().decode("utf-8", "surrogateescape")
    return list(csv.DictReader(io.StringIO(text, newline="")))
