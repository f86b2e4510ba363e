"""`fasttrain inspect` on shards that are well, that hold copies, and that are broken in every way."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from fasttrain.errors import UserError
from fasttrain.inspection import header
from fasttrain.inspection.inspect import inspect
from fasttrain.photos.cut import native_available
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet


@pytest.fixture(scope="module")
def copies(photographs, tmp_path_factory) -> Path:
    """Shards of train/ and val/ folders: val holds a photograph of train as it is, one smaller and at another quality,
    and one under a wrong class; train has a greyscale, a progressive and a broken file."""
    root, out = tmp_path_factory.mktemp("copies") / "photographs", tmp_path_factory.mktemp("copies") / "shards"
    for name in ("pizza", "soup"):
        taken = sorted((photographs / name).iterdir())
        for split, files in (("train", taken[:6]), ("val", taken[6:9])):
            (root / split / name).mkdir(parents=True)
            for file in files:
                shutil.copy(file, root / split / name)
    pizzas = sorted((root / "train" / "pizza").iterdir())
    shutil.copy(pizzas[0], root / "val" / "pizza" / "same.jpg")
    again = Image.open(pizzas[1])
    again.resize((again.width * 3 // 4, again.height * 3 // 4)).save(root / "val" / "pizza" / "smaller.jpg", quality=60)
    Image.open(pizzas[2]).save(root / "val" / "soup" / "mislabelled.jpg", quality=85)
    soups = sorted((root / "train" / "soup").iterdir())
    Image.open(soups[0]).convert("L").save(soups[0])
    Image.open(soups[1]).save(soups[1], progressive=True, subsampling="4:4:4")
    (root / "train" / "soup" / "broken.jpg").write_bytes(soups[2].read_bytes()[:500])
    convert(root, out, workers=1, progress=False, cut="none")
    return out


def test_sound_shards(shard_folder):
    found = inspect(shard_folder, verify=True, progress=False)
    shards = ShardSet.open(shard_folder)
    assert found.verified and found.decoded and not found.problems and not found.broken
    assert found.photographs == len(shards) == 96
    for split in ("train", "val", "test"):
        labels = shards.labels()[shards.ids(split)]
        assert found.splits[split] == {name: int((labels == i).sum()) for i, name in enumerate(shards.classes)}
    assert found.sampling == {"4:2:0": 96} and found.progressive == 0
    assert (found.width.min, found.width.max) == (shards.index["width"].min(), shards.index["width"].max())
    assert found.height.median == int(np.median(shards.index["height"]))
    assert found.shard_bytes == sum(path.stat().st_size for path in shard_folder.glob("*.tar"))
    assert found.beton_bytes == sum(path.stat().st_size for path in shard_folder.glob("*.beton"))
    assert json.loads(json.dumps(found.to_dict()))["counts"]["photos"] == 96


def test_copies_across_splits_and_classes_are_found(copies):
    found = inspect(copies, progress=False).duplicates
    pairs = {(pair.first.key, pair.second.key): pair for pair in found.pairs}
    by_name = {second.split("/")[-1]: pair for (_, second), pair in pairs.items()}
    assert by_name["same"].identical and by_name["same"].distance == 0
    assert not by_name["smaller"].identical and by_name["smaller"].distance <= 4
    for name in ("same", "smaller", "mislabelled"):
        assert by_name[name].across and (by_name[name].first.split, by_name[name].second.split) == ("train", "val")
        assert by_name[name].relabelled == (name == "mislabelled")
    assert found.leaked == {"val": 3, "test": 0}
    assert found.across == 3 and all(pair.across for pair in found.pairs[:3])


def test_kinds_of_jpeg_and_rejected_files_are_counted(copies):
    found = inspect(copies, duplicates=False, progress=False)
    assert found.sampling["grey"] == 1 and found.sampling["4:4:4"] == 1 and found.progressive == 1
    assert sum(found.sampling.values()) == found.photographs
    assert sum(found.rejected.values()) == found.counts["broken"] == 1
    assert "truncated" in next(iter(found.rejected))
    assert found.duplicates is None and not found.decoded


def test_headers_read_the_same_without_the_native_module(copies, monkeypatch):
    shards = ShardSet.open(copies)
    ours = [header.jpeg_header(shards.bytes(sample)) for sample in range(len(shards))]
    monkeypatch.setattr(header, "native_available", lambda: False)
    assert [header.jpeg_header(shards.bytes(sample)) for sample in range(len(shards))] == ours


def test_raw_shards(photographs, tmp_path):
    convert(photographs, tmp_path / "raw", workers=1, progress=False, raw=True, max_size=48)
    found = inspect(tmp_path / "raw", verify=True, progress=False)
    assert found.raw and not found.sampling and not found.problems and not found.broken
    assert found.width.max <= 48 and found.duplicates is not None


def test_shards_behind_a_url(shard_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    files = fsspec.filesystem("memory")
    try:
        for path in shard_folder.iterdir():
            if path.is_file() and path.suffix != ".beton":
                files.pipe_file(f"/inspected/{path.name}", path.read_bytes())
        found = inspect("memory://inspected", verify=True, progress=False)
        assert found.photographs == 96 and not found.problems and not found.broken
        tar = next(path.name for path in shard_folder.glob("val*.tar"))
        files.pipe_file(f"/inspected/{tar}", bytes((shard_folder / tar).stat().st_size))
        shutil.rmtree(tmp_path / "cache")
        found = inspect("memory://inspected", verify=True, progress=False)
        assert len(found.problems) == 1 and tar in found.problems[0]
    finally:
        files.rm("/inspected", recursive=True)


@pytest.fixture
def broken(shard_folder, tmp_path) -> Path:
    """One photograph damaged, one shard cut off, one gone."""
    folder = tmp_path / "broken"
    shutil.copytree(shard_folder, folder)
    shards = ShardSet.open(shard_folder)
    row = shards.index[3]
    with (folder / shards.manifest.shards[0].name).open("r+b") as file:
        file.seek(int(row["offset"]) + int(row["length"]) // 2)
        file.write(b"\xff\xd9" + b"\x55" * 60)
    cut_off = folder / shards.manifest.shards[1].name
    os.truncate(cut_off, cut_off.stat().st_size // 2)
    (folder / shards.manifest.shards[2].name).unlink()
    return folder


def test_verify_lists_all_that_is_broken_then_ends_with_one_line(broken, cli):
    code, out, error = cli("inspect", broken, "--verify")
    assert code == 2 and error.strip().count("\n") == 0 and "listed above; copy those shards again" in error
    manifest = json.loads((broken / "manifest.json").read_text())
    lines = [line for line in out.splitlines() if line.startswith("✗")]
    for shard in manifest["shards"][:3]:
        assert any(shard["name"] in line for line in lines), (shard["name"], out)
    assert any("the file is truncated" in line for line in lines)


def test_without_verify_a_missing_shard_is_told_at_once(broken):
    with pytest.raises(UserError, match="manifest says"):
        inspect(broken, progress=False)


@pytest.mark.skipif(not native_available(), reason="Pillow takes damaged bytes for pixels")
def test_a_photograph_that_does_not_decode_is_named(shard_folder, tmp_path, cli):
    folder = tmp_path / "damaged"
    shutil.copytree(shard_folder, folder)
    shards = ShardSet.open(shard_folder)
    row, key = shards.index[3], shards.index[3]["key"].decode()
    with (folder / shards.manifest.shards[0].name).open("r+b") as file:
        file.seek(int(row["offset"]) + int(row["length"]) // 2)
        file.write(b"\xff\xd9" + b"\x55" * 60)
    found = inspect(folder, progress=False)
    assert [each.sample.key for each in found.broken] == [key]
    code, out, _ = cli("inspect", folder)
    assert code == 0 and f"({key})" in out
    code, out, _ = cli("inspect", folder, "--verify", "--json")
    found = json.loads(out)
    assert code == 2 and len(found["problems"]) == len(found["broken"]) == 1


def test_a_photograph_that_has_changed_and_still_decodes_is_named(shard_folder, tmp_path):
    folder = Path(shutil.copytree(shard_folder, tmp_path / "changed"))
    shards = ShardSet.open(shard_folder)
    row = shards.index[3]
    with (folder / shards.manifest.shards[0].name).open("r+b") as file:
        file.seek(int(row["offset"]) + 9)  # in JFIF's header, which no decoder asks for
        file.write(b"\x07")
    assert not inspect(folder, progress=False).broken
    found = inspect(folder, verify=True, progress=False)
    (broken,) = found.broken
    assert broken.sample.id == 3 and broken.reason == "its bytes have changed since it was converted"
    assert len(found.problems) == 1


def test_an_index_of_other_sizes_is_found(shard_folder, tmp_path):
    folder = tmp_path / "sizes"
    shutil.copytree(shard_folder, folder)
    index = np.load(folder / "index.npy")
    index["width"][5] += 1
    np.save(folder / "index.npy", index)
    (broken,) = inspect(folder, duplicates=False, progress=False).broken
    assert broken.sample.id == 5 and f"index.npy lists {index['width'][5]}x" in broken.reason
    assert "index.npy: its bytes have changed" in inspect(folder, verify=True, progress=False).problems[0]


def test_the_duplicates_are_drawn(copies, tmp_path, cli):
    sheet = tmp_path / "pairs.png"
    code, out, _ = cli("inspect", copies, "--sheet", sheet)
    assert code == 0 and "3 across splits: 3 of val" in out
    drawn = np.asarray(Image.open(io.BytesIO(sheet.read_bytes())))
    assert drawn.shape[1] > 640 and drawn.std() > 20


def test_what_can_not_be_inspected(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        inspect(tmp_path / "none", progress=False)
    with pytest.raises(UserError, match="distance = 17"):
        inspect(tmp_path, distance=17, progress=False)
