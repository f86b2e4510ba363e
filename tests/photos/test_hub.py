"""`hf://OWNER/NAME`: a Hub on loopback, spoken to by its own client."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from fasttrain.errors import UserError
from fasttrain.photos.source import Source
from fasttrain.photos.sources import open_source
from tests.support.hf_data import Hub, jpeg, rows, running_hub, with_features, write_parquet


def parquet(folder: Path, first: int, count: int) -> bytes:
    return write_parquet(folder / "some.parquet", with_features(rows(first, count))).read_bytes()


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    """A Hub that the client in this process takes for the real one, with its cache in `home`."""
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home"))
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        place = "{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub.url}/{place}")
        yield hub


@pytest.fixture
def fruit(hub, tmp_path) -> dict[str, bytes]:
    """The files of the data set me/fruit."""
    files = {
        "README.md": b"---\nlicense: mit\n---\n# Fruit\n",
        "data/train-00000-of-00002.parquet": parquet(tmp_path, 0, 4),
        "data/train-00001-of-00002.parquet": parquet(tmp_path, 4, 4),
        "data/test-00000-of-00001.parquet": parquet(tmp_path, 8, 2),
        "images/cover.png": b"x",
    }
    hub.add("me/fruit", files)
    return files


def refused(source: str) -> str:
    with pytest.raises(UserError) as caught:
        open_source(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def numbers(source: Source) -> list[int]:
    found = [int(Path(path).stem) for path in source.paths]
    assert [source.read(row) for row in range(len(found))] == [jpeg(number) for number in found]
    return sorted(found)


def test_a_data_set_is_downloaded_once(hub, fruit) -> None:
    source = open_source("hf://me/fruit")
    assert numbers(source) == list(range(10)) and source.classes == ("pear", "apple")
    assert sorted(source.splits.tolist()) == [-1] * 8 + [2] * 2
    assert (source.kind, source.name) == ("huggingface", "me-fruit")
    asked = hub.asked[:]
    assert not any("cover.png" in each for each in asked), "files of no rows stay where they are"
    again = open_source("hf://datasets/me/fruit")
    assert again.fingerprint == source.fingerprint
    assert [each for each in hub.asked[len(asked) :] if ".parquet" in each] == []


def test_what_was_downloaded_is_used_without_a_network(hub, fruit, monkeypatch) -> None:
    first = open_source("hf://me/fruit").fingerprint
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert open_source("hf://me/fruit").fingerprint == first
    said = refused("hf://me/other")
    assert "http://127.0.0.1:9 can't be reached" in said and "--source DIR" in said
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert open_source("hf://me/fruit").fingerprint == first
    assert "HF_HUB_OFFLINE is set" in refused("hf://me/other")


def test_a_connection_that_breaks_is_taken_up_again(hub, fruit) -> None:
    hub.cut = "data/train-00001-of-00002.parquet"
    assert numbers(open_source("hf://me/fruit")) == list(range(10))
    assert hub.cut is None


def test_another_byte_than_the_hubs_is_noticed_and_fetched_again(hub, fruit) -> None:
    hub.damage = "data/train-00000-of-00002.parquet"
    assert "data/train-00000-of-00002.parquet doesn't match the Hub's SHA-256" in refused("hf://me/fruit")
    hub.damage = None
    assert numbers(open_source("hf://me/fruit")) == list(range(10))


def test_a_new_commit_is_another_source(hub, fruit, tmp_path) -> None:
    first = open_source("hf://me/fruit")
    hub.add("me/fruit", {**fruit, "data/test-00000-of-00001.parquet": parquet(tmp_path, 20, 2)}, "v2")
    second = open_source("hf://me/fruit@v2")
    assert numbers(second)[-2:] == [20, 21] and second.fingerprint != first.fingerprint
    assert "has no such revision" in refused("hf://me/fruit@v3")


def test_configurations_and_the_hubs_own_parquet(hub, tmp_path) -> None:
    hub.add("me/cats", {"README.md": b"# Cats\n", "cats.zip": b"x"})
    said = refused("hf://me/cats")
    assert "holds no Parquet files, and the Hub has converted none" in said
    files = {f"{config}/train/0000.parquet": parquet(tmp_path, first, 4) for config, first in (("a", 0), ("b", 4))}
    hub.add("me/cats", files, "refs/convert/parquet")
    assert "several configurations (a, b); give hf://me/cats:CONFIGURATION" in refused("hf://me/cats")
    assert numbers(open_source("hf://me/cats:b")) == [4, 5, 6, 7]
    assert "no configuration 'bb', only a, b; did you mean 'b'?" in refused("hf://me/cats:bb")
    hub.add("me/large", {"README.md": b""})
    hub.add("me/large", {"default/partial-train/0000.parquet": files["a/train/0000.parquet"]}, "refs/convert/parquet")
    hub.files["me/large", "refs/convert/parquet"]["default/partial-test/0000.parquet"] = b""
    assert "the Hub has converted only the first 5 GB" in refused("hf://me/large")


def test_what_is_not_there_or_not_allowed(hub, fruit) -> None:
    assert "give hf://OWNER/NAME" in refused("hf://me/fruit/data/x")
    said = refused("hf://me/fruits")
    assert f"{hub.url} has no such data set" in said and "HF_TOKEN" in said
    hub.token, hub.gated = "secret", True
    assert "its owner requires your consent" in refused("hf://me/fruit")


def test_convert_honours_the_environment(hub, fruit, tmp_path) -> None:
    hub.token = "secret"
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "secret"}
    out = tmp_path / "shards"
    done = subprocess.run(
        [sys.executable, "-m", "fasttrain", "convert", "--source", "hf://me/fruit", "--out", str(out)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "me-fruit: image = image, label = label; train 8, test 2" in done.stderr
    assert (out / "manifest.json").exists() and list((tmp_path / "hf").glob("hub/datasets--me--fruit"))
