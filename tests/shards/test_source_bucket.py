"""Photographs in a bucket become the shards of a local copy, byte for byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fasttrain import urls
from fasttrain.errors import UserError
from fasttrain.photos.source import SourceOptions
from fasttrain.photos.sources import open_source
from fasttrain.shards.convert import convert
from tests.support.s3 import s3_server, s3fs

URL = "s3://bucket/photographs/mixed"


@pytest.fixture
def server(mixed, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(urls, "WAITS", (0.01,))
    (mixed / "cat" / "[1] * a?.jpg").write_bytes((mixed / "dog" / "00.jpg").read_bytes())
    (mixed / "cat" / "without").write_bytes((mixed / "dog" / "01.jpg").read_bytes())
    (mixed / "dog" / ".hidden.jpg").write_bytes(b"hidden")
    (mixed / "readme.txt").write_text("beside the classes")
    with s3_server() as server:
        files = s3fs.S3FileSystem()
        for path in mixed.rglob("*"):
            if path.is_file():
                files.pipe_file(f"bucket/photographs/mixed/{path.relative_to(mixed)}", path.read_bytes())
        yield server


def test_the_shards_are_those_of_a_local_copy(server, mixed, tmp_path, folder_of):
    options = {"cut": "none", "shard_size": 10, "workers": 4, "progress": False}
    convert(URL, tmp_path / "theirs", **options)
    convert(mixed, tmp_path / "ours", **options)
    assert folder_of(tmp_path / "theirs") == folder_of(tmp_path / "ours")
    assert "cat/empty.jpg" in (tmp_path / "theirs" / "rejected.tsv").read_text()
    convert(URL, "s3://bucket/shards", **options)
    files = s3fs.S3FileSystem()
    found = {path.rpartition("/")[2]: files.cat_file(path) for path in files.find("bucket/shards")}
    assert found == folder_of(tmp_path / "ours")
    with pytest.raises(
        UserError, match=r"^--source s3://bucket/shards holds shards already.* fasttrain train s3://bucket/sh"
    ):
        open_source("s3://bucket/shards")


def test_the_layout_of_food101(server, mixed, tmp_path, folder_of):
    root, files = tmp_path / "food", s3fs.S3FileSystem()
    shutil.copytree(mixed, root / "images")
    (root / "meta").mkdir()
    for part, numbers in {"train": range(9), "test": range(9, 13)}.items():
        names = [f"{name}/{number:02d}" for name in ("cat", "dog") for number in numbers]
        (root / "meta" / f"{part}.txt").write_text("\n".join(names))
    for path in filter(Path.is_file, root.rglob("*")):
        files.pipe_file(f"bucket/{path.relative_to(tmp_path)}", path.read_bytes())
    options = {"cut": "none", "progress": False}
    convert("s3://bucket/food", tmp_path / "theirs", **options)
    convert(root, tmp_path / "ours", **options)
    theirs, ours = folder_of(tmp_path / "theirs"), folder_of(tmp_path / "ours")
    assert theirs == ours and b"cat/12.jpg\tcan't be read" in ours["rejected.tsv"]
    assert open_source("s3://bucket/food").fingerprint == open_source(root).fingerprint


def test_a_photograph_that_changes_has_another_state_and_one_that_goes_is_listed(server, tmp_path):
    before, files = open_source(URL), s3fs.S3FileSystem()
    path = "bucket/photographs/mixed/dog/03.jpg"
    data = bytearray(files.cat_file(path))
    data[-3] ^= 1
    files.pipe_file(path, bytes(data))
    after = open_source(URL)
    assert before.fingerprint == after.fingerprint and before.local_state != after.local_state
    files.rm_file(path)
    with pytest.raises(OSError, match="No such file"):
        after.read(after.paths.index("dog/03.jpg"))


def test_what_it_cannot_take_is_one_line(server):
    for url, why in {
        "s3://nobody/photographs": "--source s3://nobody/photographs holds no files",
        "s3://bucket/empty": "--source s3://bucket/empty holds no files",
        f"{URL}/cat": f"--source {URL}/cat holds .* photographs but no class folders",
    }.items():
        with pytest.raises(UserError, match=why) as error:
            open_source(url)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=f"--root /tmp has no effect on --source {URL}"):
        open_source(URL, options=SourceOptions(root="/tmp"))
    with pytest.raises(UserError, match=f"--out {URL}/shards is inside --source {URL}"):
        convert(URL, f"{URL}/shards", progress=False)


@pytest.mark.parametrize("where", ["beside", "root", "urls"])
def test_a_table_may_name_photographs_in_a_bucket(server, mixed, tmp_path, folder_of, where):
    names = sorted(path.relative_to(mixed) for path in mixed.glob("*/0*.jpg"))
    rows = [f"{name},{name.parent}" for name in names] + ["cat/none.jpg,cat"]
    (mixed / "labels.csv").write_text("\n".join(["path,label", *rows, ""]))
    source, options = mixed / "labels.csv", SourceOptions()
    if where == "beside":
        s3fs.S3FileSystem().pipe_file("bucket/photographs/mixed/labels.csv", source.read_bytes())
        theirs = f"{URL}/labels.csv"
    else:
        theirs = tmp_path / "labels.csv"
        start = f"{URL}/" if where == "urls" else ""
        theirs.write_text("\n".join(["path,label", *(start + row for row in rows), ""]))
        options = SourceOptions(root=URL) if where == "root" else options
    settings = {"cut": "none", "shard_size": 10, "progress": False}
    convert(source, tmp_path / "ours", **settings)
    convert(theirs, tmp_path / "theirs", **settings, options=options)
    assert folder_of(tmp_path / "theirs") == folder_of(tmp_path / "ours")
    assert "cat/none.jpg" in (tmp_path / "theirs" / "rejected.tsv").read_text()


def test_tables_of_other_urls_are_refused(server, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("path,label\ns3://one/a.jpg,cat\ns3://two/b.jpg,dog\n")
    with pytest.raises(UserError, match="its URLs are in several buckets"):
        open_source(table)
    table.write_text("path,label\nhttps://server/a.jpg,cat\nhttps://server/b.jpg,dog\n")
    with pytest.raises(UserError, match=r"line 2: https://server/a\.jpg is a URL.*; download the photographs"):
        open_source(table)
    with pytest.raises(UserError, match=f"--source {URL}/none.csv does not exist; give the URL of a table"):
        open_source(f"{URL}/none.csv")
