"""Conversions into a bucket: moto's S3 server on a loopback port, and fsspec's memory."""

from __future__ import annotations

import importlib
import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import pytest

from fasttrain import urls
from fasttrain.errors import UserError
from fasttrain.shards import bucket as buckets
from fasttrain.shards import parts
from fasttrain.shards.convert import convert, convert_part
from fasttrain.shards.merge import merge
from fasttrain.shards.reader import ShardSet
from fasttrain.shards.settings import ShardSettings
from tests.shards.conftest import grow
from tests.support.patience import PATIENCE
from tests.support.s3 import s3_server, s3fs

URL = "s3://bucket/data/shards"
SETTINGS = {"cut": "none", "shard_size": 4}
SMALL_PIECES = """
import sys
from fasttrain.shards import bucket
bucket._PIECE = 2048
from fasttrain.cli import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def started():
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
        yield server


@pytest.fixture
def server(started, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(urls, "WAITS", (0.01,))
    monkeypatch.setattr(buckets, "_PIECE", 2048)
    files = s3fs.S3FileSystem()
    files.invalidate_cache()
    if files.find("bucket"):
        files.rm("bucket/data", recursive=True)
    started.gets.clear()
    started.puts.clear()
    yield started
    started.before_put = lambda name: ""
    assert not list((tmp_path / "cache").glob("upload/*/*")), "nothing stays on this machine"


def held(url: str = URL) -> dict[str, bytes]:
    files, root = fsspec.core.url_to_fs(url)
    files.invalidate_cache()
    return {path.removeprefix(f"{root}/"): files.cat_file(path) for path in files.find(root)}


def alone(source: Path, out: Path, folder_of) -> dict[str, bytes]:
    convert(source, out, **SETTINGS, progress=False)
    return folder_of(out)


def killed_at(server, source: Path, name: str, *options: str) -> None:
    """Run `fasttrain convert` into the bucket, and kill it while it uploads the shard `name`."""
    came, go_on = threading.Event(), threading.Event()

    def hold(asked: str) -> str:
        if asked == name:
            came.set()
            go_on.wait(PATIENCE)
            return "500 Internal Server Error"
        return ""

    server.before_put = hold
    line = ["convert", "--source", source, "--out", URL, "--cut", "none", "--shard-size", "4", *options]
    process = subprocess.Popen([sys.executable, "-c", SMALL_PIECES, *map(str, line)], stderr=subprocess.DEVNULL)
    try:
        assert came.wait(PATIENCE)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        go_on.set()
        server.before_put = lambda name: ""


def test_a_bucket_holds_what_a_folder_would(server, mixed, tmp_path, folder_of):
    result = convert(mixed, URL + "/", **SETTINGS, progress=False)
    assert result.out == URL and held() == alone(mixed, tmp_path / "alone", folder_of)
    assert ShardSet.open(URL).verify() == []
    assert max(server.puts.values()) > 1, "shards went in several pieces"
    server.puts.clear()
    assert convert(mixed, URL, **SETTINGS, progress=False).already and not server.puts


@pytest.mark.slow
def test_killed_in_an_upload_it_goes_on(server, mixed, tmp_path, folder_of):
    killed_at(server, mixed, "train-00002.tar")
    before = held()
    assert "train-00000.tar" in before and "train-00002.tar" not in before and "manifest.json" not in before
    files = s3fs.S3FileSystem()
    assert files.list_multipart_uploads("bucket"), "the piece that was on its way"
    server.puts.clear()
    convert(mixed, URL, **SETTINGS, progress=False)
    assert held() == alone(mixed, tmp_path / "alone", folder_of)
    assert not server.puts["train-00000.tar"] and server.puts["train-00002.tar"]
    assert not files.list_multipart_uploads("bucket")


@pytest.mark.slow
def test_a_shard_that_is_not_what_was_uploaded_is_made_again(server, mixed, tmp_path, folder_of):
    killed_at(server, mixed, "train-00003.tar")
    tar = bytearray(held()["train-00001.tar"])
    tar[700] ^= 1
    s3fs.S3FileSystem().pipe_file("bucket/data/shards/train-00001.tar", bytes(tar))
    s3fs.S3FileSystem().rm_file("bucket/data/shards/train-00002.idx")
    server.puts.clear()
    convert(mixed, URL, **SETTINGS, progress=False)
    assert held() == alone(mixed, tmp_path / "alone", folder_of)
    assert not server.puts["train-00000.tar"] and server.puts["train-00001.tar"] and server.puts["train-00002.tar"]


@pytest.mark.parametrize("shard_size", [2, 8])
def test_no_more_than_two_shards_lie_on_this_machine(server, mixed, tmp_path, shard_size):
    sizes = []

    def measure(name: str) -> str:
        sizes.append(sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()))
        return ""

    server.before_put = measure
    manifest = convert(mixed, URL, cut="none", shard_size=shard_size, progress=False).manifest
    largest = sorted((shard.bytes for shard in manifest.shards), reverse=True)
    assert largest[0] <= max(sizes) <= sum(largest[:2]) < sum(largest)


def test_parts_of_many_machines_are_merged_in_the_bucket(server, mixed, tmp_path, folder_of, monkeypatch):
    settings = ShardSettings(**SETTINGS)
    whole = alone(mixed, tmp_path / "alone", folder_of)
    for number in (1, 3):
        convert_part(mixed, URL, f"{number}/3", settings, progress=False)
    with pytest.raises(UserError, match=f"^{URL} lacks part-2-of-3"):
        merge(URL)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    assert convert_part(mixed, URL, "auto", settings, progress=False).folder == f"{URL}/part-2-of-3"
    assert {name for name in held() if name.endswith(".tar")} == {name for name in whole if name.endswith(".tar")}
    with monkeypatch.context() as patch:
        patch.setattr(importlib.import_module("fasttrain.shards.merge"), "assemble", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            merge(URL)
    assert "manifest.json" not in held()
    server.gets.clear()
    server.puts.clear()
    merge(URL)
    assert not [name for name in (*server.gets, *server.puts) if name.endswith((".tar", ".idx"))], "no data moved"
    assert held() == whole
    assert merge(URL).index.samples > 20, "a second time there is nothing to do"
    with pytest.raises(UserError, match="holds a complete data set"):
        convert_part(mixed, URL, "1/3", settings, progress=False)


@pytest.mark.slow
def test_a_killed_part_goes_on_and_other_parts_are_left_alone(server, mixed, tmp_path, folder_of):
    killed_at(server, mixed, "train-00002.tar", "--part", "1/2")
    with pytest.raises(UserError, match="lacks part-2-of-2"):
        merge(URL)
    settings = ShardSettings(**SETTINGS)
    convert_part(mixed, URL, "2/2", settings, progress=False)
    with pytest.raises(UserError, match=f"{URL}/part-1-of-2: train-00002 isn't finished"):
        merge(URL)
    server.puts.clear()
    convert_part(mixed, URL, "1/2", settings, progress=False)
    assert not server.puts["train-00000.tar"] and not server.puts["train-00001.tar"]
    merge(URL)
    assert held() == alone(mixed, tmp_path / "alone", folder_of)
    assert not s3fs.S3FileSystem().list_multipart_uploads("bucket")


def test_parts_of_other_settings_are_not_merged(server, mixed):
    convert_part(mixed, URL, "1/2", ShardSettings(**SETTINGS), progress=False)
    convert_part(mixed, URL, "2/2", ShardSettings(**SETTINGS, max_size=32), progress=False)
    with pytest.raises(UserError, match="part-2-of-2 was made from other photographs or settings than part-1-of-2"):
        merge(URL)
    convert_part(mixed, URL, "1/2", ShardSettings(**SETTINGS), progress=False)


def test_other_shards_are_replaced_only_when_asked(server, mixed, tmp_path, folder_of):
    convert(mixed, URL, cut="none", shard_size=2, progress=False)
    with pytest.raises(UserError, match=rf"^{URL} holds other shards \(shard_size = 2, not 4\); give --overwrite"):
        convert(mixed, URL, **SETTINGS, progress=False)
    convert(mixed, URL, **SETTINGS, overwrite=True, progress=False)
    assert held() == alone(mixed, tmp_path / "alone", folder_of)
    s3fs.S3FileSystem().pipe_file("bucket/data/others/notes.txt", b"mine")
    with pytest.raises(UserError, match=r"--out s3://bucket/data/others holds other files \(notes.txt\)"):
        convert(mixed, "s3://bucket/data/others", progress=False)


@pytest.mark.parametrize("part", [(), ("--part", "1/2")], ids=["alone", "part"])
@pytest.mark.parametrize(
    ("out", "refused", "answer", "why"),
    [
        ("s3://nobody/shards", "", "", r"s3://nobody/shards\S*: .*; create the bucket first"),
        (URL, "run.json", "403 Access Denied", rf"{URL}/\S*run\.json: .*; give the credentials"),
        (URL, "train-00000.tar", "403 Access Denied", rf"{URL}/train-00000\.tar: .*; give the credentials"),
        (URL, "train-00000.tar", "507 XMinioStorageFull", rf"{URL}/train-00000\.tar: .*507.* \(tried 2 times\)"),
        (URL, "manifest.json", "403 Access Denied", rf"{URL}/manifest\.json: .*; give the credentials"),
    ],
)
def test_what_a_bucket_refuses_is_one_line(server, mixed, monkeypatch, capfd, out, refused, answer, why, part):
    if part and refused == "manifest.json":
        pytest.skip("merge writes it")
    from fasttrain.cli import main

    server.before_put = lambda name: answer if name == refused else ""
    monkeypatch.setattr(
        "sys.argv", ["fasttrain", "convert", "--source", str(mixed), "--out", out, "--cut", "none", *part]
    )
    with pytest.raises(SystemExit) as left:
        main()
    said = capfd.readouterr().err
    assert left.value.code == 2 and said.count("\n") == 1, said
    assert re.match(f"fasttrain: {why}", said), said
    if out == URL:
        assert "manifest.json" not in held()


def test_a_network_that_fails_for_a_moment_is_tried_again(server, mixed, tmp_path, folder_of):
    failed = []

    def once(name: str) -> str:
        if name == "train-00001.tar" and not failed:
            failed.append(name)
            return "400 Bad Request"
        return ""

    server.before_put = once
    convert(mixed, URL, **SETTINGS, progress=False)
    assert failed and held() == alone(mixed, tmp_path / "alone", folder_of)


@pytest.mark.parametrize("url", ["memory://bucket/shards", "file://{tmp_path}/there/shards"])
def test_any_url_of_fsspec_does(mixed, tmp_path, folder_of, monkeypatch, url):
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    url = url.format(tmp_path=tmp_path)
    whole = alone(mixed, tmp_path / "alone", folder_of)
    stopped = []
    normalize = parts.normalize

    def stop(data, **options):
        stopped.append(1)
        if len(stopped) == 12:
            raise RuntimeError
        return normalize(data, **options)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "normalize", stop)
        with pytest.raises(RuntimeError):
            convert(mixed, url, **SETTINGS, workers=1, progress=False)
    stopped.clear()
    with monkeypatch.context() as patch:
        patch.setattr(parts, "normalize", lambda data, **options: stopped.append(1) or normalize(data, **options))
        convert(mixed, url, **SETTINGS, progress=False)
    assert held(url) == whole and 0 < len(stopped) <= 20, "two shards were there"
    for number in (1, 2):
        convert_part(mixed, f"{url}-of-two", f"{number}/2", ShardSettings(**SETTINGS), progress=False)
    merge(f"{url}-of-two")
    assert held(f"{url}-of-two") == whole


def test_what_cannot_be_a_destination_is_said(mixed, tmp_path):
    with pytest.raises(UserError, match=r"did you mean 's3://bucket/shards'\? Give a string, because a Path"):
        convert(mixed, Path("s3://bucket/shards"), progress=False)
    with pytest.raises(UserError, match=r"--out https://127.0.0.1:1/shards: a web server can't be written to"):
        convert(mixed, "https://127.0.0.1:1/shards", progress=False)
    with pytest.raises(UserError, match="--format tar,beton can't be written to a URL"):
        convert(mixed, "memory://bucket/betons", format="tar,beton", progress=False)


def test_the_command_line_says_where_they_are(server, mixed):
    from typer.testing import CliRunner

    from fasttrain.cli import app

    said = CliRunner().invoke(app, ["convert", "--source", str(mixed), "--out", URL, "--cut", "none"])
    assert said.exit_code == 0, said.exception
    text = " ".join(said.output.split())
    assert f"fasttrain train {URL}" in text and f"listed in {URL}/rejected.tsv" in text
    assert "cat/broken.jpg: " in text
    assert json.loads(held()["manifest.json"])["counts"]["broken"] > 0


def test_what_is_appended_in_a_bucket_is_what_a_folder_would_hold(server, mixed, tmp_path, folder_of):
    """For two times, in which nothing old is written again and the old ids stay."""
    convert(mixed, URL, **SETTINGS, progress=False)
    alone(mixed, tmp_path / "alone", folder_of)
    for seed in (500, 600):
        before, old = held(), ShardSet.open(URL)
        grow(mixed, seed=seed)
        server.puts.clear()
        result = convert(mixed, URL, **SETTINGS, append=True, progress=False)
        convert(mixed, tmp_path / "alone", **SETTINGS, append=True, progress=False)
        new = ShardSet.open(URL)
        assert result.out == URL and result.photos == 10 and held() == folder_of(tmp_path / "alone")
        assert not server.puts.keys() & before.keys() - {"manifest.json"}
        assert (new.index["key"][: len(old)] == old.index["key"]).all() and len(new) == len(old) + 10
        assert new.verify() == []
    server.puts.clear()
    assert convert(mixed, URL, **SETTINGS, append=True, progress=False).already and not server.puts


@pytest.mark.slow
def test_a_killed_append_goes_on(server, mixed, tmp_path, folder_of):
    convert(mixed, URL, **SETTINGS, progress=False)
    alone(mixed, tmp_path / "alone", folder_of)
    grow(mixed)
    convert(mixed, tmp_path / "alone", **SETTINGS, append=True, progress=False)
    old = held()
    new = sorted(name for name in folder_of(tmp_path / "alone").keys() - old.keys() if name.endswith(".tar"))
    assert len(new) > 2
    killed_at(server, mixed, new[1], "--append")
    left = held()
    assert {name: left[name] for name in old} == old and new[0] in left and new[1] not in left
    assert len(ShardSet.open(URL)) == json.loads(old["manifest.json"])["index"]["samples"]
    server.puts.clear()
    convert(mixed, URL, **SETTINGS, append=True, progress=False)
    assert held() == folder_of(tmp_path / "alone")
    assert not server.puts[new[0]] and server.puts[new[1]]


@pytest.mark.parametrize("other", ["manifest.json", "train-00006.tar"])
def test_another_machine_that_writes_meanwhile_is_noticed(server, mixed, tmp_path, other):
    convert(mixed, URL, **SETTINGS, progress=False)
    first, files = held()["manifest.json"], s3fs.S3FileSystem()
    grow(mixed)

    def interfere(asked: str) -> str:
        if asked == "index-1.npy":
            server.before_put = lambda name: ""
            changed = first.replace(b"mixed", b"mixes") if other == "manifest.json" else b"another machine's"
            files.pipe_file(f"bucket/data/shards/{other}", changed)
        return ""

    server.before_put = interfere
    with pytest.raises(UserError, match=r"another machine has written there in the meantime; run the same command"):
        convert(mixed, URL, **SETTINGS, append=True, progress=False)
    if other == "manifest.json":
        files.pipe_file("bucket/data/shards/manifest.json", first)
    assert held()["manifest.json"] == first
    convert(mixed, URL, **SETTINGS, append=True, progress=False)
    assert ShardSet.open(URL).verify() == []


def test_what_another_machine_has_appended_is_not_removed(server, mixed):
    convert(mixed, URL, **SETTINGS, progress=False)
    files, changed = s3fs.S3FileSystem(), held()["manifest.json"].replace(b"mixed", b"mixes")
    grow(mixed)

    def interfere(asked: str) -> None:
        if asked == "splits.csv":  # which is read once the manifest has been
            files.pipe_file("bucket/data/shards/manifest.json", changed)
            files.pipe_file("bucket/data/shards/train-00006.tar", b"another machine's")

    server.before_get = interfere
    try:
        with pytest.raises(UserError, match="another machine has written there in the meantime"):
            convert(mixed, URL, **SETTINGS, append=True, progress=False)
    finally:
        server.before_get = lambda name: None
    assert held()["train-00006.tar"] == b"another machine's" and held()["manifest.json"] == changed
