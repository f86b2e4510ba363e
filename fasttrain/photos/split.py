"""Draw the validation and test photographs, and the order of photographs in the shards.

Both use the random integers of NumPy's `Philox` (Salmon et al., SC 2011) and a stable argsort. `Generator.permutation`
isn't used, because its results may change between NumPy releases, and with them everyone's validation scores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fasttrain.errors import UserError
from fasttrain.photos.group_split import place_groups, shares_of
from fasttrain.photos.label_bits import members
from fasttrain.photos.set_split import place_sets
from fasttrain.photos.source import TEST, TRAIN, UNDECIDED, VAL, Source

_VALIDATION_STREAM = 1 << 62
_ORDER_STREAM = _VALIDATION_STREAM + 1


def decide_splits(
    source: Source, val_fraction: float, test_fraction: float, seed: int, held: NDArray[np.int8] | None = None
) -> NDArray[np.int8]:
    """Return the split of each photograph, int8 [n], 0 train, 1 val, 2 test.

    A photograph keeps the split that the source gives it. If the source gives none (-1), the split is drawn:
    `val_fraction` and `test_fraction`, both in [0, 1), are the shares of each class to draw, and `seed` is in [0,
    2**63). If the source has no test photographs, its training photographs may be drawn for testing. Photographs of a
    group stay together.

    `held`, int8 [n], has the splits of an earlier conversion, which are kept, and -1 for new photographs. A new
    photograph goes to the held split of its group. If its group has none, it goes to the split that lacks most
    photographs of its class. Raises UserError if the source has photographs of one group in two splits.
    """
    held = np.full(len(source.paths), UNDECIDED, np.int8) if held is None else _held_groups(source, held)
    splits = _joined(source, np.where(held == UNDECIDED, source.splits, held))
    fractions = (val_fraction, 0.0 if (source.splits == TEST).any() else test_fraction)
    before = np.where(held == UNDECIDED, splits, source.splits)
    for candidates, (val, test) in ((UNDECIDED, fractions), (TRAIN, (0.0, fractions[1]))):
        rows = np.flatnonzero(before == candidates)
        if not len(rows) or (candidates == TRAIN and not test):
            continue
        labels = source.labels[rows]
        if source.groups or source.multi_label:
            names = source.groups or [""] * len(source.paths)
            groups = [names[row] or f"\0{row}" for row in rows.tolist()]
            order = _shuffle(len(rows), seed, _VALIDATION_STREAM, 0)
        if source.multi_label:
            sets = [members(each) for each in labels]
            splits[rows] = place_sets(groups, sets, val, test, order, held[rows])
        elif source.groups:
            splits[rows] = place_groups(groups, labels.astype(np.int32), val, test, order, held[rows])
        else:
            splits[rows] = stratified_split(labels.astype(np.int32), val, seed, test, held[rows])
    return splits


def _held_groups(source: Source, held: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return `held` with all photographs of a group in the split of those that are held.

    Photographs that the source puts into val or test are not changed.
    """
    held = held.copy()
    split_of = {group: int(held[row]) for row, group in enumerate(source.groups) if group and held[row] != UNDECIDED}
    for row, group in enumerate(source.groups):
        if group in split_of and held[row] == UNDECIDED and source.splits[row] in (UNDECIDED, TRAIN):
            held[row] = split_of[group]
    return held


def _joined(source: Source, splits: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return `splits` with undecided photographs in the split of their group. Raises UserError for a group in two
    splits."""
    splits = splits.copy()
    fixed: dict[str, int] = {}
    for row, group in enumerate(source.groups):
        split = int(splits[row])
        if group and split != UNDECIDED and fixed.setdefault(group, split) != split:
            other = next(each for each, name in enumerate(source.groups) if name == group and splits[each] != split)
            raise UserError(
                f"--group-by: {source.paths[other]} and {source.paths[row]} are in one group, but the source has them "
                "in two splits; move one, or leave out --group-by"
            )
    for row, group in enumerate(source.groups):
        if splits[row] == UNDECIDED and group in fixed:
            splits[row] = fixed[group]
    return splits


def stratified_split(
    labels: NDArray[np.int32],
    val_fraction: float,
    seed: int,
    test_fraction: float = 0.0,
    held: NDArray[np.int8] | None = None,
) -> NDArray[np.int8]:
    """Return the split of each photograph, int8 [n], 0 train, 1 val, 2 test, drawn separately for each class.

    `labels` is int32 [n], `seed` is in [0, 2**63), and the fractions are in [0, 1). If a class has n photographs,
    round(n * val_fraction) of them go to the validation split: at least one if the fraction is not 0, and at most
    n - 1. Then round(n * test_fraction) of the remaining ones go to the test split by the same rule, so that at least
    one photograph is left for training. `test_fraction` does not change the validation split, and a class's draw does
    not change if other classes gain photographs. Photographs with a split in `held` (see `decide_splits`) keep it, and
    count as drawn.
    """
    held = np.full(len(labels), UNDECIDED, dtype=np.int8) if held is None else held
    splits = np.where(held == UNDECIDED, np.int8(TRAIN), held)
    if not val_fraction and not test_fraction:
        return splits
    by_class = np.argsort(labels, kind="stable")
    names, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    for label, start, count in zip(names.tolist(), starts.tolist(), counts.tolist(), strict=True):
        validate, test = shares_of(count, val_fraction, test_fraction)
        rows = by_class[start : start + count]
        validate, test = (max(n - int((held[rows] == split).sum()), 0) for n, split in ((validate, VAL), (test, TEST)))
        rows = rows[held[rows] == UNDECIDED]
        rows = rows[_shuffle(len(rows), seed, _VALIDATION_STREAM, label)]
        splits[rows[:validate]] = VAL
        splits[rows[validate : validate + test]] = TEST
    return splits


def shuffled(count: int, seed: int, block: int) -> NDArray[np.int64]:
    """Return a random permutation of 0 .. count - 1, int64 [count], which depends on `seed` and `block`."""
    return _shuffle(count, seed, _ORDER_STREAM, block)


def _shuffle(count: int, seed: int, stream: int, block: int) -> NDArray[np.int64]:
    """Return a random permutation for one purpose, `stream`, and one of its parts, `block`."""
    bits = np.random.Philox(
        key=np.array([seed, stream], dtype=np.uint64), counter=np.array([0, block, 0, 0], dtype=np.uint64)
    )
    return np.argsort(bits.random_raw(count), kind="stable").astype(np.int64)
