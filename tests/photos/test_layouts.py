"""Layouts of folders: split folders under any usual name, folders within class folders, and errors that fit them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fasttrain.errors import UserError
from fasttrain.photos.source import Source, SourceOptions
from fasttrain.photos.sources import defines_splits, open_source
from fasttrain.photos.split_names import split_of


def lay(root: Path, *paths: str) -> Path:
    """Files of different sizes that begin as JPEGs do, but for those whose names say text; "x/" is an empty folder."""
    for number, path in enumerate(paths):
        file = root / path
        if path.endswith("/"):
            file.mkdir(parents=True)
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        text = file.suffix in (".txt", ".csv")
        file.write_bytes((b"text" if text else b"\xff\xd8\xff") + bytes(number))
    return root


def opened(root: Path, classes: str | None = None) -> Source:
    return open_source(root, options=SourceOptions(classes=classes))


def refused(root: Path, classes: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        opened(root, classes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def splits(source: Source) -> dict[str, int]:
    return dict(zip(source.paths, source.splits.tolist(), strict=True))


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("Train", "Val", 1),
        ("TRAIN", "TEST", 2),
        ("training", "validation", 1),
        ("training_set", "test_set", 2),
        ("Training", "Testing", 2),
        ("train", "valid", 1),
        ("train", "eval", 1),
        ("train", "dev", 1),
        ("train2017", "val2017", 1),
        ("trainset", "TestSet", 2),
        ("train images", "validation images", 1),
        ("seg_train", "seg_test", 2),
        ("01-train", "02-hold-out", 2),
        ("X_train", "X_test", 2),
    ],
)
def test_usual_words_for_splits(tmp_path, train, other, split) -> None:
    root = lay(tmp_path, f"{train}/cat/1.jpg", f"{train}/dog/2.jpg", f"{other}/cat/3.jpg")
    assert defines_splits(root)
    source = opened(root)
    assert source.classes == ("cat", "dog")
    left = 0 if split == 1 else -1
    assert splits(source) == {f"{train}/cat/1.jpg": left, f"{train}/dog/2.jpg": left, f"{other}/cat/3.jpg": split}


@pytest.mark.parametrize(
    "name", ["bus", "trained", "testament", "evaluator", "data", "images", "", "valley", "détrain"]
)
def test_other_words_are_no_splits(name) -> None:
    assert split_of(name) is None


def test_two_folders_for_one_split_are_refused(tmp_path) -> None:
    root = lay(tmp_path, "train/a/1.jpg", "Training/a/2.jpg", "val/a/3.jpg")
    assert "holds Training and train, both for training: keep one" in refused(root)


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (("train/1.jpg", "test/2.jpg"), "no class folders in train/"),
        (("Training/1.jpg", "Validation/2.jpg", "other/3.jpg"), "no class folders in Training/"),
        (("val/cat/1.jpg", "test/cat/2.jpg"), "but no train/; rename one of them"),
        (("valid/1.jpg", "test/2.jpg"), "but no train/; rename one of them"),
    ],
)
def test_split_folders_never_become_the_classes(tmp_path, paths, said) -> None:
    root = lay(tmp_path, *paths)
    assert said in refused(root)
    assert set(opened(root, "top").classes) == {path.split("/")[0] for path in paths}


def test_a_table_that_lies_there_is_named(tmp_path) -> None:
    root = lay(tmp_path, "train/1.jpg", "test/2.jpg", "train.csv")
    assert f"if train.csv has their labels, give --source {root / 'train.csv'}" in refused(root)
    (root / "flat").mkdir()
    assert f"--source {root / 'flat' / 'labels.csv'}" in refused(lay(root / "flat", "1.jpg", "labels.csv"))


def test_splits_within_each_class(tmp_path) -> None:
    root = lay(tmp_path, "cat/train/1.jpg", "cat/test/2.jpg", "dog/Train/3.jpg", "dog/val/4.jpg")
    assert defines_splits(root)
    source = opened(root)
    assert source.classes == ("cat", "dog")
    assert splits(source) == {"cat/train/1.jpg": 0, "cat/test/2.jpg": 2, "dog/Train/3.jpg": 0, "dog/val/4.jpg": 1}
    assert splits(opened(root, "top")) == dict.fromkeys(source.paths, -1)
    lay(root, "owl/5.jpg")
    assert "owl/ doesn't" in refused(root)


@pytest.mark.parametrize("inside", [(), ("val/cat/", "val/dog/")])
def test_an_empty_validation_folder_is_as_none(tmp_path, inside) -> None:
    root = lay(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", *(inside or ("val/",)))
    source = opened(root)
    assert splits(source) == {"train/cat/1.jpg": -1, "train/dog/2.jpg": -1}
    assert [(path, reason[:5]) for path, reason in source.ignored] == [("val/", "empty")]


def test_a_validation_folder_without_usable_photographs_is_refused(tmp_path) -> None:
    root = lay(tmp_path / "a", "train/cat/1.jpg", "train/dog/2.jpg", "val/3.jpg", "val/4.jpg")
    assert "holds 2 photographs but no class folders; give each class a folder there, or remove val/" in refused(root)
    root = lay(tmp_path / "b", "train/cat/1.jpg", "train/dog/2.jpg", "val/cat/notes.txt")
    assert "holds no photographs (val/cat/notes.txt: not a photograph (.txt)); add some" in refused(root)


def test_an_empty_test_folder_is_listed(tmp_path) -> None:
    source = opened(lay(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "test/"))
    assert source.ignored == (("test/", "empty"),)


FRUIT = ("Fruit/Apple/Golden/1.jpg", "Fruit/Apple/Gala/2.jpg", "Fruit/Pear/Kaiser/3.jpg", "Carton/Milk/4.jpg")


@pytest.mark.parametrize("below", ["", "train/", "Training/"])
def test_nested_folders_ask_which_are_the_classes(tmp_path, below) -> None:
    root = lay(tmp_path, *(below + path for path in FRUIT))
    said = refused(root)
    assert f"--source {root / below if below else root}: 4 folders with photographs, 3 levels deep, in 2" in said
    assert "--classes top (2: Carton, Fruit), leaf (4: Gala, Golden, Kaiser …) or path (4)" in said
    assert opened(root, "top").classes == ("Carton", "Fruit")
    assert opened(root, "leaf").classes == ("Gala", "Golden", "Kaiser", "Milk")
    path = opened(root, "path")
    assert path.classes == ("Carton/Milk", "Fruit/Apple/Gala", "Fruit/Apple/Golden", "Fruit/Pear/Kaiser")
    of = {name: path.classes[label] for name, label in zip(path.paths, path.labels, strict=True)}
    assert of[f"{below}Fruit/Pear/Kaiser/3.jpg"] == "Fruit/Pear/Kaiser"
    assert path.settings == {"classes": "path"} and "4 folders" in path.notes[0]
    assert opened(root, "top").settings == {}
    assert "give top, leaf or path" in refused(root, "leaves")


@pytest.mark.parametrize(
    "paths",
    [
        ("cat/indoor/1.jpg", "cat/outdoor/2.jpg", "dog/3.jpg"),
        ("cat/1.jpg", "cat/raw/2.jpg", "cat/edited/3.jpg", "dog/4.jpg"),
        ("train/all/cat/1.jpg", "train/all/dog/2.jpg", "val/all/cat/3.jpg"),
        ("printed/0/1.jpg", "printed/1/2.jpg", "written/0/3.jpg", "written/1/4.jpg"),
        ("train/cat/1.jpg", "train/dog/2.jpg", "extra/cat/3.jpg"),
        ("a/train/cat/1.jpg", "a/test/cat/2.jpg", "a/train/dog/3.jpg", "b/train/cat/1.jpg", "b/test/cat/1.jpg"),
    ],
)
def test_whatever_may_be_classes_is_asked(tmp_path, paths) -> None:
    assert "which are the classes?" in refused(lay(tmp_path, *paths))


@pytest.mark.parametrize(
    "paths",
    [
        ("cat/deep/1.jpg", "cat/2.jpg", "dog/3.jpg"),
        ("cat/images/1.jpg", "dog/images/2.jpg"),
        ("cat/2019-05-03/1.jpg", "cat/2020-06-01/2.jpg", "dog/3.jpg"),
        ("cat/0001/1.jpg", "cat/0002/2.jpg", "dog/0001/3.jpg"),
    ],
)
def test_folders_that_change_nothing_or_count_are_not_asked(tmp_path, paths) -> None:
    source = opened(lay(tmp_path, *paths))
    assert source.classes == ("cat", "dog") and not source.notes and not source.settings


def test_splits_in_another_language_are_hinted_at(tmp_path) -> None:
    paths = [f"{split}/{name}/1.jpg" for split in ("entrenamiento", "prueba") for name in ("gato", "perro")]
    assert "if entrenamiento, prueba are splits, name them train, val and test" in refused(lay(tmp_path, *paths))


def test_leaves_of_one_name_are_one_class_which_is_said(tmp_path) -> None:
    root = lay(tmp_path, "Fruit/Apple/1.jpg", "Fruit/Other/2.jpg", "Carton/Other/3.jpg", "Carton/Milk/4.jpg")
    source = opened(root, "leaf")
    assert Counter(source.classes[label] for label in source.labels) == {"Apple": 1, "Milk": 1, "Other": 2}
    assert "one class" in source.notes[1] and "Other (Carton/Other, Fruit/Other)" in source.notes[1]


def test_nested_splits_share_their_classes(tmp_path) -> None:
    root = lay(tmp_path, *(f"{split}/{path}" for split in ("train", "val") for path in FRUIT), "val/Fruit/Plum/9.jpg")
    assert "holds no photographs of its class, 'Plum'" in refused(root, "leaf")
    (root / "val/Fruit/Plum/9.jpg").unlink()
    source = opened(root, "leaf")
    assert source.classes == ("Gala", "Golden", "Kaiser", "Milk")
    assert Counter(source.splits.tolist()) == {0: 4, 1: 4}


def test_options_that_mean_nothing_are_refused(tmp_path) -> None:
    root = lay(tmp_path, "a/1.jpg", "b/2.jpg")
    with pytest.raises(UserError, match="--label-column x has no effect on --source"):
        open_source(root, options=SourceOptions(label_column="x"))
    with pytest.raises(UserError, match="--classes leaf has no effect on --source sample"):
        open_source("sample", options=SourceOptions(classes="leaf"))
