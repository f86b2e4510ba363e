"""`convert --append`: what is there stays byte for byte, and what is new comes behind it."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fasttrain.cli import app
from fasttrain.errors import UserError
from fasttrain.inspection.inspect import inspect
from fasttrain.photos.source import SourceOptions
from fasttrain.photos.sources import open_source
from fasttrain.photos.split import decide_splits
from fasttrain.shards import parts
from fasttrain.shards.convert import ConvertResult, convert, convert_part
from fasttrain.shards.destination import Folder
from fasttrain.shards.merge import merge
from fasttrain.shards.reader import ShardSet
from fasttrain.shards.settings import ShardSettings
from tests.shards.conftest import grow, photo

MADE = {"workers": 2, "shard_size": 7, "progress": False}


def make(source: Path, out: Path, **options: object) -> ConvertResult:
    reading = {name: options.pop(name) for name in list(options) if name in SourceOptions.__dataclass_fields__}
    return convert(source, out, options=SourceOptions(**reading), **{**MADE, **options})  # type: ignore[arg-type]


def listed(path: Path) -> dict[str, str]:
    return dict(line.split("\t") for line in path.read_text().splitlines())


def splits(path: Path) -> dict[str, str]:
    return {line.split(",")[0]: line.split(",")[1] for line in path.read_text().splitlines()[1:]}


def test_what_is_there_stays_and_what_is_new_comes_behind_it(mixed, tmp_path, folder_of, decoded) -> None:
    out = tmp_path / "out"
    make(mixed, out)
    before, old = folder_of(out), ShardSet.open(out)
    old_index = np.array(old.index)
    paths = grow(mixed)
    result = make(mixed, out, append=True)
    assert result.photos == len(paths) == 10 and not result.already
    after, shards = folder_of(out), ShardSet.open(out)
    assert {name: data for name, data in after.items() if name in before} == {
        **before,
        "manifest.json": after["manifest.json"],
    }
    assert shards.classes == ["cat", "dog", "ant"]
    for name in old_index.dtype.names:
        assert (shards.index[name][: len(old_index)] == old_index[name]).all(), name
    added = shards.index[len(old_index) :]
    assert sorted(key.decode() + ".jpg" for key in added["key"]) == sorted(paths)
    for row in range(len(old_index), len(shards)):
        path = mixed / f"{shards.index['key'][row].decode()}.jpg"
        assert (decoded(shards.bytes(row)) == np.asarray(Image.open(path)).astype(int)).all()
        assert shards.classes[shards.index["label"][row]] == path.parent.name
    assert shards.verify() == [] and not inspect(out, verify=True, progress=False).problems
    counts = shards.manifest.counts
    assert counts["stored"] == len(shards) and counts["photos"] == len(shards) + counts["broken"]
    (record,) = shards.manifest.settings["appended"]
    assert (record["photographs"], record["changed"], record["missing"]) == (10, 0, 0)
    assert record["to"] == old.fingerprint != shards.fingerprint
    assert not list(out.glob(".parts")) and merge(out) == shards.manifest


def test_splits_are_those_of_the_old_and_a_fair_share_of_the_new(mixed, tmp_path) -> None:
    out = tmp_path / "out"
    make(mixed, out, val_fraction=0.25, test_fraction=0.25)
    before = splits(out / "splits.csv")
    for seed in (500, 600, 700, 800):  # one after the other, each too few to validate by themselves
        grow(mixed, 1, seed)
        make(mixed, out, val_fraction=0.25, test_fraction=0.25, append=True)
    after = splits(out / "splits-4.csv")
    assert {path: after[path] for path in before} == before
    for name, count in (("dog", 4), ("ant", 1)):
        of_class = [split for path, split in after.items() if path.startswith(name)]
        assert [of_class.count(split) for split in ("val", "test")] == [count, count], name
    again = splits(out / "splits-4.csv")
    fixed = SourceOptions(splits=out / "splits-4.csv")
    assert set(splits_of(open_source(mixed, options=fixed)).items()) == set(again.items())


def splits_of(source) -> dict[str, str]:
    drawn = decide_splits(source, 0.25, 0.25, 0)
    return {path: ("train", "val", "test")[split] for path, split in zip(source.paths, drawn.tolist(), strict=True)}


def test_nothing_new_is_nothing_to_do(mixed, tmp_path, folder_of, capfd) -> None:
    out = tmp_path / "out"
    make(mixed, out)
    before = folder_of(out)
    result = make(mixed, out, append=True, progress=True)
    assert result.already and result.photos == 0 and folder_of(out) == before
    assert "nothing to add" in capfd.readouterr().err
    grow(mixed)
    with pytest.raises(UserError, match=r"other photographs.*--append adds new photographs"):
        make(mixed, out)
    make(mixed, out, append=True)
    before = folder_of(out)
    assert make(mixed, out).already and make(mixed, out, append=True).already and folder_of(out) == before


def test_changed_and_missing_photographs_are_told_and_kept(mixed, tmp_path, capfd) -> None:
    out = tmp_path / "out"
    make(mixed, out)
    first = splits(out / "splits.csv")
    old = np.array(ShardSet.open(out).index)
    photo(900, (200, 100)).save(mixed / "dog" / "03.jpg")
    (mixed / "dog" / "04.jpg").unlink()
    (mixed / "cat" / "broken.jpg").unlink()
    grow(mixed)
    with pytest.raises(UserError, match=r"dog/03\.jpg: .* bytes now, .* when it was converted.*leave out --strict"):
        make(mixed, out, append=True, strict=True)
    assert ShardSet.open(out).manifest.index.samples == len(old)
    make(mixed, out, append=True, progress=True)
    said = " ".join(capfd.readouterr().err.split())
    assert "not in the source any more, kept in the shards: 1 (dog/04.jpg)" in said
    assert "changed since they were converted, kept unchanged: 1 (dog/03.jpg)" in said
    assert "new classes, added after the others: 1 (ant)" in said
    shards = ShardSet.open(out)
    assert (shards.index["crc32"][: len(old)] == old["crc32"]).all()
    rejected = listed(out / "rejected-1.tsv")
    assert (
        "the shards keep the earlier version" in rejected["dog/03.jpg"]
        and "not in the source" in rejected["dog/04.jpg"]
    )
    assert rejected["cat/notes.txt"] and "truncated" not in rejected and "cat/broken.jpg" not in rejected
    assert "cat/empty.jpg" in rejected
    record = shards.manifest.settings["appended"][0]
    assert (record["changed"], record["missing"]) == (1, 1)
    assert splits(out / "splits-1.csv").items() >= first.items()
    for options in ({}, {"seed": 1}):
        if options:
            with pytest.raises(UserError, match="seed = 0, not 1"):
                make(mixed, out, append=True, **options)
        else:
            capfd.readouterr()
            make(mixed, out, append=True, progress=True)
            assert "changed since they were converted" in " ".join(capfd.readouterr().err.split())


def test_another_class_is_told_as_well(mixed, tmp_path) -> None:
    table = tmp_path / "labels.csv"
    rows = [(f"mixed/{name}/{number:02d}.jpg", name) for name in ("cat", "dog") for number in range(6)]
    table.write_text("path,label\n" + "".join(f"{path},{name}\n" for path, name in rows))
    make(table, tmp_path / "out")
    rows[0] = rows[0][0], "dog"
    rows.append(("mixed/dog/11.jpg", "dog"))
    table.write_text("path,label\n" + "".join(f"{path},{name}\n" for path, name in rows))
    make(table, tmp_path / "out", append=True)
    rejected = listed(tmp_path / "out" / "rejected-1.tsv")
    assert rejected == {
        rows[0][0]: "of class 'dog' now, of class 'cat' in the shards: the shards keep the earlier version"
    }


def test_extra_labels_of_new_photographs_come_behind_the_others(mixed, tmp_path) -> None:
    table, out = tmp_path / "labels.csv", tmp_path / "out"

    def listed_with(ages: dict[str, int]) -> None:
        lines = (f"mixed/{name}/{number}.jpg,{name},{age}\n" for number, age in ages.items() for name in ("cat", "dog"))
        table.write_text("path,label,age\n" + "".join(lines))

    listed_with({"02": 3, "04": 4, "07": 5})
    make(table, out)
    first = ShardSet.open(out).extra_labels()["age"].tolist()
    assert sorted(first) == [3, 3, 4, 4, 5, 5]
    listed_with({"02": 3, "04": 40, "07": 5, "08": 6})
    make(table, out, append=True)
    shards = ShardSet.open(out)
    assert shards.extra_labels()["age"].tolist() == [*first, 6, 6] and shards.verify() == []
    reason = "other extra labels than when it was converted: the shards keep the earlier version"
    assert listed(out / "rejected-1.tsv") == {f"mixed/{name}/04.jpg": reason for name in ("cat", "dog")}


def test_old_keys_stay_and_a_broken_photograph_that_was_replaced_is_added(mixed, tmp_path) -> None:
    out = tmp_path / "out"
    make(mixed, out)
    old = {key.decode() for key in ShardSet.open(out).index["key"]}
    before = splits(out / "splits.csv")["cat/broken.jpg"]
    photo(901).save(mixed / "dog" / "01.bmp")  # which sorts before 01.jpg
    photo(902).save(mixed / "cat" / "broken.jpg")
    assert make(mixed, out, append=True).photos == 2
    shards = ShardSet.open(out)
    added = {key.decode(): row for row, key in enumerate(shards.index["key"]) if key.decode() not in old}
    assert added.keys() == {"dog/01~2", "cat/broken"}
    image = Image.open(io.BytesIO(bytes(shards.bytes([key.decode() for key in shards.index["key"]].index("dog/01")))))
    assert image.size == (64, 48) and np.asarray(image).mean() == pytest.approx(np.asarray(photo(101)).mean(), abs=2)
    assert splits(out / "splits-1.csv")["cat/broken.jpg"] == before
    assert "cat/broken.jpg" not in listed(out / "rejected-1.tsv")
    assert shards.verify() == []


def test_again_and_again(mixed, tmp_path, folder_of) -> None:
    out = tmp_path / "out"
    make(mixed, out)
    for time in (1, 2, 3):
        old = folder_of(out)
        grow(mixed, 3, 500 + 10 * time)
        (out / f"train-0009{time}.tar").write_text("left by another append that was killed")
        (out / f"mine-{time}.csv").write_text("not ours")
        make(mixed, out, append=True)
        shards = ShardSet.open(out)
        assert shards.verify() == [] and len(shards.manifest.settings["appended"]) == time
        named = {shard.name for shard in shards.manifest.shards} | set(shards.manifest.files)
        for name, data in old.items():
            if name.endswith((".tar", ".idx")):
                assert folder_of(out)[name] == data and name in named
        assert not (out / f"train-0009{time}.tar").exists() and (out / f"mine-{time}.csv").exists()
    assert sorted(path.name for path in out.glob("index*")) == ["index-2.npy", "index-3.npy"]
    copied = tmp_path / "copied"
    shutil.copytree(out, copied)
    make(mixed, copied, overwrite=True, seed=3)
    make(mixed, tmp_path / "fresh", seed=3)
    mine = {f"mine-{time}.csv" for time in (1, 2, 3)}
    assert {name: data for name, data in folder_of(copied).items() if name not in mine} == folder_of(tmp_path / "fresh")


def test_a_reader_sees_the_old_set_or_the_new_one(mixed, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    make(mixed, out)
    old, written = len(ShardSet.open(out)), []
    grow(mixed)
    write = Folder.write

    def seen(folder: Folder, name: str, data: bytes) -> None:
        assert len(ShardSet.open(out)) == old and ShardSet.open(out).verify() == []
        write(folder, name, data)
        if "/" not in name:
            written.append(name)
        shards = ShardSet.open(out)
        assert len(shards) == (old + 10 if name == "manifest.json" else old) and shards.verify() == []

    monkeypatch.setattr(Folder, "write", seen)
    make(mixed, out, append=True)
    assert written[-1] == "manifest.json" and len(written) == 5


@pytest.mark.parametrize("shards_written", [0, 1, 2])
def test_stopped_and_resumed_gives_the_same_bytes(mixed, tmp_path, folder_of, monkeypatch, shards_written) -> None:
    make(mixed, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    old = len(ShardSet.open(tmp_path / "out"))
    grow(mixed)
    make(mixed, tmp_path / "whole", append=True, shard_size=7)
    write, written = parts._write_part, []

    def stops(*arguments):
        if len(written) == shards_written:
            raise KeyboardInterrupt
        written.append(arguments[0].name)
        return write(*arguments)

    monkeypatch.setattr(parts, "_write_part", stops)
    with pytest.raises(KeyboardInterrupt):
        make(mixed, tmp_path / "out", append=True)
    assert len(ShardSet.open(tmp_path / "out")) == old
    monkeypatch.setattr(parts, "_write_part", write)
    read = make(mixed, tmp_path / "out", append=True).photos
    assert folder_of(tmp_path / "out") == folder_of(tmp_path / "whole") and (read < 10) == (shards_written > 0)


def test_groups_and_near_duplicates_go_where_the_old_ones_are(mixed, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    options = {"group_by": r"/(.)", "keep_duplicates_together": True, "val_fraction": 0.4, "append": False}
    for name in ("cat", "dog"):
        shutil.rmtree(mixed / name)
        (mixed / name).mkdir()
        for number, start in enumerate("abcdefgh"):
            photo(1000 * len(name) + number + 50 * (name == "dog")).save(mixed / name / f"{start}0.jpg")
    make(mixed, out, **options)
    before = splits(out / "splits.csv")
    assert {"train", "val"} == set(before.values())
    for start in "abcdefgh":
        photo(ord(start)).save(mixed / "dog" / f"{start}1.jpg")
        shutil.copy(mixed / "cat" / f"{start}0.jpg", mixed / "cat" / f"{ord(start)}.png")  # a group of its own
    make(mixed, out, **{**options, "append": True})
    after = splits(out / "splits-1.csv")
    for start in "abcdefgh":
        assert after[f"dog/{start}1.jpg"] == before[f"dog/{start}0.jpg"]
    assert {path: after[path] for path in before} == before
    assert ShardSet.open(out).verify() == [] and "duplicates-1.csv" in ShardSet.open(out).manifest.files


def test_parts_that_were_merged_are_appended_to(mixed, tmp_path, folder_of) -> None:
    for part in ("1/2", "2/2"):
        convert_part(mixed, tmp_path / "parts", part, ShardSettings(shard_size=7), progress=False)
    merge(tmp_path / "parts")
    make(mixed, tmp_path / "alone")
    grow(mixed)
    for out in ("parts", "alone"):
        make(mixed, tmp_path / out, append=True)
    assert folder_of(tmp_path / "parts") == folder_of(tmp_path / "alone")


def test_behind_a_url_they_open_as_well(mixed, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    make(mixed, out)
    assert len(ShardSet.open(f"file://{out}")) == len(ShardSet.open(out))
    grow(mixed)
    make(mixed, out, append=True)
    remote, local = ShardSet.open(f"file://{out}"), ShardSet.open(out)
    assert (np.array(remote.index) == np.array(local.index)).all() and remote.verify() == []
    assert bytes(remote.bytes(len(remote) - 1)) == bytes(local.bytes(len(local) - 1))


def test_betons_are_made_of_all(mixed, tmp_path) -> None:
    out = tmp_path / "out"
    make(mixed, out, format="tar,beton")
    grow(mixed)
    with pytest.raises(UserError, match="give --format tar,beton"):
        make(mixed, out, append=True)
    make(mixed, out, append=True, format="tar,beton")
    assert not inspect(out, verify=True, progress=False).problems


def test_what_cannot_be_appended_to_is_one_line(mixed, tmp_path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match="does not exist"):
        make(mixed, out, append=True)
    assert not out.exists()
    make(mixed, out)
    other = tmp_path / "other"
    for name in ("one", "two"):
        (other / name).mkdir(parents=True)
        photo(1).save(other / name / "a.jpg")
    cases = [
        (mixed, {"quality": 90}, r"other settings \(quality = 95, not 90\)"),
        (mixed, {"overwrite": True}, "leave out one of them"),
        (other, {}, "none of the classes"),
    ]
    for source, options, said in cases:
        with pytest.raises(UserError, match=said) as caught:
            make(source, out, append=True, **options)
        assert "\n" not in str(caught.value)
    (out / "splits.csv").write_text("path,split\n")
    with pytest.raises(UserError, match=r"splits\.csv: its bytes have changed"):
        make(mixed, out, append=True)
    plain = json.loads((out / "manifest.json").read_text())
    del plain["files"]["splits.csv"], plain["checksum"]
    (out / "manifest.json").write_text(json.dumps(plain))
    with pytest.raises(UserError, match="has no list of its photographs"):
        make(mixed, out, append=True)
    ended = CliRunner().invoke(app, ["convert", "--source", str(mixed), "--out", str(out), "--append", "--part", "1/2"])
    assert isinstance(ended.exception, UserError) and "--append" in str(ended.exception)


def test_a_new_class_without_a_usable_photograph_leaves_the_old_set(mixed, tmp_path) -> None:
    out = tmp_path / "out"
    make(mixed, out)
    (mixed / "ant").mkdir()
    (mixed / "ant" / "torn.jpg").write_bytes((mixed / "dog" / "01.jpg").read_bytes()[:300])
    with pytest.raises(
        UserError, match=r"class 'ant' has no usable training photograph \(the reasons are in .*rejected-1"
    ):
        make(mixed, out, append=True)
    assert ShardSet.open(out).classes == ["cat", "dog"] and ShardSet.open(out).verify() == []
    photo(903).save(mixed / "ant" / "torn.jpg")
    make(mixed, out, append=True)
    assert ShardSet.open(out).classes == ["cat", "dog", "ant"] and ShardSet.open(out).verify() == []
