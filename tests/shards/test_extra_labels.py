"""A table's further columns, from the source to `ShardSet.extra_labels`; and what Hugging Face's forms convert to."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fasttrain.errors import UserError
from fasttrain.photos.source import SourceOptions
from fasttrain.shards.convert import convert, convert_part
from fasttrain.shards.format import EXTRA, read_manifest
from fasttrain.shards.merge import merge
from fasttrain.shards.reader import ShardSet
from fasttrain.shards.settings import ShardSettings
from tests.shards.conftest import photo
from tests.support.containers import write_tar
from tests.support.hf_data import jpeg, rows, save_to_disk, with_features, write_parquet

COUNT = 12
SETTINGS = ShardSettings(cut="none", shard_size=4)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Photographs `0.jpg` … `11.jpg`, of which 5 is broken."""
    (tmp_path / "some").mkdir()
    for number in range(COUNT):
        photo(number, (24, 16)).save(tmp_path / "some" / f"{number}.jpg")
    (tmp_path / "some" / "5.jpg").write_bytes(b"\xff\xd8\xff")
    return tmp_path / "some"


def table(folder: Path, header: str, cells: list[str]) -> Path:
    file = folder / "t.csv"
    lines = [f"{number}.jpg,{number % 3},{cell}" for number, cell in enumerate(cells)]
    file.write_text("\n".join([f"path,label,{header}", *lines]) + "\n")
    return file


def made(source: Path, out: Path, **options: Any) -> ShardSet:
    convert(source, out, workers=1, shard_size=4, cut="none", progress=False, options=SourceOptions(**options))
    return ShardSet.open(out)


def numbers(shards: ShardSet) -> list[int]:
    """Return the photograph's number of each sample."""
    return [int(key.decode().rpartition("/")[2]) for key in shards.index["key"]]


def test_columns_follow_the_samples(folder, tmp_path) -> None:
    digits = "12345678901234567890"
    cells = [
        f'{n},{n / 4},{"" if n == 3 else n},007,{digits},"[{n}, ""x""]",{"" if n == 2 else f"t{n}"}'
        for n in range(COUNT)
    ]
    shards = made(table(folder, "age,weight,some,code,long,tags,text", cells), tmp_path / "out")
    order = numbers(shards)
    assert len(order) == COUNT - 1 and 5 not in order, "a broken photograph has no sample"
    extra = shards.extra_labels()
    assert list(extra) == ["age", "weight", "some", "code", "long", "tags", "text"]
    assert extra["age"].dtype == np.int64 and extra["age"].tolist() == order
    assert extra["weight"].dtype == np.float64 and extra["weight"].tolist() == [number / 4 for number in order]
    assert np.array_equal(extra["some"], [np.nan if number == 3 else number for number in order], equal_nan=True)
    assert extra["code"] == ["007"] * len(order), "leading zeros are no number's"
    assert extra["long"] == [digits] * len(order), "nor are more digits than a number holds"
    assert extra["tags"] == [[number, "x"] for number in order]
    assert extra["text"] == [None if number == 2 else f"t{number}" for number in order]
    assert not shards.verify()


def test_typed_tables_keep_their_types(folder, tmp_path) -> None:
    day = datetime.date(2026, 1, 2)
    columns = {
        "path": [f"{number}.jpg" for number in range(COUNT)],
        "label": ["cat", "dog"] * 6,
        "code": ["1"] * COUNT,
        "day": [day] * COUNT,
        "sure": [True, False] * 6,
        "labels_all": [[number, number + 1] for number in range(COUNT)],
        "embedding": [b"x"] * COUNT,
    }
    write_parquet(folder / "t.parquet", pa.table(columns))
    extra = made(folder / "t.parquet", tmp_path / "out", label_column="label").extra_labels()
    order = numbers(ShardSet.open(tmp_path / "out"))
    assert list(extra) == ["code", "day", "sure", "labels_all"]
    assert extra["code"] == ["1"] * 11 and extra["day"] == ["2026-01-02"] * 11
    assert extra["sure"].dtype == bool and extra["sure"].tolist() == [number % 2 == 0 for number in order]
    assert extra["labels_all"] == [[number, number + 1] for number in order]
    lines = [{"path": f"{n}.jpg", "label": n % 2, "box": {"x": n}} for n in range(COUNT)]
    (folder / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shards = made(folder / "t.jsonl", tmp_path / "json")
    assert shards.extra_labels() == {"box": [{"x": number} for number in numbers(shards)]}


def test_without_further_columns_there_is_no_file(folder, tmp_path) -> None:
    file = table(folder, "split", ["train"] * 6 + ["test"] * 6)
    shards = made(file, tmp_path / "out")
    assert shards.extra_labels() == {} and not (tmp_path / "out" / EXTRA).exists()
    assert EXTRA not in shards.manifest.files


def test_a_list_with_numbers_and_a_file_of_names(folder, tmp_path) -> None:
    (folder / "names.txt").write_text("cat\ndog\nowl\n")
    (folder / "list.txt").write_text("".join(f"{number}.jpg, {number % 3}, {number}\n" for number in range(COUNT)))
    shards = made(folder / "list.txt", tmp_path / "out", class_names=folder / "names.txt")
    assert shards.classes == ["cat", "dog", "owl"]
    assert shards.labels().tolist() == [number % 3 for number in numbers(shards)]
    assert shards.extra_labels()["3"].tolist() == numbers(shards)


def test_parts_carry_them(folder, tmp_path) -> None:
    file = table(folder, "age", [str(number) for number in range(COUNT)])
    alone = made(file, tmp_path / "alone")
    for number in (1, 2):
        convert_part(file, tmp_path / "parts", f"{number}/2", SETTINGS, progress=False)
    merge(tmp_path / "parts")
    for name in (EXTRA, "manifest.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert np.array_equal(ShardSet.open(tmp_path / "parts").extra_labels()["age"], alone.extra_labels()["age"])


def test_changed_columns_are_other_shards(folder, tmp_path) -> None:
    file = table(folder, "age", ["1"] * COUNT)
    made(file, tmp_path / "out")
    table(folder, "age", ["2"] * COUNT)
    with pytest.raises(UserError, match="other photographs"):
        made(file, tmp_path / "out")
    convert(file, tmp_path / "out", workers=1, shard_size=4, cut="none", progress=False, overwrite=True)
    assert ShardSet.open(tmp_path / "out").extra_labels()["age"].tolist() == [2] * 11
    plain = folder / "plain.csv"
    plain.write_text("path,label\n" + "".join(f"{number}.jpg,{number % 3}\n" for number in range(COUNT)))
    convert(plain, tmp_path / "out", workers=1, shard_size=4, cut="none", progress=False, overwrite=True)
    assert not (tmp_path / "out" / EXTRA).exists(), "those of the shards before are gone"


def test_a_damaged_file_is_named(folder, tmp_path) -> None:
    made(table(folder, "age", ["1"] * COUNT), tmp_path / "out")
    file = tmp_path / "out" / EXTRA
    file.write_bytes(file.read_bytes().replace(b"1}", b"2}", 1))
    shards = ShardSet.open(tmp_path / "out")
    assert [line for line in shards.verify() if EXTRA in line]
    with pytest.raises(UserError, match=r"extra_labels\.jsonl: its bytes have changed"):
        shards.extra_labels()
    file.unlink()
    with pytest.raises(UserError, match=r"extra_labels\.jsonl: missing; copy it again"):
        shards.extra_labels()


def test_they_are_fetched_with_shards_behind_a_url(folder, tmp_path) -> None:
    here = made(table(folder, "age", [str(number) for number in range(COUNT)]), tmp_path / "out")
    there = ShardSet.open(f"file://{tmp_path / 'out'}")
    assert there.extra_labels()["age"].tolist() == here.extra_labels()["age"].tolist()


def test_every_form_of_a_data_set_gives_the_same_shards(tmp_path) -> None:
    """The same photographs as files, as Parquet and as Arrow: their coefficients are stored as they came."""
    some = with_features(rows(0, COUNT, age=list(range(COUNT))))
    one = made(write_parquet(tmp_path / "set" / "all.parquet", some).parent, tmp_path / "parquet")
    saved = made(save_to_disk(tmp_path / "saved", some), tmp_path / "arrow")
    plain = tmp_path / "files"
    for number in range(COUNT):
        (plain / str(number % 2)).mkdir(parents=True, exist_ok=True)
        (plain / str(number % 2) / f"{number}.jpg").write_bytes(jpeg(number))
    files = made(plain, tmp_path / "folder")

    def stored(shards: ShardSet) -> dict[int, tuple[bytes, int]]:
        pairs = [(bytes(shards.bytes(row)), int(shards.index["label"][row])) for row in range(len(shards))]
        return dict(zip(numbers(shards), pairs, strict=True))

    assert stored(one) == stored(saved) == stored(files)
    assert one.extra_labels()["age"].tolist() == numbers(one)
    assert one.manifest.source.kind == "huggingface" and one.manifest.counts["broken"] == 0


def test_a_resumed_conversion_of_rows_notices_a_changed_file(tmp_path, monkeypatch, capfd) -> None:
    from fasttrain.shards import parts

    path = write_parquet(tmp_path / "set" / "all.parquet", with_features(rows(0, COUNT))).parent
    normalize, calls = parts.normalize, []

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > 9:
            raise KeyboardInterrupt
        return normalize(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(parts, "normalize", stopping)
        made(path, tmp_path / "out")
    assert list((tmp_path / "out" / ".parts").glob("train-*.json"))
    copy = path / "all.parquet.new"
    shutil.copyfile(path / "all.parquet", copy)
    copy.replace(path / "all.parquet")  # the same bytes, by all that can be told without reading them another file
    capfd.readouterr()
    convert(path, tmp_path / "out", workers=1, shard_size=4, cut="none")
    assert "all are converted again, including 8 finished ones" in " ".join(capfd.readouterr().err.split())
    assert read_manifest(tmp_path / "out").counts["stored"] == COUNT


def test_keys_of_a_webdatasets_json(tmp_path) -> None:
    members: dict[str, str | bytes] = {}
    for number in range(COUNT):
        said = {"age": 20 + number, "weight": number / 2} if number != 3 else {"age": 23}
        members |= {f"{number}.jpg": jpeg(number), f"{number}.cls": str(number % 3), f"{number}.json": json.dumps(said)}
    shards = made(write_tar(tmp_path / "a.tar", members), tmp_path / "out")
    extra = shards.extra_labels()
    assert list(extra) == ["age", "weight"] and extra["age"].dtype == np.int64
    assert extra["age"].tolist() == [20 + number for number in numbers(shards)]
    weights = [np.nan if number == 3 else number / 2 for number in numbers(shards)]
    np.testing.assert_array_equal(extra["weight"], weights)
