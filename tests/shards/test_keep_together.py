"""`convert --keep-duplicates-together`: near-duplicates are in one split, or the user is told which are not."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from fasttrain.errors import UserError
from fasttrain.photos import together
from fasttrain.photos.source import Source, SourceOptions
from fasttrain.photos.sources import open_source
from fasttrain.photos.split import decide_splits
from fasttrain.shards.convert import convert, convert_part
from fasttrain.shards.merge import merge
from fasttrain.shards.reader import ShardSet
from fasttrain.shards.settings import ShardSettings
from tests.shards.conftest import photo


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def copies(source: Path) -> list[set[str]]:
    """Groups of near-duplicates: the same bytes in two classes, other sizes and formats, a turned camera's file."""
    cat, dog = source / "cat", source / "dog"
    (dog / "copy.jpg").write_bytes((cat / "07.jpg").read_bytes())
    photo(108, (128, 96)).save(dog / "08-large.png")
    photo(108, (128, 96)).convert("L").convert("RGB").save(dog / "08-small.webp", quality=70)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(109).transpose(Image.Transpose.ROTATE_90).save(dog / "09-turned.jpg", exif=exif, quality=95)
    (cat / "broken-too.jpg").write_bytes((cat / "broken.jpg").read_bytes())
    return [
        {"cat/05.jpg", "cat/a b.v2.webp"},
        {"cat/05.png", "cat/06.jpg"},
        {"cat/07.jpg", "dog/copy.jpg"},
        {"dog/08.jpg", "dog/08-large.png", "dog/08-small.webp"},
        {"dog/09.jpg", "dog/09-turned.jpg"},
        {"cat/broken.jpg", "cat/broken-too.jpg"},
    ]


def made(source: Path, out: Path, seed: int = 0, **options: object) -> ShardSet:
    reading = SourceOptions(keep_duplicates_together=True, **options)  # type: ignore[arg-type]
    convert(source, out, options=reading, seed=seed, val_fraction=0.3, workers=2, shard_size=9, progress=False)
    return ShardSet.open(out)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_near_duplicates_are_in_one_split_whatever_the_seed(mixed, tmp_path) -> None:
    groups = copies(mixed)
    source, parted = open_source(mixed), 0
    for seed in range(4):
        out = tmp_path / f"{seed}"
        shards = made(mixed, out, seed)
        split = {row["path"]: row["split"] for row in rows(out / "splits.csv")}
        for group in groups:
            assert len({split[path] for path in group}) == 1, (seed, group)
        drawn = dict(zip(source.paths, decide_splits(source, 0.3, 0.0, seed).tolist(), strict=True))
        parted += sum(len({drawn[path] for path in group}) > 1 for group in groups)
        listed: dict[str, set[str]] = {}
        for row in rows(out / "duplicates.csv"):
            assert row["across_splits"] == "" and row["split"] == split[row["path"]]
            listed.setdefault(row["group"], set()).add(row["path"])
        assert sorted(map(sorted, listed.values())) == sorted(map(sorted, groups))
        assert shards.manifest.settings["keep_duplicates_together"] == {
            "groups": 6,
            "photographs": 13,
            "across_splits": 0,
        }
        assert shards.verify() == [] and "duplicates.csv" in shards.manifest.files
    assert parted > 4, "without the option they are parted"


def test_without_it_the_shards_are_what_they_were_and_with_it_the_same_each_time(mixed, tmp_path, folder_of) -> None:
    copies(mixed)
    convert(mixed, tmp_path / "plain", progress=False)
    manifest = ShardSet.open(tmp_path / "plain").manifest
    assert "keep_duplicates_together" not in manifest.settings and "duplicates.csv" not in manifest.files
    made(mixed, tmp_path / "one")
    made(mixed, tmp_path / "other")
    assert folder_of(tmp_path / "one") == folder_of(tmp_path / "other")
    with pytest.raises(UserError, match="keep_duplicates_together"):
        made(mixed, tmp_path / "plain")


def test_hashes_are_read_once(mixed, tmp_path, cache, monkeypatch) -> None:
    copies(mixed)
    read, reading = [], Source.read
    monkeypatch.setattr(Source, "read", lambda source, row: read.append(row) or reading(source, row))
    made(mixed, tmp_path / "out")
    photographs = len(rows(tmp_path / "out" / "splits.csv"))
    assert len(read) == 2 * photographs
    made(mixed, tmp_path / "out")
    assert len(read) == 2 * photographs
    for path in cache.rglob("*.npy"):
        path.write_bytes(b"\x93NUMPY torn")
    made(mixed, tmp_path / "out")
    assert len(read) == 3 * photographs


def test_reading_that_was_stopped_goes_on(mixed, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(together, "_BLOCK", 5)
    read, reading = [], Source.read

    def stops(source: Source, row: int) -> bytes:
        read.append(row)
        if len(read) == 12:
            raise KeyboardInterrupt
        return reading(source, row)

    monkeypatch.setattr(Source, "read", stops)
    with pytest.raises(KeyboardInterrupt):
        made(mixed, tmp_path / "out")
    before = len(read)
    made(mixed, tmp_path / "out")
    photographs = len(rows(tmp_path / "out" / "splits.csv"))
    assert len(read) - before == 2 * photographs - 10


def test_copies_in_given_splits_stay_and_are_listed(mixed, tmp_path, capfd) -> None:
    source = tmp_path / "divided"
    for split, numbers in (("train", range(8)), ("val", range(8, 12))):
        for name in ("cat", "dog"):
            (source / split / name).mkdir(parents=True)
            for number in numbers:
                data = (mixed / name / f"{number:02d}.jpg").read_bytes()
                (source / split / name / f"{number:02d}.jpg").write_bytes(data)
    (source / "val" / "dog" / "leaked.jpg").write_bytes((mixed / "dog" / "01.jpg").read_bytes())
    (source / "train" / "dog" / "twin.jpg").write_bytes((mixed / "dog" / "02.jpg").read_bytes())
    convert(source, tmp_path / "out", options=SourceOptions(keep_duplicates_together=True))
    said = " ".join(capfd.readouterr().err.split())
    assert "2 groups of 4 near-duplicates, the largest of 2; the source puts 2 photographs into another split" in said
    listed = {row["path"]: (row["split"], row["across_splits"]) for row in rows(tmp_path / "out" / "duplicates.csv")}
    assert listed == {
        "train/dog/01.jpg": ("train", "yes"),
        "val/dog/leaked.jpg": ("val", "yes"),
        "train/dog/02.jpg": ("train", ""),
        "train/dog/twin.jpg": ("train", ""),
    }


def test_groups_and_near_duplicates_are_joined(mixed, tmp_path) -> None:
    (mixed / "dog" / "11-copy.jpg").write_bytes((mixed / "dog" / "02.jpg").read_bytes())
    for seed in range(4):
        out = tmp_path / f"{seed}"
        made(mixed, out, seed, group_by=r"/(\d\d|.*)")
        split = {row["path"]: row["split"] for row in rows(out / "splits.csv")}
        # The copy is of group 11, which also has a photograph in each class; group 02 comes along by the copy.
        joined = {split[f"{name}/{number}.jpg"] for name in ("cat", "dog") for number in ("02", "11")}
        assert len(joined | {split["dog/11-copy.jpg"]}) == 1


def test_parts_find_the_same(mixed, tmp_path, folder_of) -> None:
    copies(mixed)
    options = SourceOptions(keep_duplicates_together=True)
    settings = {"val_fraction": 0.3, "shard_size": 9}
    for part in ("1/2", "2/2"):
        convert_part(mixed, tmp_path / "parts", part, ShardSettings(**settings), options=options, progress=False)
    merge(tmp_path / "parts")
    made(mixed, tmp_path / "alone")
    assert folder_of(tmp_path / "parts") == folder_of(tmp_path / "alone")
