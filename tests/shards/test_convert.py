from __future__ import annotations

import csv
import json
import os
import re
import shutil
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fasttrain.errors import UserError
from fasttrain.photos import normalize as normalizing
from fasttrain.photos.sources import open_source
from fasttrain.shards import parts
from fasttrain.shards.convert import convert, ensure_shards
from fasttrain.shards.destination import Folder
from fasttrain.shards.format import Manifest
from fasttrain.shards.reader import ShardSet
from fasttrain.shards.workplace import prepare
from tests.shards.conftest import photo


def made(source: Path, out: Path, **options) -> ShardSet:
    convert(source, out, progress=False, **{"workers": 2, "shard_size": 7, **options})
    return ShardSet.open(out)


def rejected(out: Path) -> dict[str, str]:
    with (out / "rejected.tsv").open(encoding="utf-8", newline="") as file:
        return dict(csv.reader(file, delimiter="\t"))


def test_everything_is_counted_and_the_broken_are_listed(mixed, tmp_path) -> None:
    shards = made(mixed, tmp_path / "out", cut="none")
    counts = dict(shards.manifest.counts)
    kept = counts.pop("rotated", 0) or counts.pop("re-encoded: orientation")  # with the C++ module, or without
    assert kept == 1
    assert counts == {
        "photos": 28,
        "stored": 26,
        "as-is": 21,
        "re-encoded: png": 2,
        "re-encoded: CMYK JPEG": 1,
        "re-encoded: webp": 1,
        "broken": 2,
        "ignored": 1,
    }
    reasons = rejected(tmp_path / "out")
    assert list(reasons) == ["cat/broken.jpg", "cat/empty.jpg", "cat/notes.txt"]
    assert "truncated" in reasons["cat/broken.jpg"]
    assert reasons["cat/empty.jpg"] == "empty file"
    assert sum(shards.manifest.splits.values()) == 26
    assert shards.verify() == []
    assert not (tmp_path / "out" / ".parts").exists()


def test_stored_pixels_are_the_photographs(mixed, tmp_path, decoded) -> None:
    shards = made(mixed, tmp_path / "out")
    keys = [key.decode() for key in shards.index["key"]]
    assert {"cat/00", "cat/a%20b%2Ev2", "dog/11"} <= set(keys)
    for key, path in (("dog/03", "dog/03.jpg"), ("cat/04", "cat/04.jpg"), ("cat/00", "cat/00.jpg")):
        expected = np.asarray(Image.open(mixed / path).convert("RGB")).astype(int)
        assert np.abs(decoded(shards.bytes(keys.index(key))) - expected).mean() < (0.01 if key != "cat/00" else 4)
    turned = keys.index("cat/01")
    assert shards.sizes()[turned].tolist() == [64, 48]


def test_same_name_of_two_kinds_gets_two_keys(mixed, tmp_path) -> None:
    keys = made(mixed, tmp_path / "out").index["key"].tolist()
    assert b"cat/05" in keys and b"cat/05~2" in keys and len(set(keys)) == len(keys)


def test_strict_names_the_first_broken_file(mixed, tmp_path) -> None:
    with pytest.raises(UserError, match=r"cat/(broken|empty)\.jpg.*--strict"):
        made(mixed, tmp_path / "out", strict=True)
    made(mixed, tmp_path / "out")
    with pytest.raises(UserError, match="2 broken"):
        made(mixed, tmp_path / "out", strict=True)
    for name in ("broken", "empty"):
        (mixed / "cat" / f"{name}.jpg").unlink()
    assert len(made(mixed, tmp_path / "whole", strict=True)) == 26


def test_bytes_do_not_depend_on_workers_or_the_place(mixed, tmp_path, folder_of) -> None:
    made(mixed, tmp_path / "one", workers=1)
    made(shutil.copytree(mixed, tmp_path / "elsewhere" / "mixed"), tmp_path / "two", workers=2)
    first, second = folder_of(tmp_path / "one"), folder_of(tmp_path / "two")
    assert first == second
    assert {name for name in first if name.endswith(".tar")} >= {"train-00000.tar", "train-00001.tar", "val-00000.tar"}


def test_options_shape_the_shards(mixed, tmp_path) -> None:
    small = made(mixed, tmp_path / "small", max_size=32, quality=60)
    assert small.sizes().max() == 32
    assert made(mixed, tmp_path / "all", val_fraction=0.0).manifest.splits["val"] == 0
    first, other = made(mixed, tmp_path / "a"), made(mixed, tmp_path / "b", seed=1)
    assert sorted(first.index["key"].tolist()) == sorted(other.index["key"].tolist())
    assert first.index["key"].tolist() != other.index["key"].tolist()
    assert [shard.samples for shard in first.manifest.shards if shard.split == "val"] == [5]


def test_validation_is_a_fifth_of_each_class(mixed, tmp_path) -> None:
    shards = made(mixed, tmp_path / "out")
    labels = shards.labels()[shards.ids("val")]
    # Broken ones are found out only after the choice, so a class may lose one here.
    assert np.bincount(labels, minlength=2)[1] == 2 and 1 <= np.bincount(labels)[0] <= 3


def test_official_splits_stay(mixed, tmp_path) -> None:
    root = tmp_path / "official"
    for split, numbers in (("train", range(7, 10)), ("val", (10,)), ("test", (11,))):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in numbers:
                (root / split / name / f"{number}.jpg").write_bytes((mixed / name / f"{number:02d}.jpg").read_bytes())
    shards = made(root, tmp_path / "out")
    assert shards.manifest.splits == {"train": 6, "val": 2, "test": 2}
    for split in ("train", "val", "test"):
        assert all(key.startswith(split.encode()) for key in shards.index["key"][shards.ids(split)])
    with tarfile.open(tmp_path / "out" / "test-00000.tar") as tar:
        assert len(tar.getnames()) == 4


def test_a_class_whose_training_photographs_are_all_broken_is_an_error(mixed, tmp_path) -> None:
    for path in (mixed / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="'dog'") as caught:
        made(mixed, tmp_path / "out")
    assert "rejected.tsv" in str(caught.value)
    assert len(rejected(tmp_path / "out")) == 15
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("val_fraction", 1.0),
        ("seed", -1),
        ("max_size", 1),
        ("quality", 101),
        ("cut", "rows"),
        ("shard_size", 0),
        ("workers", 0),
    ],
)
def test_values_out_of_range_are_named(mixed, tmp_path, option, value) -> None:
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')} {value}: give"):
        made(mixed, tmp_path / "out", **{option: value})


def test_other_files_are_never_touched(mixed, tmp_path) -> None:
    out = tmp_path / "home"
    out.mkdir()
    (out / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"thesis\.tex"):
        made(mixed, out, overwrite=True)
    with pytest.raises(UserError, match="is inside --source"):
        made(mixed, mixed / "shards")
    with pytest.raises(UserError, match="is a file"):
        made(mixed, out / "thesis.tex")
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_pillow_warnings_stay_out_of_sight(mixed, tmp_path, recwarn) -> None:
    (mixed / "cat" / "odd.tif").write_bytes(b"II*\0" + bytes(40))
    made(mixed, tmp_path / "out")
    assert [str(warning.message) for warning in recwarn if "PIL" in str(warning.filename)] == []


def test_folders_of_photographs_are_converted_once_into_the_cache(mixed, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    shards = ensure_shards(mixed)
    assert shards.parent == tmp_path / "cache" / "shards" and shards.name.startswith("mixed-")
    assert "converting them once" in " ".join(capfd.readouterr().err.split())
    assert ensure_shards(mixed) == shards == ensure_shards(shards)
    assert capfd.readouterr().err == ""
    assert json.loads((shards / "manifest.json").read_bytes())["classes"] == ["cat", "dog"]
    with pytest.raises(UserError, match="does not exist; make some: fasttrain convert"):
        ensure_shards(tmp_path / "nowhere")
    meant = rf"does not exist; did you mean {re.escape(str(shards))}\?$"
    with pytest.raises(UserError, match=meant):
        ensure_shards(shards.with_name(shards.name.replace("mixed", "mixde")))
    with pytest.raises(UserError, match="neither shards nor usable photographs"):
        ensure_shards(mixed / "cat")


def replace_in_place(photograph: Path, other: Path) -> None:
    """Another photograph takes the first one's place: the same name, size and time of modification."""
    before, pixels = photograph.stat(), other.read_bytes()
    assert len(pixels) <= before.st_size
    photograph.write_bytes(pixels + bytes(before.st_size - len(pixels)))
    os.utime(photograph, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (photograph.stat().st_size, photograph.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("how", ["in place", "renamed over it", "its link leads elsewhere"])
def test_a_photograph_that_is_replaced_is_converted_again(how, photographs, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    root, kept = tmp_path / "some", tmp_path / "kept"
    for name in ("pizza", "soup"):
        shutil.copytree(photographs / name, root / name)
    smaller, larger = sorted(sorted((root / "pizza").iterdir())[:2], key=lambda path: path.stat().st_size)
    shutil.copy2(larger, kept)
    if how == "its link leads elsewhere":
        larger.unlink()
        larger.symlink_to(kept)
    first = ensure_shards(root)
    assert ensure_shards(root) == first
    before = ShardSet.open(first)
    if how == "in place":
        replace_in_place(larger, smaller)
    else:
        other = tmp_path / "other"
        shutil.copy2(kept, other)
        replace_in_place(other, smaller)
        if how == "renamed over it":
            other.replace(larger)
        else:
            larger.unlink()
            larger.symlink_to(other)
    after = ShardSet.open(ensure_shards(root))
    assert after.fingerprint != before.fingerprint and after.folder != first
    keys = {row["key"]: bytes(after.bytes(sample)) for sample, row in enumerate(after.index)}
    differ = [sample for sample, row in enumerate(before.index) if keys[row["key"]] != bytes(before.bytes(sample))]
    assert len(differ) == 1 and larger.stem in before.describe(differ[0])
    made = convert(root, tmp_path / "out", workers=1, progress=False)
    assert made.manifest == after.manifest, "the shards know nothing of inodes and times"


def test_an_interrupted_conversion_of_photographs_that_change_begins_anew(mixed, tmp_path) -> None:
    """Its remains hold the earlier photographs."""
    out, said = tmp_path / "out", []
    out.mkdir()

    def prepared() -> Manifest | None:
        return prepare(Folder(out), open_source(mixed), [], {}, overwrite=False, say=said.append)

    prepared()
    done = out / ".parts" / "train-00000.json"
    done.touch()
    assert prepared() is None and done.exists()
    photograph = next((mixed / "cat").glob("*.jpg"))
    replace_in_place(photograph, photograph)
    prepared()
    assert not done.exists() and not said, "no shard was finished"


def test_no_more_pixels_are_decoded_at_a_time_than_fit(mixed, tmp_path, folder_of, monkeypatch) -> None:
    for number in range(8):
        photo(50 + number, (320, 240)).save(mixed / "dog" / f"large-{number}.png")
    made = {"shard_size": 6, "progress": False}
    convert(mixed, tmp_path / "whole", workers=1, **made)
    lock, flying, most = threading.Lock(), [0], []
    decode_picture = normalizing.decode_picture

    def counted(picture):
        pixels = picture.image.width * picture.image.height
        with lock:
            flying[0] += pixels
            most.append(flying[0])
        time.sleep(0.02)
        try:
            return decode_picture(picture)
        finally:
            with lock:
                flying[0] -= pixels

    monkeypatch.setattr(normalizing, "decode_picture", counted)
    for fits, highest in ((2 * 320 * 240, 2 * 320 * 240), (1, 320 * 240), (10**9, 10**9)):
        most.clear()
        monkeypatch.setattr(parts, "pixels_that_fit", lambda fits=fits: fits)
        convert(mixed, tmp_path / f"{fits}", workers=8, **made)
        assert 320 * 240 <= max(most) <= highest
        assert folder_of(tmp_path / f"{fits}") == folder_of(tmp_path / "whole")
    assert max(most) > 2 * 320 * 240
