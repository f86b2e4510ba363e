from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from fasttrain.errors import UserError
from fasttrain.shards import reader
from fasttrain.shards.reader import ShardSet


@pytest.fixture
def copied(shard_folder, tmp_path) -> Path:
    return Path(shutil.copytree(shard_folder, tmp_path / "copy"))


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        ShardSet.open(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_rows_lie_as_the_contract_says(shard_folder, decoded) -> None:
    shards = ShardSet.open(shard_folder)
    assert len(shards) == 96 and isinstance(shards.index, np.memmap)
    assert shards.classes == sorted(shards.classes)
    assert [shards.class_to_idx[name] for name in shards.classes] == list(range(6))
    assert np.concatenate([shards.ids("train"), shards.ids("val"), shards.ids("test")]).tolist() == list(range(96))
    assert {split: len(shards.ids(split)) for split in ("train", "val", "test")} == shards.manifest.splits
    assert (np.diff(shards.index["shard"].astype(int)) >= 0).all()
    assert (shards.sizes().dtype, shards.labels().dtype) == (np.int32, np.int64)
    for sample in (0, 50, 95):
        pixels = decoded(shards.bytes(sample))
        assert pixels.shape[:2] == tuple(shards.sizes()[sample])
        assert shards.index[sample]["key"].decode().split("/")[0] == shards.classes[shards.labels()[sample]]
    assert shards.bytes(0).readonly
    assert shards.verify() == []


def test_sequential_readers_see_mixed_classes(shard_folder) -> None:
    shards = ShardSet.open(shard_folder)
    assert len(set(shards.labels()[:20].tolist())) >= 5


def _first_bytes(shards: ShardSet) -> list[bytes]:
    return [bytes(shards.bytes(sample)[:64]) for sample in range(0, len(shards), 7)]


def test_pickles_and_forks(shard_folder) -> None:
    shards = ShardSet.open(shard_folder)
    expected = _first_bytes(shards)
    assert _first_bytes(pickle.loads(pickle.dumps(shards))) == expected
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_first_bytes, (shards,)) == expected


def test_more_shards_than_descriptors(shard_folder, monkeypatch) -> None:
    monkeypatch.setattr(reader, "_OPEN_SHARDS", 1)
    shards = ShardSet.open(shard_folder)
    assert len(shards.manifest.shards) > 2
    views = [shards.bytes(sample) for sample in range(len(shards))]
    assert len(shards._maps) == 1
    assert all(bytes(view[:3]) == b"\xff\xd8\xff" for view in views)  # held views outlive their map's turn


def test_not_shards(tmp_path) -> None:
    assert "fasttrain convert" in refused(tmp_path / "nowhere")
    assert "holds no shards" in refused(tmp_path)
    (tmp_path / ".parts").mkdir()
    assert "didn't finish" in refused(tmp_path)


def test_newer_and_damaged_manifests(copied) -> None:
    manifest = copied / "manifest.json"
    plain = json.loads(manifest.read_bytes())
    manifest.write_text(json.dumps({**plain, "schema": 3}))
    assert "schema 3 is newer" in refused(copied)
    manifest.write_text(json.dumps({**plain, "shards": [{"name": "x"}]}))
    assert "damaged (shards.0." in refused(copied)
    manifest.write_text(manifest.read_text()[:100])
    assert "damaged" in refused(copied)


def test_missing_and_short_shards(copied) -> None:
    tar = copied / "train-00001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-1])
    said = refused(copied)
    assert str(tar) in said and f"{len(whole):,}" in said and f"{len(whole) - 1:,}" in said
    tar.unlink()
    assert f"{tar}: this shard is missing" in refused(copied)


def test_index_that_does_not_fit(copied, shard_folder) -> None:
    index = np.load(shard_folder / "index.npy")
    np.save(copied / "index.npy", index[:-1])
    assert "95 rows, but the manifest says 96" in refused(copied)
    np.save(copied / "index.npy", np.zeros(96))
    assert "isn't an index" in refused(copied)
    (copied / "index.npy").write_bytes(b"\x93NUMPY")
    assert "damaged" in refused(copied)
    (copied / "index.npy").unlink()
    assert "missing" in refused(copied)


def test_another_label_in_the_index_is_refused(copied) -> None:
    """It would be learned, and nothing else would show it."""
    index = np.load(copied / "index.npy")
    index["label"][4] = (index["label"][4] + 1) % 6
    np.save(copied / "index.npy", index)
    assert "its bytes have changed since it was written" in refused(copied)


def test_verify_finds_a_changed_byte(copied) -> None:
    tar = copied / "val-00000.tar"
    data = bytearray(tar.read_bytes())
    data[1000] ^= 1
    tar.write_bytes(data)
    problems = ShardSet.open(copied).verify()
    assert len(problems) == 1 and str(tar) in problems[0]


def test_fingerprint_and_descriptions(copied, shard_folder) -> None:
    shards = ShardSet.open(shard_folder)
    assert shards.fingerprint == ShardSet.open(copied).fingerprint
    assert shards.fingerprint.startswith("sha256:")
    assert shards.describe(0).endswith(f"train-00000.tar ({shards.index[0]['key'].decode()})")
    plain = json.loads((copied / "manifest.json").read_bytes())
    (copied / "manifest.json").write_text(json.dumps(plain))
    assert shards.fingerprint != ShardSet.open(copied).fingerprint
