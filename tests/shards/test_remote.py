"""Shards behind a URL: fetched, checked, kept in a bounded cache. In memory here, in a bucket in test_bucket.py."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest

from fasttrain import urls
from fasttrain.config.load import resolve
from fasttrain.config.values import CacheSize
from fasttrain.errors import UserError
from fasttrain.extras import install
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import SHARD_WINDOW, EpochPlan
from fasttrain.loaders.read_ahead import ReadAhead, require_room
from fasttrain.loaders.registry import loader_class
from fasttrain.loaders.torchvision import TorchvisionLoader
from fasttrain.shards import remote
from fasttrain.shards.convert import convert, ensure_shards
from fasttrain.shards.reader import ShardSet
from tests.support.patience import wait_until

URL = "memory://bucket/sample"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(urls, "WAITS", (0.01, 0.01))
    return tmp_path / "cache" / "remote"


@pytest.fixture(scope="module")
def many(photographs, tmp_path_factory):
    """The session's photographs in shards of three: more of them than are mixed at a time, three times over."""
    out = tmp_path_factory.mktemp("many") / "shards"
    convert(photographs, out, workers=1, progress=False, shard_size=3)
    return out


@pytest.fixture
def memory(many):
    """fsspec's memory file system, `many` in it at `URL`."""
    files = fsspec.filesystem("memory")
    for path in many.iterdir():
        files.pipe_file(f"/bucket/sample/{path.name}", path.read_bytes())
    yield files
    files.rm("/bucket", recursive=True)


def tars(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in cache.glob("*/*.tar")}


def await_tars(cache: Path, count: int) -> None:
    """Returns once the first `count` training shards are there."""
    expected = {f"train-{number:05}.tar" for number in range(count)}
    wait_until(lambda: expected <= tars(cache).keys())


def said(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_they_are_the_local_ones(memory, many, cache):
    ours, theirs = ShardSet.open(f"{URL}"), ShardSet.open(many)
    assert ours.fingerprint == theirs.fingerprint and np.array_equal(ours.index, theirs.index)
    assert not tars(cache), "shards come when they are needed"
    assert ours.bytes(0) == theirs.bytes(0)
    assert list(tars(cache)) == [ours.manifest.shards[0].name]
    assert all(ours.bytes(sample) == theirs.bytes(sample) for sample in range(len(ours)))
    assert ours.verify() == [] and ours.describe(0).startswith(f"{URL}/train-00000.tar (")


def test_what_is_there_is_not_fetched_again(memory):
    shards = ShardSet.open(URL)
    expected = bytes(shards.bytes(2))
    for name in ("train-00000.tar", "train-00001.tar", "index.npy"):
        memory.rm(f"/bucket/sample/{name}")
    assert ShardSet.open(URL).bytes(2) == expected
    memory.rm("/bucket/sample/manifest.json")  # a worker must not see others than its loader does
    assert pickle.loads(pickle.dumps(shards)).bytes(2) == expected
    with pytest.raises(UserError) as error:
        shards.bytes(3)
    assert f"{URL}/train-00001.tar does not exist" in said(error)


def test_other_photographs_under_the_same_names_and_sizes(memory):
    """The manifest, which is read at each start, tells them from those in the cache."""
    before = ShardSet.open(URL)
    sample = bytes(before.bytes(0))
    start, name = int(before.index[0]["offset"]), before.manifest.shards[0].name
    tar = bytearray(memory.cat_file(f"/bucket/sample/{name}"))
    tar[start + len(sample) - 1] ^= 1
    memory.pipe_file(f"/bucket/sample/{name}", bytes(tar))
    assert bytes(ShardSet.open(URL).bytes(0)) == sample, "an object that the manifest doesn't speak of is not taken"
    manifest = memory.cat_file("/bucket/sample/manifest.json")
    now = hashlib.sha256(tar).hexdigest().encode()
    memory.pipe_file("/bucket/sample/manifest.json", manifest.replace(before.manifest.shards[0].sha256.encode(), now))
    after = ShardSet.open(URL)
    assert after.fingerprint != before.fingerprint and bytes(after.bytes(0)) == bytes(tar[start : start + len(sample)])
    assert bytes(before.bytes(0)) == sample


def test_a_cut_off_file_in_the_cache_is_fetched_again(memory, many, cache):
    sample = bytes(ShardSet.open(URL).bytes(0))
    (path,) = cache.glob("*/train-00000.tar")
    path.write_bytes(path.read_bytes()[:100])
    assert ShardSet.open(URL).bytes(0) == sample


def test_wrong_bytes_are_fetched_twice_and_refused(memory, cache):
    good = memory.cat_file("/bucket/sample/train-00001.tar")
    memory.pipe_file("/bucket/sample/train-00001.tar", good[:-1] + b"x")
    shards = ShardSet.open(URL)
    with pytest.raises(UserError) as error:
        shards.bytes(3)
    assert f"{URL}/train-00001.tar: its bytes don't match manifest.json" in said(error)
    assert f"{URL}/train-00001.tar" in "".join(shards.verify())
    assert "train-00001.tar" not in tars(cache) and not list(cache.glob("*/*.tmp"))
    memory.pipe_file("/bucket/sample/index.npy", memory.cat_file("/bucket/sample/index.npy") + b"x")
    next(cache.glob("*/index.npy")).unlink()
    with pytest.raises(UserError, match=r"index\.npy: its bytes"):
        ShardSet.open(URL)
    memory.pipe_file("/bucket/sample/train-00001.tar", good[:-1])
    with pytest.raises(UserError, match=r"train-00001\.tar: its bytes"):
        shards.bytes(3)


def test_a_worker_s_error_stays_one_line(memory):
    memory.rm("/bucket/sample/train-00001.tar")
    shards = ShardSet.open(URL)
    settings = LoaderSettings(batch_size=4, image_size=32, crop=None, workers=1)
    loader = TorchvisionLoader(shards, shards.ids("train"), settings)
    told = ""
    try:  # not pytest.raises: it would keep the worker alive for five seconds more
        list(loader)
    except UserError as error:
        told = str(error)
    loader.close()
    assert told.startswith(f"{URL}/train-00001.tar does not exist") and "\n" not in told


def test_the_least_recently_used_shard_goes_and_mapped_ones_stay(memory, cache):
    whole = ShardSet.open(URL)
    sizes = [shard.bytes for shard in whole.manifest.shards]
    kept = sum(path.stat().st_size for path in cache.glob("*/*"))  # the manifest and the index count, and stay
    bound = kept + max(sizes) * 4
    shards = ShardSet.open(URL, cache_size=CacheSize(bound))
    mapped = shards.bytes(0)
    for number in range(4):
        shards.fetch(number)
    shards.fetch(1)  # so that the next to go is number 2
    before = set(tars(cache))
    shards.fetch(4)
    assert before - set(tars(cache)) == {shards.manifest.shards[2].name}
    for number in range(5, len(sizes)):
        shards.fetch(number)
        assert sum(path.stat().st_size for path in cache.glob("*/*")) <= bound
        assert "train-00000.tar" in tars(cache), "it is mapped"
    assert bytes(mapped) == whole.bytes(0)


def test_a_process_lets_go_of_shards_when_the_cache_is_small(memory, cache):
    bound = 8 * max(shard.bytes for shard in ShardSet.open(URL).manifest.shards)
    shards = ShardSet.open(URL, cache_size=CacheSize(bound))
    for sample in range(len(shards)):
        shards.bytes(sample)
        assert sum(tars(cache).values()) <= bound
    assert len(tars(cache)) >= 5, "but no more than it must"


def test_another_process_s_mapped_shard_stays(memory, many, cache):
    fetch = "import sys; from fasttrain.shards.reader import ShardSet; s = ShardSet.open(sys.argv[1]); "
    hold = fetch + "b = s.bytes(0); print('held', flush=True); sys.stdin.read()"
    url = f"file://{many}"
    with subprocess.Popen(
        [sys.executable, "-c", hold, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        shards = ShardSet.open(url, cache_size=CacheSize(1))
        shards.fetch(1)
        shards.fetch(2)
        assert set(tars(cache)) == {"train-00000.tar", "train-00002.tar"}
        other.stdin.close()
        assert other.wait() == 0
    shards.fetch(3)
    assert set(tars(cache)) == {"train-00003.tar"}


@pytest.mark.parametrize("by_shard", [False, True])
def test_a_window_of_shards_is_fetched_ahead(memory, cache, by_shard, monkeypatch):
    monkeypatch.setattr("fasttrain.loaders.read_ahead._PHOTOGRAPHS", 3 * SHARD_WINDOW)
    shards = ShardSet.open(URL)
    plan = EpochPlan.evaluation(shards.ids("train"), shards.sizes(), size=32)
    planned = iter([plan.batch(number, 3) for number in range(plan.batch_count(3))])
    ahead = ReadAhead(shards, planned, by_shard=by_shard)
    ahead.advance(3)
    await_tars(cache, SHARD_WINDOW + 1)
    ahead.close()
    assert len(list(planned)) == plan.batch_count(3) - SHARD_WINDOW - 1, "no more than that"
    assert not shards._maps, "nobody but the one who decodes maps them"


@pytest.mark.parametrize("name", ["native", "torchvision", "dali"])
def test_loaders_fetch_the_window_that_comes(memory, cache, name):
    shards = ShardSet.open(URL)
    if reason := loader_class(name).unavailable(shards, "cpu"):
        pytest.skip(reason)
    settings = LoaderSettings(batch_size=3, image_size=32, crop=None, workers=1, shuffle="shards")
    loader = loader_class(name)(shards, shards.ids("train"), settings)
    batches = iter(loader)
    next(batches)
    await_tars(cache, SHARD_WINDOW + 1)
    batches.close()
    loader.close()


def test_too_small_a_cache_is_told_at_the_start(memory):
    sizes = sorted(shard.bytes for shard in ShardSet.open(URL).manifest.shards)
    shards = ShardSet.open(URL, cache_size=CacheSize(sum(sizes) - 1))
    require_room(shards, "shards")
    with pytest.raises(UserError) as error:
        require_room(shards, "full")
    assert "--shuffle shards" in said(error) and URL in said(error)
    with pytest.raises(UserError, match="--shard-size"):
        require_room(ShardSet.open(URL, cache_size=CacheSize(sizes[-1] * 20)), "shards")
    require_room(ShardSet.open(URL, cache_size=CacheSize(sum(sizes))), "full")
    require_room(ShardSet.open(URL), "full")


def test_a_web_server_that_sends_no_parts(many, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(remote, "_PIECE", 1000)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(many))
    handler.func.log_message = lambda *arguments: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        shards = ShardSet.open(f"http://127.0.0.1:{server.server_port}")
        assert shards.bytes(1) == ShardSet.open(many).bytes(1)
        server.shutdown()


def test_a_shard_s_name_stays_inside_the_cache(memory):
    text = memory.cat_file("/bucket/sample/manifest.json")
    memory.pipe_file("/bucket/sample/manifest.json", text.replace(b'"train-00000.tar"', b'"../train-00000.tar"'))
    with pytest.raises(UserError, match="is not a valid shard name"):
        ShardSet.open(URL)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("memory://bucket/empty", "memory://bucket/empty/manifest.json does not exist; convert into a local folder"),
        ("gs://bucket/sample", f"gs://bucket/sample needs a driver: {install('gcs')}"),
        ("carrier-pigeon://bucket", "carrier-pigeon://bucket: Protocol not known"),
    ],
)
def test_what_is_wrong_with_a_url_is_one_line(monkeypatch, url, expected):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError) as error:
        ShardSet.open(url)
    assert said(error).startswith(expected)


def test_a_cache_that_cannot_be_written_is_one_line(memory, many, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError) as error:
        ShardSet.open(URL)
    assert "is a file" in said(error) and "FASTTRAIN_CACHE" in said(error)
    small = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000)); "
    read = "from fasttrain.shards.reader import ShardSet; ShardSet.open(sys.argv[1]).bytes(0)"
    ended = subprocess.run(
        [sys.executable, "-c", small + read, f"file://{many}"],
        env={**os.environ, "FASTTRAIN_CACHE": str(tmp_path / "full")},
        capture_output=True,
        text=True,
    )
    assert (
        "UserError" in ended.stderr.splitlines()[-1]
        and "train-00000.tar: exceeds the greatest file size" in ended.stderr
    )
    assert not list((tmp_path / "full").glob("remote/*/*.tar"))
    assert not list((tmp_path / "full").glob("remote/*/*.tmp"))


def test_settings_keep_a_url(tmp_path):
    config = resolve({"data": f"{URL}/", "cache_size": "50GB"})
    assert config.data == URL and resolve(config.plain()) == config and config.plain()["data"] == URL
    assert resolve({"data": "shards"}) == resolve({"data": Path("shards")}) == resolve({})
    for data in (Path("s3://bucket/sample"), "s3:/bucket/sample"):
        with pytest.raises(UserError, match="did you mean 's3://bucket/sample'"):
            ensure_shards(data)
    with pytest.raises(UserError, match="cache_size = 'much' is invalid"):
        resolve({"cache_size": "much"})
    sizes = {"50GB": 50 * 10**9, "50": 50 * 10**9, "1.5 MiB": 3 * 2**19, "12b": 12}
    assert {text: CacheSize.parse(text).bytes for text in sizes} == sizes
    with pytest.raises(UserError, match="did you mean 's3://bucket/sample'"):
        convert("sample", Path("s3://bucket/sample"))
