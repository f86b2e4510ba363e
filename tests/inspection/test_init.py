"""`fasttrain init`: a commented TOML that `train --config` takes as it stands."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fasttrain.config.load import load_config, read_toml
from fasttrain.inspection.findings import Cardinality, Inspection, Spread
from fasttrain.inspection.suggestions import suggest

GB = 10**9


def inspection(counts, side=500, size=GB):
    """Return what `inspect` says of classes with these training photographs."""
    total = sum(counts.values())
    return Inspection(
        location="shards", source="food", raw=False, settings={}, counts={}, classes=list(counts),
        splits={"train": counts, "val": {}, "test": {}},
        split_samples={"train": total, "val": 0, "test": 0},
        split_bytes={"train": size, "val": 0, "test": 0},
        shards=1, shard_bytes=size, beton_bytes=0,
        width=Spread(side, side, side), height=Spread(side, side + 1, side + 2), length=Spread(1, 1, 1),
    )  # fmt: skip


def active(found, cuda=False, memory=16 * GB):
    return {each.name: each.value for each in suggest(found, cuda=cuda, memory=memory) if each.active}


def test_usual_photographs_need_little():
    found = inspection({"pizza": 1000, "sushi": 900})
    assert active(found) == {"minutes": 10}
    assert active(found, cuda=True) == {"recipe": "accurate", "amp": True, "image_size": 224}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"a cat": 1000, "a dog": 400}, {}),
        ({"a cat": 1000, "a dog": 300}, {"class_weights": "balanced", "monitor": "macro_f1"}),
        ({"a cat": 1000, "a dog": 80}, {"sampling": "balanced", "monitor": "macro_f1"}),
    ],
)
def test_unequal_classes_are_balanced_one_way(counts, expected):
    named = {
        name: value
        for name, value in active(inspection(counts)).items()
        if name in ("class_weights", "sampling", "monitor")
    }
    assert named == expected


def test_small_pictures_and_few_photographs():
    found = inspection({"cat": 60, "dog": 60}, side=100)
    assert active(found, cuda=True) == {
        "recipe": "accurate", "head_epochs": 3, "amp": True, "image_size": 96, "batch_size": 8
    }  # fmt: skip
    assert active(inspection({"cat": 60, "dog": 60}, side=28))["image_size"] == 32


@pytest.mark.parametrize(
    "classes", [("a", "b", "c"), ("0", "7", "12"), ("left_hand", "right_hand"), ("stop sign", "tree")]
)
def test_mirror_images_are_off_where_names_say_so(classes):
    assert active(inspection(dict.fromkeys(classes, 900)))["hflip"] == 0.0


@pytest.mark.parametrize("classes", [("pizza", "sushi"), ("bright", "dark"), ("copyright", "design")])
def test_other_names_keep_mirror_images(classes):
    assert "hflip" not in active(inspection(dict.fromkeys(classes, 900)))


def test_data_larger_than_memory_and_sets_of_classes():
    found = inspection({"cat": 300_000, "dog": 10_000}, size=100 * GB)
    large = active(found, cuda=True)
    assert large["shuffle"] == "shards" and large["recipe"] == "fast"
    several = active(replace(found, cardinality=Cardinality(1.5, 1, 3, 0)))
    assert several["monitor"] == "map" and not {"sampling", "class_weights"} & several.keys()


def test_a_folder_becomes_a_file_that_train_takes(cli, photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    code, out, error = cli("init", photographs)
    assert code == 0, error
    assert "96 photographs of 6 classes" in out and "next: fasttrain train --config sample.toml" in out
    text = Path("sample.toml").read_text()
    assert "# 96 photographs of 6 classes" in text and f"fasttrain init {photographs}" in text.replace("\n# ", " ")
    config = load_config("sample.toml", {})
    assert (str(config.data), config.minutes, config.batch_size) == (str(photographs), 10, 8)
    # Alternatives are settings, too, once their # is taken out.
    for line in text.splitlines():
        if line.startswith("# ") and " = " in line:
            name = line[2:].partition(" = ")[0]
            Path("one.toml").write_text(line[2:])
            assert name in read_toml(Path("one.toml"))
            load_config("one.toml", {})
    code, _, error = cli("init", photographs)
    assert code == 2 and "sample.toml already exists; give another --out, or --overwrite" in error
    assert cli("init", photographs, "--out", "a/b.toml")[0] == 0 and Path("a/b.toml").is_file()


@pytest.mark.full
@pytest.mark.slow
def test_an_archive_is_converted_and_trained_on(cli, photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.make_archive("pictures", "zip", photographs)
    code, _, error = cli("init", "pictures.zip")
    assert code == 0, error
    assert read_toml(Path("pictures.toml"))["data"] == "shards/pictures"
    small = ("--model", "test_resnet", "--no-pretrained", "--minutes", "0.2", "--image-size", "32", "--device", "cpu")
    code, out, error = cli("train", "--config", "pictures.toml", *small, "--loader", "torchvision", "--workers", "0")
    assert code == 0, error
    assert list(Path("runs").glob("*/evaluation.json")) and "summary" in out
