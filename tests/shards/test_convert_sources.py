"""`convert` of sources in other layouts, and of what the user's own lists change: what ends up in the shards."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fasttrain.cli import app
from fasttrain.errors import UserError
from fasttrain.photos.source import SourceOptions
from fasttrain.shards.convert import convert, convert_part, ensure_shards
from fasttrain.shards.format import read_manifest
from fasttrain.shards.merge import merge
from fasttrain.shards.reader import ShardSet
from fasttrain.shards.settings import ShardSettings
from tests.shards.conftest import photo
from tests.support.containers import write_tar, write_tfrecord

CLOTHING = next((path for each in Path(__file__).parents if (path := each / "shared" / "clothing").is_dir()), None)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Three classes of 8 photographs, `CLASS/SERIES-NUMBER.jpg`, two of each series."""
    for label, name in enumerate(("cat", "dog", "owl")):
        folder = tmp_path / "animals" / name
        folder.mkdir(parents=True)
        for number in range(8):
            photo(100 * label + number, (24, 16)).save(folder / f"s{number // 2}-{number}.jpg")
    return tmp_path / "animals"


def made(source: Path, out: Path, **options) -> ShardSet:
    reading = {name: options.pop(name) for name in list(options) if name in SourceOptions.__dataclass_fields__}
    settings = {"workers": 1, "shard_size": 5, "cut": "none", "progress": False, **options}
    convert(source, out, options=SourceOptions(**reading), **settings)
    return ShardSet.open(out)


def keys(shards: ShardSet, split: str) -> set[str]:
    return {key.decode() for key in shards.index["key"][shards.ids(split)]}


def split_file(out: Path) -> dict[str, str]:
    with (out / "splits.csv").open(newline="") as file:
        return {row["path"]: row["split"] for row in csv.DictReader(file)}


def test_test_fraction_leaves_validation_as_it_was(animals, tmp_path) -> None:
    without = made(animals, tmp_path / "without", val_fraction=0.25)
    shards = made(animals, tmp_path / "with", val_fraction=0.25, test_fraction=0.25)
    assert shards.manifest.splits == {"train": 12, "val": 6, "test": 6}
    assert keys(shards, "val") == keys(without, "val")
    assert Counter(key.split("/")[0] for key in keys(shards, "test")) == {"cat": 2, "dog": 2, "owl": 2}
    assert shards.manifest.settings["test_fraction"] == 0.25 and "test_fraction" not in without.manifest.settings
    with pytest.raises(UserError, match=r"test_fraction = 0\.0, not 0\.25"):
        made(animals, tmp_path / "without", val_fraction=0.25, test_fraction=0.25)
    with pytest.raises(UserError, match="leave no photograph to train on"):
        made(animals, tmp_path / "none", val_fraction=0.5, test_fraction=0.5)


def test_test_fraction_of_a_source_with_splits_of_its_own(animals, tmp_path) -> None:
    root = tmp_path / "own"
    shutil.copytree(animals, root / "train")
    shutil.copytree(animals, root / "val")
    shards = made(root, tmp_path / "a", test_fraction=0.25)
    assert shards.manifest.splits == {"train": 18, "val": 24, "test": 6}
    shutil.copytree(animals, root / "test")
    assert made(root, tmp_path / "b", test_fraction=0.25).manifest.splits == {"train": 24, "val": 24, "test": 24}


def test_an_empty_validation_folder_leaves_the_choice_to_the_fraction(animals, tmp_path) -> None:
    root = tmp_path / "own"
    shutil.copytree(animals, root / "Train")
    (root / "Val").mkdir()
    shards = made(root, tmp_path / "out", val_fraction=0.25)
    assert shards.manifest.splits == {"train": 18, "val": 6, "test": 0}
    assert (tmp_path / "out" / "rejected.tsv").read_text().startswith("Val/\tempty: --val-fraction decides")


def test_the_split_file_gives_the_same_splits_again(animals, tmp_path, folder_of) -> None:
    first = made(animals, tmp_path / "first", val_fraction=0.25, test_fraction=0.2, seed=3)
    fixed = split_file(tmp_path / "first")
    assert Counter(fixed.values()) == first.manifest.splits and len(fixed) == 24
    again = made(animals, tmp_path / "again", seed=3, val_fraction=0, splits=tmp_path / "first" / "splits.csv")
    assert split_file(tmp_path / "again") == fixed
    for name, data in folder_of(tmp_path / "first").items():
        assert name == "manifest.json" or (tmp_path / "again" / name).read_bytes() == data, name
    assert again.manifest.settings["splits"].startswith("sha256:")
    shutil.copy(animals / "cat" / "s0-0.jpg", animals / "cat" / "new.jpg")
    grown = made(animals, tmp_path / "grown", splits=tmp_path / "first" / "splits.csv")
    assert split_file(tmp_path / "grown") == {**fixed, "cat/new.jpg": "train"}
    assert len(grown) == 25


def test_all_that_trains_in_a_split_file_trains(animals, tmp_path) -> None:
    made(animals, tmp_path / "first", val_fraction=0)
    again = made(animals, tmp_path / "again", splits=tmp_path / "first" / "splits.csv")
    assert again.manifest.splits == {"train": 24, "val": 0, "test": 0}


def test_groups_stay_together(animals, tmp_path) -> None:
    shards = made(animals, tmp_path / "out", group_by=r"\w+/s\d", val_fraction=0.25, test_fraction=0.25)
    assert shards.manifest.splits == {"train": 12, "val": 6, "test": 6}
    of_group: dict[str, set[str]] = {}
    for path, split in split_file(tmp_path / "out").items():
        of_group.setdefault(path.partition("-")[0], set()).add(split)
    assert len(of_group) == 12 and all(len(splits) == 1 for splits in of_group.values())
    assert shards.manifest.settings["group_by"] == r"\w+/s\d"


def test_relabelled_and_dropped_photographs(animals, tmp_path) -> None:
    fixes = tmp_path / "fixes.csv"
    fixes.write_text("path,new label\ncat/s0-0.jpg,dog\nowl/s1-2.jpg,DROP\ndog/s0-1.jpg,dog\n")
    before = (animals / "cat" / "s0-0.jpg").read_bytes()
    shards = made(animals, tmp_path / "out", relabel=fixes)
    found = {
        key.decode(): shards.classes[label] for key, label in zip(shards.index["key"], shards.labels(), strict=True)
    }
    assert found["cat/s0-0"] == "dog" and "owl/s1-2" not in found and len(found) == 23
    assert (animals / "cat" / "s0-0.jpg").read_bytes() == before
    applied = shards.manifest.settings["relabel"]
    assert {name: applied[name] for name in ("relabelled", "dropped", "unchanged")} == {
        "relabelled": 1,
        "dropped": 1,
        "unchanged": 1,
    }
    assert applied["file"].startswith("sha256:") and shards.manifest.counts["ignored"] == 1
    assert "owl/s1-2.jpg\tdropped by fixes.csv" in (tmp_path / "out" / "rejected.tsv").read_text()
    with pytest.raises(UserError, match="relabel = "):
        made(animals, tmp_path / "out")


def test_parts_of_several_machines_make_the_same(animals, tmp_path, folder_of) -> None:
    table = tmp_path / "labels.csv"
    paths = sorted(str(path.relative_to(tmp_path)) for path in animals.glob("*/*.jpg"))
    table.write_text("image,label\n" + "".join(f"{path},{path.split('/')[1]}\n" for path in paths))
    options = {"test_fraction": 0.2, "group_by": r"\w+/s\d"}
    made(table, tmp_path / "one", **options)
    settings = ShardSettings(cut="none", shard_size=5, test_fraction=0.2)
    for part in ("1/2", "2/2"):
        reading = SourceOptions(group_by=options["group_by"])
        convert_part(table, tmp_path / "two", part, settings, options=reading, workers=1, progress=False)
    merge(tmp_path / "two")
    assert folder_of(tmp_path / "two") == folder_of(tmp_path / "one")


def test_without_options_manifests_hold_what_they_held(animals, tmp_path) -> None:
    """Options that weren't given aren't recorded."""
    shards = made(animals, tmp_path / "out")
    assert sorted(shards.manifest.settings) == [
        *("accept_damaged", "color", "cut", "fasttrain", "max_size", "optimize", "quality", "raw", "seed"),
        *("shard_size", "val_fraction"),
    ]
    indexes = [*(f"train-{each:05d}.idx" for each in range(4)), *(f"val-{each:05d}.idx" for each in range(2))]
    assert sorted(shards.manifest.files) == ["rejected.tsv", "splits.csv", *indexes]


def told(*line: object) -> str:
    done = CliRunner().invoke(app, [str(each) for each in line], env={"COLUMNS": "300"})
    return f"{done.exit_code} {done.output} {done.exception or ''}"


def test_the_command_line_takes_every_option(animals, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        f"{path.relative_to(animals)};{number % 3};p{number % 6}" for number, path in enumerate(animals.glob("*/*"))
    ]
    Path("labels.csv").write_text("photo;species;patient\n" + "\n".join(rows))
    Path("names.txt").write_text("x\ny\nz\n")
    Path("splits.csv").write_text(f"path,split\n{rows[0].split(';')[0]},test\n")
    Path("fixes.csv").write_text(f"path,label\n{rows[1].split(';')[0]},drop\n")
    given = "--source labels.csv --out out --root animals --path-column photo --label-column species"
    lists = "--class-names names.txt --group-by patient --splits splits.csv --relabel fixes.csv --workers 1 --cut none"
    said = told("convert", *given.split(), *lists.split())
    assert said.startswith("0 "), said
    assert "labels.csv: path = photo, label = species, group = patient" in said and "fixes.csv: 1 dropped" in said
    manifest = read_manifest(tmp_path / "out")
    assert manifest.classes == ["x", "y", "z"] and manifest.source.kind == "table"
    assert {"group_by", "splits", "relabel"} <= set(manifest.settings)


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_an_archive_makes_the_shards_of_its_folder(animals, tmp_path, folder_of, kind) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), kind, animals.parent, "animals"))
    made(animals, tmp_path / "folder", workers=3)
    made(archive, tmp_path / "archive", workers=3)
    first, second = folder_of(tmp_path / "folder"), folder_of(tmp_path / "archive")
    assert {name for name in first if first[name] != second[name]} == {"manifest.json"}
    with pytest.raises(UserError, match="has no effect on --source"):
        made(archive, tmp_path / "no", class_names=tmp_path)


def as_webdataset(folder: Path, rows: list[tuple[Path, int]], split: str) -> None:
    for number in range(0, len(rows), 7):
        members: dict[str, str | bytes] = {}
        for row, (path, label) in enumerate(rows[number : number + 7]):
            members |= {f"{row:03d}.jpg": path.read_bytes(), f"{row:03d}.cls": str(label)}
        write_tar(folder / f"{split}-{number:03d}.tar", members)


def as_tfrecords(folder: Path, rows: list[tuple[Path, int]], split: str) -> None:
    examples = [{"image/encoded": path.read_bytes(), "image/class/label": label} for path, label in rows]
    write_tfrecord(folder / f"{split}-00000-of-00002", examples[:7])
    write_tfrecord(folder / f"{split}-00001-of-00002", examples[7:])


@pytest.mark.parametrize("pack", [as_webdataset, as_tfrecords])
@pytest.mark.parametrize("given", [False, True], ids=["drawn", "given splits"])
def test_containers_make_the_photographs_labels_and_splits_of_the_folder(animals, tmp_path, pack, given) -> None:
    names = [folder.name for folder in sorted(animals.iterdir())]
    rows = [(path, names.index(path.parent.name)) for path in sorted(animals.rglob("*.jpg"))]
    folder = animals
    if given:
        for split, numbers in (("train", range(1, 8)), ("val", range(1))):
            for path, _ in rows:
                if int(path.stem[-1]) in numbers:
                    target = tmp_path / "given" / split / path.parent.name / path.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, target)
        folder = tmp_path / "given"
    for split in ("train", "val") if given else ("data",):
        inside = [row for row in rows if not given or (row[0].stem[-1] == "0") == (split == "val")]
        pack(tmp_path / "packed", inside, split)
    (tmp_path / "names.txt").write_text("\n".join(names))
    first = made(folder, tmp_path / "first")
    second = made(tmp_path / "packed", tmp_path / "second", class_names=tmp_path / "names.txt")
    assert first.manifest.classes == second.manifest.classes and first.manifest.splits == second.manifest.splits
    assert second.manifest.splits["val"]
    for split in ("train", "val"):
        assert content(first, split) == content(second, split)


def content(shards: ShardSet, split: str) -> list[tuple[int, bytes]]:
    return sorted((int(shards.labels()[row]), bytes(shards.bytes(int(row)))) for row in shards.ids(split))


def test_shards_and_betons_are_sources_elsewhere(animals, tmp_path) -> None:
    first = made(animals, tmp_path / "first", format="tar,beton")
    for kind in ("tar", "beton"):
        (tmp_path / kind).mkdir()
        for path in (tmp_path / "first").glob(f"*.{kind}"):
            shutil.copy(path, tmp_path / kind)
        again = made(tmp_path / kind, tmp_path / f"again {kind}")
        assert again.manifest.classes == ["0", "1", "2"] and again.manifest.splits == first.manifest.splits
        for split in ("train", "val"):
            assert content(again, split) == content(first, split)


@pytest.mark.slow
def test_raw_pixels_of_a_beton_are_stored_as_pixels(animals, tmp_path) -> None:
    pytest.importorskip("ffcv", reason="ffcv isn't installed")
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    rows = [
        (np.asarray(Image.open(path).convert("RGB")), label)
        for label, folder in enumerate(sorted(animals.iterdir()))
        for path in sorted(folder.iterdir())
    ]
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    DatasetWriter(str(tmp_path / "a.beton"), fields, num_workers=1).from_indexed_dataset(rows)
    first = made(animals, tmp_path / "first", raw=True, max_size=64)
    second = made(tmp_path / "a.beton", tmp_path / "second", raw=True, max_size=64)
    for split in ("train", "val"):
        assert content(first, split) == content(second, split)


def test_lists_parts_and_strictness_go_with_containers(animals, tmp_path, folder_of) -> None:
    rows = [(path, index // 8) for index, path in enumerate(sorted(animals.rglob("*.jpg")))]
    as_webdataset(tmp_path / "packed", rows, "data")
    (tmp_path / "fixes.csv").write_text("path,label\ndata-000.tar/000.jpg,2\ndata-007.tar/001.jpg,drop\n")
    shards = made(tmp_path / "packed", tmp_path / "whole", relabel=tmp_path / "fixes.csv", group_by=r"^[^/]+/\d\d")
    assert len(shards) == 23
    options = SourceOptions(relabel=tmp_path / "fixes.csv", group_by=r"^[^/]+/\d\d")
    settings = ShardSettings(shard_size=5, cut="none")
    for part in ("1/2", "2/2"):
        convert_part(
            tmp_path / "packed", tmp_path / "parts", part, settings, options=options, workers=1, progress=False
        )
    merge(tmp_path / "parts")
    assert folder_of(tmp_path / "parts") == folder_of(tmp_path / "whole")
    write_tar(tmp_path / "packed" / "data-999.tar", {"1.jpg": b"\xff\xd8\xffbroken", "1.cls": "0"})
    with pytest.raises(UserError, match=r"data-999\.tar/1\.jpg: .*; fix or remove it"):
        made(tmp_path / "packed", tmp_path / "strict", strict=True)


def test_a_container_that_changed_starts_a_stopped_conversion_again(animals, tmp_path, capsys) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "tar", animals))
    out = tmp_path / "out"
    convert_part(packed, out, "1/2", ShardSettings(shard_size=5, cut="none"), workers=1, progress=False)
    (folder,) = [path for path in out.iterdir() if path.is_dir()]
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    convert_part(packed, out, "1/2", ShardSettings(shard_size=5, cut="none"), workers=1, progress=False)
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    data = packed.read_bytes()
    packed.write_bytes(data)  # the same bytes, but who can know
    convert_part(packed, out, "1/2", ShardSettings(shard_size=5, cut="none"), workers=1, progress=False)
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    assert after.keys() == before.keys() and all(after[name] > before[name] for name in before)


def test_a_folder_of_containers_is_training_data(animals, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    rows = [(path, index // 8) for index, path in enumerate(sorted(animals.rglob("*.jpg")))]
    as_tfrecords(tmp_path / "packed", rows, "data")
    made_once = ensure_shards(tmp_path / "packed")
    assert len(ShardSet.open(made_once)) == 24 and ensure_shards(tmp_path / "packed") == made_once


@pytest.mark.slow
@pytest.mark.skipif(CLOTHING is None, reason="the clothing data set isn't here")
def test_clothing_converts_as_its_owner_means_it(tmp_path) -> None:
    shards = made(CLOTHING, tmp_path / "out", shard_size=1000, workers=2)
    assert shards.manifest.splits == {"train": 3068, "val": 341, "test": 372} and len(shards.classes) == 10
