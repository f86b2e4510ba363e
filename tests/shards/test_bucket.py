"""Shards in a bucket: moto's S3 server on a loopback port, read by s3fs, trained on as from a folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from fasttrain import evaluate, train, urls
from fasttrain.cli import app
from fasttrain.config.values import CacheSize
from fasttrain.errors import UserError
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.registry import loader_class
from fasttrain.shards import remote
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet
from tests.support.patience import PATIENCE
from tests.support.runs import SMALL
from tests.support.s3 import s3_server, s3fs

URL = "s3://bucket/sample"


@pytest.fixture(scope="module")
def server(photographs, tmp_path_factory):
    shards = tmp_path_factory.mktemp("many") / "shards"
    convert(photographs, shards, workers=1, progress=False, shard_size=1)
    with s3_server() as bucket:
        s3fs.S3FileSystem().put(f"{shards}/", "bucket/sample/", recursive=True)
        bucket.shards = shards
        yield bucket


@pytest.fixture
def bucket(server, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(urls, "WAITS", (0.2, 0.2))
    server.gets.clear()
    yield server
    server.before_get = lambda name: None


def available(loader: str, shards: ShardSet) -> str:
    if reason := loader_class(loader).unavailable(shards, "cpu"):
        pytest.skip(reason)
    return loader


@pytest.mark.parametrize(("loader", "workers"), [("native", 1), ("torchvision", 2)])
@pytest.mark.full
def test_training_on_a_bucket_is_training_on_the_folder(bucket, tmp_path, loader, workers):
    available(loader, ShardSet.open(bucket.shards))
    settings = {**SMALL, "loader": loader, "workers": workers, "epochs": 1, "limit_batches": 2, "track": False}
    settings |= {"deterministic": True, "out": tmp_path / "runs"}
    there, here = train(data=URL, **settings), train(data=bucket.shards, **settings)
    assert there.history[0]["train_loss"] == here.history[0]["train_loss"]
    assert there.evaluation.top1 == here.evaluation.top1
    assert f'data = "{URL}"' in (there.folder / "config.toml").read_text()
    assert set(bucket.gets.values()) == {1} and len(bucket.gets) > 32, "the manifest, the index, two batches' shards"


@pytest.mark.slow
def test_a_run_on_a_bucket_is_resumed_and_evaluated(bucket, tmp_path):
    settings = {**SMALL, "limit_batches": 1, "track": False, "out": tmp_path / "runs"}
    run = train(data=URL, **{**settings, "epochs": 1}).folder
    assert len(train(resume=str(run), epochs=2).history) == 2
    line = ["evaluate", "--checkpoint", str(run), "--data", URL, "--workers", "0", "--cache-size", "1GB", "--json"]
    told = CliRunner().invoke(app, line)
    assert told.exception is None
    assert json.loads(told.stdout)["top1"] == evaluate(run, bucket.shards, workers=0).top1


@pytest.mark.parametrize(("loader", "workers"), [("native", 1), ("torchvision", 2), ("dali", 1)])
@pytest.mark.slow
def test_an_epoch_through_a_small_cache_fetches_each_shard_once(bucket, tmp_path, loader, workers):
    shards = ShardSet.open(URL)
    available(loader, shards)
    shards = ShardSet.open(URL, cache_size=CacheSize(25 * max(shard.bytes for shard in shards.manifest.shards)))
    settings = LoaderSettings(batch_size=4, image_size=32, crop=Crop(), workers=workers, shuffle="shards")
    batches = loader_class(loader)(shards, shards.ids("train"), settings)
    bucket.gets.clear()
    seen = np.concatenate([ids.numpy() for _, _, ids in batches])
    batches.close()
    assert sorted(seen.tolist()) == shards.ids("train").tolist()
    assert set(bucket.gets.values()) == {1} and len(bucket.gets) == len({*shards.index["shard"][shards.ids("train")]})


@pytest.mark.slow
def test_two_processes_fetch_a_shard_once(bucket, tmp_path):
    read = (
        "import sys; from fasttrain.shards.reader import ShardSet; s = ShardSet.open(sys.argv[1]); "
        "print('ready', flush=True); sys.stdin.readline(); print(len(s.bytes(0)))"
    )

    def slowly(name: str) -> None:
        if name == "train-00000.tar":
            time.sleep(0.5)  # time for the other one to ask too

    bucket.before_get = slowly
    processes = [
        subprocess.Popen([sys.executable, "-c", read, URL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    lengths = {process.communicate(timeout=PATIENCE)[0] for process in processes}
    assert len(lengths) == 1 and int(lengths.pop()) > 0
    assert bucket.gets["train-00000.tar"] == 1


def test_bytes_spoilt_on_the_way_are_fetched_again_once(bucket, monkeypatch):
    monkeypatch.setattr(remote, "_PIECE", 3000)  # the driver itself checks objects that are read in one piece
    shards, name = ShardSet.open(URL), "train-00000.tar"
    bucket.spoilt = [name] * 100
    with pytest.raises(UserError, match=rf"{URL}/{name}: its bytes don't match .*: aws s3 sync shards {URL}"):
        shards.bytes(0)
    assert bucket.gets[name] == 2 * -(-shards.manifest.shards[0].bytes // 3000)
    bucket.spoilt = [name]
    assert shards.bytes(0) == ShardSet.open(bucket.shards).bytes(0)


def test_a_cut_off_object_is_refused(bucket, monkeypatch):
    monkeypatch.setattr(remote, "_PIECE", 3000)
    files, path = s3fs.S3FileSystem(), "bucket/sample/train-00001.tar"
    whole = files.cat_file(path)
    files.pipe_file(path, whole[:4000])
    with pytest.raises(UserError, match=r"train-00001\.tar: its bytes don't match"):
        ShardSet.open(URL).bytes(1)
    files.pipe_file(path, whole)


@pytest.mark.slow
def test_a_server_that_comes_back_is_asked_again(bucket, monkeypatch):
    monkeypatch.setattr(remote, "_PIECE", 3000)
    monkeypatch.setattr(urls, "WAITS", (0.2,) * 1000)
    shards = ShardSet.open(URL)
    died = threading.Event()

    def die_once(name: str) -> None:
        if bucket.gets[name] == 3 and not died.is_set():
            died.set()
            bucket.stop()
            threading.Timer(0.3, bucket.start).start()
            raise ConnectionAbortedError

    bucket.before_get = die_once
    assert shards.bytes(0) == ShardSet.open(bucket.shards).bytes(0)
    assert died.is_set()


@pytest.mark.slow
def test_a_server_that_stays_away_is_one_line(bucket, monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "_PIECE", 3000)
    monkeypatch.setattr(urls, "WAITS", (0.1,))
    shards = ShardSet.open(URL)

    def die(name: str) -> None:
        if bucket.gets[name] == 3:
            bucket.stop()
            raise ConnectionAbortedError

    bucket.before_get = die
    with pytest.raises(UserError) as error:
        shards.bytes(0)
    bucket.start()
    assert re.fullmatch(
        rf"{URL}/train-00000\.tar: .+ \(tried 2 times\); check the URL and the network", str(error.value)
    )
    assert not list((tmp_path / "cache").glob("remote/*/*.tmp"))
    assert len(shards.bytes(0)) > 0


def test_a_missing_bucket_and_missing_rights_are_one_line(bucket, monkeypatch):
    with pytest.raises(
        UserError, match=r"s3://nobody/sample/manifest.json does not exist; .*aws s3 sync shards s3://nobody"
    ):
        ShardSet.open("s3://nobody/sample")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=r"Unable to locate credentials; give the credentials .*FSSPEC_S3_ANON=true"):
        ShardSet.open(URL)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_the_command_line_takes_a_url(bucket, tmp_path):
    line = [
        "train",
        "--data",
        URL,
        "--cache-size",
        "100KB",
        "--no-pretrained",
        "--track",
        "none",
        "--out",
        str(tmp_path),
    ]
    error = CliRunner().invoke(app, line).exception
    assert isinstance(error, UserError) and re.fullmatch(rf"{URL}: .* 0\.1 MB; add --shuffle shards.*", str(error))
