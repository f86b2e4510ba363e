"""Photographs that are in two classes, byte for byte, are listed and warned of."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fasttrain.cli import app
from fasttrain.shards.convert import convert, convert_part
from fasttrain.shards.destination import Folder
from fasttrain.shards.format import index_dtype
from fasttrain.shards.label_conflicts import find_label_conflicts
from fasttrain.shards.merge import merge
from fasttrain.shards.reader import ShardSet
from fasttrain.shards.settings import ShardSettings

LIST = "label_conflicts.tsv"


@pytest.fixture
def copied(mixed: Path) -> Path:
    """Three of `cat/` once more: one in `dog/`, one in both, one in `cat/` alone."""
    shutil.copy(mixed / "cat" / "04.jpg", mixed / "dog" / "again.jpg")
    shutil.copy(mixed / "cat" / "a b.v2.webp", mixed / "dog" / "a b.v2.webp")
    shutil.copy(mixed / "cat" / "a b.v2.webp", mixed / "cat" / "copy.webp")
    shutil.copy(mixed / "cat" / "09.jpg", mixed / "cat" / "copy.jpg")
    return mixed


EXPECTED = [
    "cat/04.jpg\tin class 'cat', and in 'dog' as dog/again.jpg",
    "cat/a b.v2.webp\tin class 'cat', and in 'dog' as dog/a b.v2.webp",
    "cat/copy.webp\tin class 'cat', and in 'dog' as dog/a b.v2.webp",
    "dog/a b.v2.webp\tin class 'dog', and in 'cat' as cat/a b.v2.webp",
    "dog/again.jpg\tin class 'dog', and in 'cat' as cat/04.jpg",
]


def lines(out: Path, name: str = LIST) -> list[str]:
    return (out / name).read_text().splitlines()


@pytest.mark.parametrize("options", [{}, {"cut": "none"}, {"raw": True, "max_size": 32}, {"max_size": 32}])
def test_they_are_listed_by_path(copied, tmp_path, options) -> None:
    convert(copied, tmp_path / "out", shard_size=7, **options, progress=False)
    assert lines(tmp_path / "out") == EXPECTED
    assert LIST in ShardSet.open(tmp_path / "out").manifest.files


def test_one_line_warns(copied, mixed, tmp_path) -> None:
    line = ["convert", "--source", str(copied), "--out", str(tmp_path / "out")]
    for _ in ("made", "there already"):
        said = " ".join(CliRunner().invoke(app, line).output.split())
        assert "warning: 5 identical photographs are in two classes, such as cat/04.jpg" in said
        assert f"as dog/again.jpg); all are listed in {tmp_path / 'out' / LIST}" in said


def test_none_is_no_list(mixed, tmp_path) -> None:
    said = CliRunner().invoke(app, ["convert", "--source", str(mixed), "--out", str(tmp_path / "out")])
    assert said.exit_code == 0 and "two classes" not in said.output
    assert not (tmp_path / "out" / LIST).exists()


def test_merged_parts_tell_it(copied, tmp_path) -> None:
    for part in ("1/2", "2/2"):
        convert_part(copied, tmp_path / "out", part, ShardSettings(shard_size=7), progress=False)
    said = CliRunner().invoke(app, ["merge", str(tmp_path / "out")])
    assert "5 identical photographs are in two classes," in " ".join(said.output.split())
    assert lines(tmp_path / "out") == EXPECTED


def test_merged_parts_in_a_bucket_tell_it(copied, tmp_path, monkeypatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    url = f"memory://bucket/{tmp_path.name}"
    for part in ("1/2", "2/2"):
        convert_part(copied, url, part, ShardSettings(shard_size=7), progress=False)
    merge(url)
    assert fsspec.filesystem("memory").cat_file(f"/bucket/{tmp_path.name}/{LIST}").decode().splitlines() == EXPECTED


def test_new_photographs_are_compared_with_old_ones(mixed, tmp_path) -> None:
    convert(mixed, tmp_path / "out", progress=False)
    shutil.copy(mixed / "cat" / "04.jpg", mixed / "dog" / "again.jpg")
    convert(mixed, tmp_path / "out", append=True, progress=False)
    assert lines(tmp_path / "out", "label_conflicts-1.tsv") == [EXPECTED[0], EXPECTED[4]]
    assert ShardSet.open(tmp_path / "out").verify() == []


def test_equal_checksums_are_not_equal_bytes(tmp_path) -> None:
    (tmp_path / "train-00000.tar").write_bytes(b"same" + b"same" + b"else")
    index = np.zeros(3, index_dtype(8))
    index["key"], index["offset"], index["length"] = [b"a/1", b"b/1", b"b/2"], [0, 4, 8], 4
    index["label"], index["crc32"] = [0, 1, 1], 77
    found = find_label_conflicts(Folder(tmp_path), index, ["train-00000.tar"], ["a", "b"], b"path\n")
    assert [path for path, _ in found] == ["a/1", "b/1"]
    index["crc32"] = 0  # unknown, as in older shards
    assert find_label_conflicts(Folder(tmp_path), index, ["train-00000.tar"], ["a", "b"], b"path\n") == []
