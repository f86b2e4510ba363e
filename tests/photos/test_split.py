from __future__ import annotations

import numpy as np

from fasttrain.photos import split
from fasttrain.photos.source import VAL
from fasttrain.photos.split import shuffled


def stratified_split(of: np.ndarray, val_fraction: float, seed: int) -> np.ndarray:
    """bool [n]: which photographs validate."""
    return split.stratified_split(of, val_fraction, seed) == VAL


def labels(*counts: int) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts).astype(np.int32)


def test_golden() -> None:
    """Pinned: another choice would make every validation score incomparable with the last release's."""
    assert np.flatnonzero(stratified_split(labels(10, 7, 5), 0.3, seed=0)).tolist() == [2, 4, 6, 14, 16, 18, 19]
    assert shuffled(12, seed=0, block=1).tolist() == [10, 11, 2, 9, 3, 1, 6, 4, 5, 8, 7, 0]


def test_share_of_each_class() -> None:
    of = labels(1, 2, 3, 10, 750)
    chosen = stratified_split(of, 0.2, seed=3)
    assert np.bincount(of[chosen], minlength=5).tolist() == [0, 1, 1, 2, 150]
    assert not stratified_split(of, 0.0, seed=3).any()
    assert np.bincount(of[stratified_split(of, 0.99, seed=3)], minlength=5).tolist() == [0, 1, 2, 9, 742]


def test_seed_matters_and_other_classes_do_not() -> None:
    of = labels(50, 50)
    assert (stratified_split(of, 0.2, 0) != stratified_split(of, 0.2, 1)).any()
    grown = labels(80, 50)
    assert (stratified_split(of, 0.2, 0)[50:] == stratified_split(grown, 0.2, 0)[80:]).all()


def test_order_of_labels_does_not_change_the_shares() -> None:
    of = np.random.default_rng(0).permutation(labels(30, 40, 50)).astype(np.int32)
    assert np.bincount(of[stratified_split(of, 0.2, 0)]).tolist() == [6, 8, 10]


def test_shuffled_is_a_permutation_that_mixes() -> None:
    order = shuffled(1000, seed=5, block=0)
    assert sorted(order.tolist()) == list(range(1000))
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1
    assert (order != shuffled(1000, seed=5, block=1)).any()
    assert len(shuffled(0, seed=5, block=0)) == 0
