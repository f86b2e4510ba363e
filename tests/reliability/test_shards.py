"""Shards that were damaged on the way: what `inspect --verify` finds, what training does with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hostile import flips, found

from fasttrain.errors import UserError
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.native import NativeLoader
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.registry import LOADERS, loader_class
from fasttrain.photos.sample import draw_sample
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Shards of six photographs a class, with FFCV's files; kept sound by each test."""
    base = tmp_path_factory.mktemp("small")
    draw_sample(base / "photographs", per_class=6)
    next((base / "photographs").iterdir()).joinpath("notes.txt").write_text("not a photograph")
    convert(base / "photographs", base / "shards", workers=1, progress=False, shard_size=12, format="tar,beton")
    return base / "shards"


@pytest.fixture
def copied(small, tmp_path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "shards"))


def kinds(folder: Path) -> dict[str, list[Path]]:
    by_kind: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name[0] != "." and path.stat().st_size:
            by_kind.setdefault(path.suffix if path.suffix in (".tar", ".idx", ".beton") else path.name, []).append(path)
    return by_kind


def trained_on(folder: Path) -> str:
    """Return the error of a pass of the native loader, or of the opening before it; "" if there is none."""
    try:
        shards = ShardSet.open(folder)
        loader = NativeLoader(shards, shards.ids("train"), LoaderSettings(8, 32, Crop(), workers=1))
        try:
            for _ in loader:
                pass
        finally:
            loader.close()
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


def test_sound_shards_have_nothing_wrong(small):
    assert not found(small) and trained_on(small) == ""


def test_a_flipped_bit_is_found_in_every_kind_of_file(copied, fault):
    times = fault.times(short=35, full=1001)
    by_kind = kinds(copied)
    assert set(by_kind) == {
        ".tar",
        ".idx",
        ".beton",
        "index.npy",
        "manifest.json",
        "beton.json",
        "rejected.tsv",
        "splits.csv",
    }
    missed, count = [], 0
    for number, paths in enumerate(by_kind.values()):
        for path in paths:
            sound = path.read_bytes()
            for at, changed in flips(sound, -(-times // len(by_kind) // len(paths)), seed=number):
                path.write_bytes(changed)
                count += 1
                if not found(copied):
                    missed.append((path.name, at))
            path.write_bytes(sound)
    assert not missed and not found(copied)
    fault.seen("a bit of a shard folder flips", "one random bit of a random kind of file, `inspect --verify`", count)


def test_a_file_cut_off_is_found(copied, fault):
    times = fault.times(short=12, full=300)
    random = np.random.default_rng(1)
    paths = [path for group in kinds(copied).values() for path in group]
    for number in range(times):
        path = paths[number % len(paths)]
        sound = path.read_bytes()
        path.write_bytes(sound[: int(random.integers(len(sound)))])
        assert found(copied), path.name
        path.write_bytes(sound)
    fault.seen("a file of a shard folder is cut off", "at a random byte, each kind of file, `inspect --verify`", times)


def test_missing_and_swapped_files_are_found(copied, fault):
    count = 0
    for paths in kinds(copied).values():
        for path in paths:
            sound = path.read_bytes()
            path.unlink()
            assert found(copied), f"{path.name} is missing"
            path.write_bytes(sound)
            count += 1
            for other in paths:
                if other.read_bytes() != sound:
                    path.write_bytes(other.read_bytes())
                    assert found(copied), f"{path.name} is {other.name}"
                    path.write_bytes(sound)
                    count += 1
    assert not found(copied)
    fault.seen("a file of a shard folder is missing, or another's", "each file in turn, `inspect --verify`", count)


def test_a_manifest_edited_by_hand_is_found(copied, fault):
    for path in copied.glob("*beton*"):  # their record knows the manifest's checksum, too
        path.unlink()
    path = copied / "manifest.json"
    plain = json.loads(path.read_bytes())
    edits = [
        {"classes": [plain["classes"][0] + "s", *plain["classes"][1:]]},
        {"classes": plain["classes"][::-1]},
        {"classes": plain["classes"][:-1]},
        {"counts": {**plain["counts"], "broken": 3}},
        {"settings": {**plain["settings"], "seed": 1}},
        {"splits": {**plain["splits"], "val": plain["splits"]["val"] + 1}},
        {"schema": 0},
        {"schema": 3},
    ]
    for edit in edits:
        path.write_text(json.dumps({**plain, **edit}, indent=1) + "\n")
        assert found(copied), edit
    fault.seen(
        "a manifest edited by hand", "classes, counts, splits, settings, versions, `inspect --verify`", len(edits)
    )


def test_a_flipped_bit_of_a_photograph_ends_training_by_name(copied, fault):
    """Whatever it makes of the pixels: most such JPEGs decode."""
    times = fault.times(short=25, full=500)
    shards, random = ShardSet.open(copied), np.random.default_rng(5)
    for sample in random.choice(shards.ids("train"), times):
        row = shards.index[sample]
        path = copied / shards.manifest.shards[row["shard"]].name
        with path.open("r+b") as file:
            at = int(row["offset"]) + int(random.integers(row["length"]))
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ 1 << int(random.integers(8))]))
        said = trained_on(copied)
        assert f"{path.name} ({row['key'].decode()})" in said and "--on-bad-sample skip" in said
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes([byte]))
    assert trained_on(copied) == ""
    fault.seen("a bit of a photograph flips before training", "a random bit of a random sample, native loader", times)


@pytest.mark.parametrize("name", list(LOADERS))
def test_loaders_leave_out_the_same(name, small, copied, fault):
    times = fault.times(short=1 if name == "ffcv" else 3, full=30)  # FFCV compiles each time
    shards = ShardSet.open(copied)
    if reason := loader_class(name).unavailable(shards, "cpu"):
        pytest.skip(reason)
    random = np.random.default_rng(7)
    for round_ in range(times):
        chosen = random.choice(shards.ids("train"), 4, replace=False).tolist()
        for path in copied.glob("train*"):
            shutil.copy(small / path.name, path)
        for sample in chosen:
            data = bytes(shards.bytes(sample))
            at = int(random.integers(len(data)))
            for path in (copied / shards.manifest.shards[shards.index["shard"][sample]].name, copied / "train.beton"):
                content = bytearray(path.read_bytes())
                content[content.find(data) + at] ^= 1 << int(random.integers(8))
                path.write_bytes(content)
        there = ShardSet.open(copied)
        settings = LoaderSettings(8, 32, Crop(), seed=round_, on_bad_sample="skip", report=lambda line: None)
        loader = loader_class(name)(there, there.ids("train"), settings)
        seen = np.concatenate([ids.numpy() for _, _, ids in loader])
        loader.close()
        assert sorted(seen) == sorted(set(there.ids("train").tolist()) - set(chosen))
        assert seen.tolist() == [each for each in loader.plan().ids.tolist() if each not in chosen]
    how = f"4 random bits in 4 photographs, --on-bad-sample skip, --loader {name}"
    fault.seen("bad samples are left out, the same by each loader", how, 4 * times)
