"""Folds: as many of each class in each as can be, groups kept together, the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasttrain.config.values import Fold
from fasttrain.errors import UserError
from fasttrain.photos.source import SourceOptions
from fasttrain.shards.convert import convert
from fasttrain.shards.folds import FoldView, assign_folds, fold_of_each, groups_of, keys_of_paths
from fasttrain.shards.reader import ShardSet


@given(st.lists(st.integers(0, 3), min_size=5, max_size=60), st.integers(2, 5), st.integers(0, 99))
def test_without_groups_no_fold_has_two_more_of_a_class_or_in_all(labels: list[int], folds: int, seed: int) -> None:
    of = np.array(labels)
    dealt = assign_folds(of, np.arange(len(of)), folds, 4, seed)
    for label in range(4):
        counts = np.bincount(dealt[of == label], minlength=folds)
        assert np.ptp(counts) <= 1
    assert np.ptp(np.bincount(dealt, minlength=folds)) <= 1
    assert (dealt == assign_folds(of, np.arange(len(of)), folds, 4, seed)).all()


def test_a_group_stays_together_and_classes_stay_even_nevertheless() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 600)
    groups = np.where(np.arange(600) < 200, np.arange(600) // 4, np.arange(600))
    dealt = assign_folds(labels, groups, 5, 5, 0)
    assert all(len(set(dealt[groups == group])) == 1 for group in range(50))
    for label in range(5):
        assert np.ptp(np.bincount(dealt[labels == label], minlength=5)) <= 3
    assert (assign_folds(labels, groups, 5, 5, 1) != dealt).any(), "another seed assigns otherwise"


def test_large_groups_are_dealt_before_small_ones() -> None:
    sizes = np.array([2] * 30 + [40, 39, 38])
    groups = np.repeat(np.arange(len(sizes)), sizes)
    for seed in range(5):
        dealt = assign_folds(np.zeros(len(groups), np.int64), groups, 3, 1, seed)
        assert np.ptp(np.bincount(dealt, minlength=3)) <= 2


def test_each_photograph_of_train_and_val_validates_once_and_test_stays(shard_folder: Path) -> None:
    shards = ShardSet.open(shard_folder)
    views = [FoldView(shards, Fold(number, 4), 42) for number in range(1, 5)]
    validated = np.sort(np.concatenate([view.ids("val") for view in views]))
    known = np.sort(np.concatenate([shards.ids("train"), shards.ids("val")]))
    np.testing.assert_array_equal(validated, known)
    for view in views:
        np.testing.assert_array_equal(np.sort(np.concatenate([view.ids("train"), view.ids("val")])), known)
        np.testing.assert_array_equal(view.ids("test"), shards.ids("test"))
        assert view.split_sizes()["val"] == 24 and view.fingerprint == shards.fingerprint
        assert np.ptp(np.bincount(view.labels()[view.ids("val")], minlength=6)) == 0
        assert view.stored is shards and bytes(view.bytes(3)) == bytes(shards.bytes(3))
    assert shards.stored is shards and shards.split_sizes() == dict(shards.manifest.splits)


@pytest.fixture(scope="module")
def twins(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sample's photographs with six of them there twice, and shards that say so."""
    root = tmp_path_factory.mktemp("twins")
    for path in sorted(photographs.glob("*/000[0-7].jpg")):
        copy = root / "photographs" / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        if path.name == "0003.jpg":
            copy.with_name("again.jpg").write_bytes(path.read_bytes())
    return root / "photographs", root


def test_near_duplicates_and_named_groups_are_kept_together(twins: tuple[Path, Path]) -> None:
    source, root = twins
    options = {"workers": 1, "progress": False, "cut": "none"}
    convert(source, root / "plain", **options)
    convert(source, root / "together", options=SourceOptions(keep_duplicates_together=True), **options)
    convert(source, root / "grouped", options=SourceOptions(group_by=r"000\d|again"), **options)
    plain, together, grouped = (ShardSet.open(root / name) for name in ("plain", "together", "grouped"))
    assert len(np.unique(groups_of(plain))) == len(plain)

    row = {key: number for number, key in enumerate(together.index["key"].tolist())}
    for kind in ("pizza", "soup"):
        first, second = (row[keys_of_paths(together)[f"{kind}/{name}.jpg"]] for name in ("0003", "again"))
        assert groups_of(together)[first] == groups_of(together)[second]
        folds = fold_of_each(together, 5, 0)
        assert folds[first] == folds[second] >= 0

    assert len(np.unique(groups_of(grouped))) == 9
    with pytest.raises(UserError, match=r"have too few photographs, \d+, for 10 folds"):
        fold_of_each(grouped, 10, 0)


def test_groups_of_a_column_that_shards_dont_keep_are_refused(twins: tuple[Path, Path]) -> None:
    source, root = twins
    lines = [f"{path.relative_to(source)},{path.parent.name},{path.stem}" for path in sorted(source.glob("*/*.jpg"))]
    (source / "list.csv").write_text("path,label,patient\n" + "\n".join(lines))
    by_column = SourceOptions(group_by="patient")
    convert(source / "list.csv", root / "column", options=by_column, workers=1, progress=False, cut="none")
    with pytest.raises(UserError, match="a column that shards don't store"):
        fold_of_each(ShardSet.open(root / "column"), 2, 0)
