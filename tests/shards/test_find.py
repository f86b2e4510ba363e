"""Names of new data sets, and the only data set in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasttrain.errors import UserError
from fasttrain.shards.convert import ensure_shards
from fasttrain.shards.find import data_set_in, default_out


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("photographs", "photographs"),
        ("/data/my pets/", "my pets"),
        ("../cats.and.dogs", "cats.and.dogs"),
        ("labels.csv", "labels"),
        ("food.tar.gz", "food"),
        ("Food.ZIP", "Food"),
        ("hf://owner/beans", "beans"),
        ("s3://bucket/photographs/", "photographs"),
        ("sample", "sample"),
        ("food101", "food101"),
    ],
)
def test_a_new_data_set_is_named_after_its_source(here: Path, source: str, name: str) -> None:
    assert default_out(source) == f"shards/{name}"


def test_the_working_folder_has_a_name_too(here: Path) -> None:
    assert default_out(".") == f"shards/{here.name}"


def test_where_shards_is_a_data_set_itself_it_stays_the_one(here: Path) -> None:
    (here / "shards").mkdir()
    (here / "shards" / "manifest.json").touch()
    assert default_out("photographs") == "shards"


def test_the_only_data_set_is_taken_and_of_several_none(here: Path, shard_folder: Path) -> None:
    (here / "shards").mkdir()
    assert data_set_in("shards") == "shards", "none yet"
    (here / "shards" / "food").symlink_to(shard_folder)
    assert data_set_in("shards") == Path("shards/food") == ensure_shards("shards")
    assert data_set_in("shards/food") == "shards/food"
    (here / "shards" / "pets").symlink_to(shard_folder)
    with pytest.raises(UserError, match=r"^shards holds 2 data sets; choose one: shards/food, shards/pets$"):
        ensure_shards("shards")


def test_class_folders_with_a_manifest_of_their_own_are_no_data_sets(here: Path) -> None:
    for name in ("cats", "dogs"):
        (here / "pets" / name).mkdir(parents=True)
        (here / "pets" / name / "manifest.json").touch()
    assert data_set_in("pets") == "pets"
