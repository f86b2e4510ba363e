"""Shards whose labels are sets: what the tar, the index and FFCV's files hold, appending, merging, inspecting."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from fasttrain.errors import UserError
from fasttrain.inspection.inspect import inspect
from fasttrain.inspection.summary import inspection_summary
from fasttrain.photos.source import SourceOptions
from fasttrain.shards.convert import ShardSettings, convert, convert_part
from fasttrain.shards.format import read_manifest
from fasttrain.shards.merge import merge
from fasttrain.shards.reader import ShardSet
from fasttrain.terminal import make_console
from tests.support.multi_label import CLASSES, draw_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_scenes(tmp_path_factory.mktemp("scenes") / "pictures", count=30)


@pytest.fixture(scope="module")
def shards(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("multi") / "shards"
    convert(scenes, out, workers=1, progress=False, shard_size=10, format="tar,beton")
    return out


def told(table: Path) -> dict[str, set[str]]:
    """The table's classes of each key."""
    rows = map(json.loads, table.read_text().splitlines())
    return {row["path"].removesuffix(".jpg"): set(row["labels"]) for row in rows}


def held(opened: ShardSet) -> dict[str, set[str]]:
    rows = zip(opened.index["key"].tolist(), opened.labels(), strict=True)
    return {key.decode(): {opened.classes[each] for each in np.flatnonzero(row)} for key, row in rows}


def test_index_and_tar_hold_the_sets(scenes: Path, shards: Path) -> None:
    opened = ShardSet.open(shards)
    assert opened.multi_label and opened.classes == sorted(CLASSES)
    assert held(opened) == told(scenes) and set() in told(scenes).values()
    assert opened.labels().dtype == np.float32 and opened.index.dtype["labels"].itemsize == 1
    some = np.array([3, 1])
    assert (opened.labels(some) == opened.labels()[some]).all()
    with tarfile.open(shards / "train-00000.tar") as tar:
        texts = {
            member.name.removesuffix(".json"): json.loads(tar.extractfile(member).read())["labels"]  # type: ignore[union-attr]
            for member in tar
            if member.name.endswith(".json")
        }
    assert texts and all({opened.classes[each] for each in sets} == told(scenes)[key] for key, sets in texts.items())
    assert opened.verify() == []
    assert all((opened.class_counts(split) > 0).all() for split in ("train", "val"))


def test_an_older_fasttrain_refuses_them_and_single_labels_are_as_before(shards: Path, shard_folder: Path) -> None:
    assert json.loads((shards / "manifest.json").read_text())["schema"] == 2
    before = json.loads((shard_folder / "manifest.json").read_text())
    assert before["schema"] == 1 and "multi_label" not in before


def test_a_bit_beyond_the_classes_is_refused(shards: Path, tmp_path: Path) -> None:
    import hashlib
    import shutil

    shutil.copytree(shards, tmp_path / "copy")
    index = np.load(tmp_path / "copy" / "index.npy")
    index["labels"][0] |= 128
    np.save(tmp_path / "copy" / "index.npy", index)
    manifest = read_manifest(tmp_path / "copy")
    digest = hashlib.sha256((tmp_path / "copy" / "index.npy").read_bytes()).hexdigest()
    summary = manifest.index.model_copy(update={"sha256": digest})
    (tmp_path / "copy" / "manifest.json").write_bytes(manifest.model_copy(update={"index": summary}).to_bytes())
    with pytest.raises(UserError, match="labels beyond the classes"):
        ShardSet.open(tmp_path / "copy")


def test_the_beton_says_that_it_has_no_label(shards: Path) -> None:
    from fasttrain.shards.beton import NO_LABEL, _plan_layout

    opened = ShardSet.open(shards)
    head = _plan_layout(opened, opened.ids("train")).head
    assert (shards / "train.beton").read_bytes().startswith(head)
    assert np.int64(NO_LABEL).tobytes() in head


def test_merge_writes_the_same_bytes(scenes: Path, shards: Path, tmp_path: Path, folder_of) -> None:
    for part in ("1/2", "2/2"):
        convert_part(scenes, tmp_path / "out", part, ShardSettings(shard_size=10), workers=1, progress=False)
    merge(tmp_path / "out")
    ours, theirs = folder_of(tmp_path / "out"), folder_of(shards)
    assert ours == {name: data for name, data in theirs.items() if "beton" not in name}


def test_append_adds_sets_and_classes(scenes: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in scenes.read_text().splitlines()]
    table = scenes.with_name("part.jsonl")
    table.write_text("".join(json.dumps(row) + "\n" for row in rows[:20]))
    out = tmp_path / "out"
    convert(table, out, workers=1, progress=False)
    before = ShardSet.open(out)
    for number, row in enumerate(rows[20:]):  # more classes than a byte has bits
        row["labels"] += [f"new {number % 2}", "x"] + [f"{each}" for each in range(5)]
    rows[0]["labels"] = ["disc", "cross", "square"]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    convert(table, out, workers=1, progress=False, append=True)
    after = ShardSet.open(out)
    assert after.index.dtype["labels"].itemsize == 2 and after.classes[: len(before.classes)] == before.classes
    expected = {row["path"].removesuffix(".jpg"): set(row["labels"]) for row in rows}
    expected["000"] = held(before)["000"]
    assert held(after) == expected and after.verify() == []
    assert "of class 'none' in the shards" in (out / "rejected-1.tsv").read_text()
    with pytest.raises(UserError, match="several classes per photograph"):
        table.write_text("".join(f'{{"path": "{row["path"]}", "labels": "disc"}}\n' for row in rows))
        convert(table, out, workers=1, progress=False, append=True)
    assert "one class" in _refusal(scenes, out, tmp_path)


def _refusal(scenes: Path, out: Path, tmp_path: Path) -> str:
    single = scenes.with_name("single.jsonl")
    lines = (f'{{"path": "{number:03d}.jpg", "label": "{CLASSES[number % 2]}"}}\n' for number in range(30))
    single.write_text("".join(lines))
    convert(single, tmp_path / "single", workers=1, progress=False)
    with pytest.raises(UserError) as caught:
        options = SourceOptions(multi_label=True)
        convert(single, tmp_path / "single", workers=1, progress=False, append=True, options=options)
    return str(caught.value)


def test_inspect_counts_classes_and_cardinality(scenes: Path, shards: Path) -> None:
    found = inspect(shards)
    sets = told(scenes).values()
    assert {name: sum(found.splits[split][name] for split in found.splits) for name in CLASSES} == {
        name: sum(name in each for each in sets) for name in CLASSES
    }
    assert found.photographs == 30 and found.cardinality is not None
    assert found.cardinality.none == sum(not each for each in sets)
    assert found.cardinality.mean == pytest.approx(np.mean([len(each) for each in sets]))
    console = make_console()
    with console.capture() as shown:
        console.print(inspection_summary(found))
    assert "classes a photograph" in shown.get()


def test_the_same_bytes_with_another_set_are_listed(scenes: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "twins"
    shutil.copytree(scenes.parent, folder)
    shutil.copyfile(folder / "001.jpg", folder / "twin.jpg")
    rows = [json.loads(line) for line in scenes.read_text().splitlines()]
    rows.append({"path": "twin.jpg", "labels": sorted(set(CLASSES) - set(rows[1]["labels"]))})
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    convert(folder / "labels.jsonl", tmp_path / "out", workers=1, progress=False)
    assert "twin.jpg" in (tmp_path / "out" / "label_conflicts.tsv").read_text()
