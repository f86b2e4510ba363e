"""Splits, labels and groups that the user gives for photographs of any source."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasttrain.errors import UserError
from fasttrain.photos.group_split import place_groups
from fasttrain.photos.source import Source, SourceOptions
from fasttrain.photos.sources import open_source
from fasttrain.photos.split import decide_splits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat", "dog", "owl"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "photos" / name / f"p{number}_{name}.jpg").write_bytes(b"\xff\xd8\xff" + bytes(number))
    (tmp_path / "photos" / "elk").mkdir()
    return tmp_path / "photos"


def opened(folder: Path, **options: str | Path) -> Source:
    return open_source(folder, options=SourceOptions(**options))


def refused(folder: Path, **options: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        opened(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def listed(folder: Path, text: str, name: str = "list.csv") -> Path:
    (folder.parent / name).write_text(text)
    return folder.parent / name


def test_given_splits(folder) -> None:
    lines = f"path,split\ncat/p0_cat.jpg,test\n./dog/p0_dog.jpg,Val\n{folder}/owl/p0_owl.jpg,2\ngone.jpg,val\n"
    source = opened(folder, splits=listed(folder, lines))
    found = dict(zip(source.paths, source.splits.tolist(), strict=True))
    special = {"cat/p0_cat.jpg": 2, "dog/p0_dog.jpg": 1, "owl/p0_owl.jpg": 2}
    assert found == {**dict.fromkeys(source.paths, 0), **special}, "as some validate, all others train"
    assert ("gone.jpg", "named in list.csv, but not found") in source.ignored
    assert "the splits of 3 of 12 photographs" in source.notes[0]
    only_test = opened(folder, splits=listed(folder, "cat/p0_cat.jpg\ttest\n", "list.txt"))
    assert Counter(only_test.splits.tolist()) == {-1: 11, 2: 1}, "without any that validate, a share does"
    assert "is in two splits" in refused(
        folder, splits=listed(folder, "path,split\ncat/p0_cat.jpg,test\ncat/p0_cat.jpg,val\n")
    )
    assert "names none of the photographs" in refused(folder, splits=listed(folder, "path,split\nx.jpg,test\n"))
    assert "line 2: 'tset' is not a split" in refused(
        folder, splits=listed(folder, "path,split\ncat/p0_cat.jpg,tset\n")
    )


def test_relabelling(folder) -> None:
    fixes = listed(folder, "file,new_label\ncat/p0_cat.jpg,dog\ncat/p1_cat.jpg,drop\nowl/p0_owl.jpg,elk\n")
    source = opened(folder, relabel=fixes)
    assert source.classes == ("cat", "dog", "elk", "owl")
    of = {path: source.classes[label] for path, label in zip(source.paths, source.labels, strict=True)}
    assert of["cat/p0_cat.jpg"] == "dog" and of["owl/p0_owl.jpg"] == "elk" and "cat/p1_cat.jpg" not in of
    assert source.ignored == (("cat/p1_cat.jpg", "dropped by list.csv"),)
    assert source.notes == ("list.csv: 2 relabelled, 1 dropped",)
    first = source.settings["relabel"]["file"]
    again = opened(folder, relabel=listed(folder, "cat/p0_cat.jpg dog\n", "list.txt"))
    assert again.settings["relabel"]["relabelled"] == 1 and again.settings["relabel"]["file"] != first
    for line, said in (
        ("cat/p9_cat.jpg,dog", "line 2: 'cat/p9_cat.jpg' is not one of the photographs (this problem is in 1 line)"),
        ("cat/p0_cat.jpg,dgo", "line 2: 'dgo' is not one of the classes; did you mean 'dog'?"),
        ("cat/p0_cat.jpg,dog\ncat/p0_cat.jpg,drop", "line 3: cat/p0_cat.jpg has two new labels"),
        ("cat/p0_cat.jpg,", "line 2: '' is not one of the classes"),
    ):
        assert said in refused(folder, relabel=listed(folder, f"path,label\n{line}\n"))


def test_an_empty_suggestion_is_refused_and_the_others_are_applied(folder) -> None:
    rows = "cat/p0_cat.jpg,cat,dog,0.9\ncat/p1_cat.jpg,cat,,0.8\ncat/p2_cat.jpg,cat,drop,0.7\n"
    source = opened(folder, relabel=listed(folder, f"file,given,suggested,score\n{rows}", "labels.csv"))
    of = {path: source.classes[label] for path, label in zip(source.paths, source.labels, strict=True)}
    assert of["cat/p0_cat.jpg"] == "dog" and of["cat/p1_cat.jpg"] == "cat" and "cat/p2_cat.jpg" not in of
    assert source.notes == ("labels.csv: 1 relabelled, 1 dropped, 1 unchanged",)
    assert "not one of the photographs" in refused(
        folder, relabel=listed(folder, "file,given,suggested,score\ncat/p9_cat.jpg,cat,dog,0.9\n", "labels.csv")
    )


def test_a_class_that_loses_all_its_photographs_is_listed(folder) -> None:
    lines = "".join(f"cat/p{number}_cat.jpg,drop\n" for number in range(4))
    source = opened(folder, relabel=listed(folder, f"path,label\n{lines}"))
    assert source.classes == ("dog", "owl") and ("cat/", "empty class") in source.ignored


def test_groups_by_a_pattern(folder) -> None:
    source = opened(folder, group_by=r"/(p\d)_")
    assert sorted(set(source.groups)) == ["p0", "p1", "p2", "p3"] and source.settings == {"group_by": r"/(p\d)_"}
    splits = decide_splits(source, 0.25, 0.25, 0)
    for group in set(source.groups):
        assert len({split for split, each in zip(splits, source.groups, strict=True) if each == group}) == 1
    assert Counter(splits.tolist()) == {0: 6, 1: 3, 2: 3}
    assert "matches nothing in the path of 3 of 12 photographs" in refused(folder, group_by="p[0-2]")
    assert "not a valid regular expression" in refused(folder, group_by="(")


def test_a_group_follows_its_fixed_photographs(folder) -> None:
    some = listed(folder, "path,split\ncat/p0_cat.jpg,test\n")
    source = opened(folder, group_by=r"/(p\d)_", splits=some)
    found = dict(zip(source.paths, decide_splits(source, 0.25, 0.0, 0).tolist(), strict=True))
    assert found["dog/p0_dog.jpg"] == found["owl/p0_owl.jpg"] == 2
    torn = listed(folder, "path,split\ncat/p0_cat.jpg,test\ndog/p0_dog.jpg,val\n")
    with pytest.raises(UserError, match=r"cat/p0_cat\.jpg and dog/p0_dog\.jpg are in one group"):
        decide_splits(opened(folder, group_by=r"/(p\d)_", splits=torn), 0.25, 0.0, 0)


rows = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 4)), min_size=1, max_size=150)


@given(rows, st.sampled_from([0.0, 0.1, 0.2, 0.4]), st.sampled_from([0.0, 0.1, 0.3]))
def test_groups_are_never_torn_and_every_class_trains(given: list[tuple[int, int]], val: float, test: float) -> None:
    groups = [str(group) for group, _ in given]
    labels = np.array([label for _, label in given], dtype=np.int32)
    splits = place_groups(groups, labels, val, test, np.arange(len(groups)))
    assert (splits == place_groups(groups, labels, val, test, np.arange(len(groups)))).all()
    by_group: dict[str, set[int]] = {}
    for group, split in zip(groups, splits.tolist(), strict=True):
        by_group.setdefault(group, set()).add(split)
    assert all(len(found) == 1 for found in by_group.values())
    assert set(splits.tolist()) <= {0, *([1] if val else []), *([2] if test else [])}
    assert set(labels[splits == 0].tolist()) == set(labels.tolist())


def test_shares_are_near_where_groups_are_small() -> None:
    groups = [str(number // 5) for number in range(3000)]
    labels = (np.arange(3000) // 1000).astype(np.int32)
    splits = place_groups(groups, labels, 0.2, 0.1, np.arange(3000))
    for label in range(3):
        assert np.bincount(splits[labels == label]).tolist() == [700, 200, 100]


def test_few_groups_still_validate() -> None:
    labels = np.zeros(100, dtype=np.int32)
    splits = place_groups([str(number // 50) for number in range(100)], labels, 0.1, 0.0, np.arange(100))
    assert np.bincount(splits).tolist() == [50, 50]
