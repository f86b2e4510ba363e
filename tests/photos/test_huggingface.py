"""Parquet files that hold photographs, and what `datasets` saves, as sources."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from fasttrain.errors import UserError
from fasttrain.extras import install
from fasttrain.photos.pictures import BrokenPhoto
from fasttrain.photos.source import Source, SourceOptions
from fasttrain.photos.sources import defines_splits, open_source
from tests.support.hf_data import NAMES, jpeg, rows, save_to_disk, with_features, write_parquet


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FASTTRAIN_CACHE", str(folder))
    return folder


def opened(path: Path, **options: str | Path) -> Source:
    return open_source(path, options=SourceOptions(**options))


def refused(path: Path, **options: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        opened(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def labels(source: Source) -> dict[str, str]:
    return {path: source.classes[label] for path, label in zip(source.paths, source.labels, strict=True)}


def holds(source: Source, count: int) -> None:
    """Assert that photograph i is number i, with its class, whatever the order in which they are read."""
    numbers = [int(Path(path).stem) for path in source.paths]
    assert sorted(numbers) == list(range(count))
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(source.read, reversed(range(count))))
    assert read == [jpeg(number) for number in reversed(numbers)], "the bytes of the rows, not encoded again"
    assert [source.classes[label] for label in source.labels] == [NAMES[number % 2] for number in numbers]


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_one_parquet_file(tmp_path, cache, compression) -> None:
    table = with_features(rows(0, 7))
    source = opened(write_parquet(tmp_path / "a.parquet", table, compression=compression))
    assert (source.kind, source.name, source.root) == ("huggingface", "a.parquet", tmp_path / "a.parquet")
    assert source.paths[0] == "000000/0.jpg" and source.classes == tuple(NAMES)
    assert source.splits.tolist() == [-1] * 7
    holds(source, 7)
    assert not list(cache.iterdir()), "the copy has no name"


def test_a_folder_of_parquet_files_with_splits_in_their_names(tmp_path) -> None:
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", with_features(rows(0, 3)))
    write_parquet(tmp_path / "data" / "train-00001-of-00002-0123456789abcdef.parquet", with_features(rows(3, 3)))
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", with_features(rows(6, 2)))
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", with_features(rows(8, 2)))
    write_parquet(tmp_path / "data" / "unlabeled-00000-of-00001.parquet", with_features(rows(10, 2)))
    source = opened(tmp_path)
    holds(source, 10)
    splits = {int(Path(path).stem): split for path, split in zip(source.paths, source.splits.tolist(), strict=True)}
    assert splits == {**dict.fromkeys(range(6), 0), 6: 1, 7: 1, 8: 2, 9: 2}
    assert source.ignored == (
        ("data/unlabeled-00000-of-00001.parquet", "belongs to no split: neither train, validation nor test"),
    )
    assert "train 6, val 2, test 2" in source.notes[0]
    assert defines_splits(tmp_path)
    for name in ("train-00000-of-00002", "train-00001-of-00002-0123456789abcdef"):
        (tmp_path / "data" / f"{name}.parquet").unlink()
    assert "no training split" in refused(tmp_path)


def test_what_datasets_saved(tmp_path) -> None:
    table = with_features(rows(0, 9))
    one = save_to_disk(tmp_path / "one", table)
    source = opened(one)
    holds(source, 9)
    assert source.splits.tolist() == [-1] * 9 and not defines_splits(one)
    both = tmp_path / "both"
    save_to_disk(both / "train", table.slice(0, 6))
    save_to_disk(both / "test", table.slice(6))
    (both / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    source = opened(both)
    holds(source, 9)
    assert sorted(source.splits.tolist()) == [-1] * 6 + [2] * 3
    # An older release has the features in dataset_info.json alone.
    plain = save_to_disk(tmp_path / "plain", table.replace_schema_metadata(None))
    assert opened(plain).classes == ("0", "1")
    (plain / "dataset_info.json").write_bytes((one / "dataset_info.json").read_bytes())
    holds(opened(plain), 9)
    (both / "dataset_dict.json").write_text('{"splits": []}')
    assert "holds no Parquet or Arrow files" in refused(both)
    (both / "dataset_dict.json").write_text("{}")
    assert "names no splits" in refused(both)
    state = json.loads((one / "state.json").read_text())
    (one / "state.json").write_text(json.dumps({**state, "_indices_data_files": [{"filename": "i.arrow"}]}))
    assert "flatten_indices()" in refused(one)


def test_a_test_split_without_labels_is_listed(tmp_path) -> None:
    write_parquet(tmp_path / "test.parquet", with_features(rows(4, 2)).drop_columns("label"))
    write_parquet(tmp_path / "train.parquet", with_features(rows(0, 4)))
    source = opened(tmp_path)
    holds(source, 4)
    assert source.ignored == (("test.parquet", "no column label"),)


def test_class_names_from_the_card_a_list_or_the_text(tmp_path) -> None:
    folder = tmp_path / "set"
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows(0, 4))
    assert opened(folder).classes == ("0", "1")
    (folder / "README.md").write_text(
        "---\nlicense: mit\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n"
        "    dtype:\n      class_label:\n        names:\n          '0': pear\n          '1': apple\n---\n# Fruit\n"
    )
    holds(opened(folder), 4)
    names = tmp_path / "names.txt"
    names.write_text("1\n0\n")
    assert set(labels(opened(folder, class_names=names)).items()) >= {
        ("data/train-00000-of-00001.parquet/000000/0.jpg", "1")
    }, "a number is a position, whatever the names look like"
    text = rows(0, 4).drop_columns("label").append_column("species", pa.array(["owl", "cat", "owl", "cat"]))
    assert opened(write_parquet(tmp_path / "text.parquet", text)).classes == ("cat", "owl")


def test_configurations(tmp_path) -> None:
    for number, config in enumerate(("large", "small")):
        write_parquet(tmp_path / config / "train-00000-of-00001.parquet", with_features(rows(4 * number, 4)))
    said = refused(tmp_path)
    assert "several configurations (large, small)" in said
    assert len(opened(tmp_path / "small").paths) == 4
    card = "---\nconfigs:\n- config_name: large\n  data_dir: large\n- config_name: s\n  default: true\n"
    card += "  data_files:\n  - split: train\n    path: small/train-*\n---\n"
    (tmp_path / "README.md").write_text(card)
    assert opened(tmp_path).paths[0] == "small/train-00000-of-00001.parquet/000000/4.jpg"
    assert "(s): " in opened(tmp_path).notes[0]


def test_columns_are_told_by_what_they_hold(tmp_path) -> None:
    mask = {"mask": rows(0, 4).column("image")}
    two = write_parquet(tmp_path / "two.parquet", rows(0, 4, **mask))
    assert "image or mask may be the photographs" in refused(two)
    assert len(opened(two, path_column="mask").paths) == 4
    assert "no column 'masc'" in refused(two, path_column="masc")
    coarse = {"coarse_label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    fine = with_features(rows(0, 4, coarse_label=[0, 0, 1, 1]), **coarse)
    assert labels(opened(write_parquet(tmp_path / "fine.parquet", fine)))["000000/0.jpg"] == "pear"
    renamed = fine.rename_columns(["image", "fine_label", "coarse_label"])
    kinds = {"fine_label": {"_type": "ClassLabel", "names": NAMES}, **coarse}
    renamed = write_parquet(tmp_path / "r.parquet", with_features(renamed, **kinds))
    assert "fine_label or coarse_label may be the label; give --label-column" in refused(renamed)
    assert opened(renamed, label_column="coarse_label").classes == ("a", "b")
    further = rows(0, 4, age=[1, 2, 3, 4], embedding=[[0.5]] * 4, tags=[["a"]] * 4)
    source = opened(write_parquet(tmp_path / "further.parquet", further))
    assert source.extra == {"age": [1, 2, 3, 4], "tags": [["a"]] * 4}
    assert source.notes[0].endswith("extra labels: age, tags; not used: embedding")
    # Bytes without a struct, by their column's name; photographs of rows have no names then.
    plain = pa.table({"image": [jpeg(0), jpeg(1)], "label": ["x", "y"], "split": ["train", "test"]})
    source = opened(write_parquet(tmp_path / "plain.parquet", plain))
    assert source.paths == ("000000", "000001") and source.read(1) == jpeg(1) and source.splits.tolist() == [-1, 2]
    paths = pa.table({"image": ["a.jpg", "b.jpg"], "label": ["x", "y"], "embedding": [b"x", b"y"]})
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(jpeg(0))
    assert opened(write_parquet(tmp_path / "table.parquet", paths)).kind == "table"


def test_rows_without_bytes_or_label_are_named(tmp_path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": jpeg(0), "path": None}, {"bytes": None, "path": "b.jpg"}, None, {"bytes": jpeg(3), "path": "d"}]
    table = pa.table({"image": pa.array(images * 2, kind), "label": [0, 1, 0, 1, 1, -1, None, 0]})
    for path in (
        write_parquet(tmp_path / "a.parquet", with_features(table)),
        save_to_disk(tmp_path / "b", with_features(table)),
    ):
        source = opened(path)
        start = "" if path.is_file() else "data-00001-of-00002.arrow/"
        first, second = (5, 6) if path.is_file() else (1, 2)
        assert dict(source.ignored) == {
            f"{start}{first:06d}/b.jpg": "no label in column label",
            f"{start}{second:06d}": "no label in column label",
        }
        for row in (1, 2):
            with pytest.raises(BrokenPhoto, match="no bytes in column image"):
                source.read(row)
        assert source.read(3) == jpeg(3)


def test_damaged_files_are_named_with_what_to_do(tmp_path) -> None:
    pointer = tmp_path / "lfs" / "train.parquet"
    pointer.parent.mkdir()
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    assert f"{pointer} is a Git-LFS pointer" in refused(pointer.parent) and "git lfs pull" in refused(pointer)
    good = write_parquet(tmp_path / "set" / "a.parquet", with_features(rows(0, 4)))
    for name in ("0.parquet", "b.parquet"):
        damaged = tmp_path / "set" / name
        damaged.write_bytes(good.read_bytes()[:-9])
        said = refused(tmp_path / "set")
        assert f"{damaged}: not a readable Parquet file" in said and "download it again" in said
        damaged.unlink()
    data = bytearray(good.read_bytes())
    data[4:64] = bytes(60)  # the first page's header
    source = opened(tmp_path / "set")
    good.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.parquet: row group 0 is damaged"):
        source.read(0)
    saved = save_to_disk(tmp_path / "saved", with_features(rows(0, 4)), files=1)
    arrow = saved / "data-00000-of-00001.arrow"
    arrow.write_bytes(arrow.read_bytes()[:-500])
    assert "not a readable Arrow file" in refused(saved)
    twice = pa.table([*rows(0, 2).columns, [1, 0]], names=["image", "label", "label"])
    assert "column 'label' occurs twice" in refused(write_parquet(tmp_path / "twice.parquet", twice))
    write_parquet(tmp_path / "order" / "train-0.parquet", with_features(rows(0, 4)))
    write_parquet(tmp_path / "order" / "test-0.parquet", with_features(rows(0, 4), names=NAMES[::-1]))
    assert "differ from those of" in refused(tmp_path / "order")
    range_ = write_parquet(tmp_path / "range.parquet", with_features(rows(0, 4), names=["only"]))
    assert "line 2: label 1 is not one of the 1 classes" in refused(range_)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_changed_photograph_is_another_source(tmp_path, form) -> None:
    def write(table: pa.Table) -> Path:
        if form == "parquet":
            return write_parquet(tmp_path / "a.parquet", with_features(table))
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        return save_to_disk(tmp_path / "a", with_features(table))

    path = write(rows(0, 4))
    first = opened(path)
    assert opened(path).local_state == first.local_state
    again = opened(write(rows(0, 4)))
    assert again.fingerprint == first.fingerprint and again.local_state != first.local_state
    images = [{"bytes": jpeg(number) + bytes(9), "path": f"{number}.jpg"} for number in range(4)]
    changed = rows(0, 4).set_column(0, "image", pa.array(images, rows(0, 1).schema.field("image").type))
    assert opened(write(changed)).fingerprint != first.fingerprint


def test_without_pyarrow_the_command_is_named(tmp_path, monkeypatch) -> None:
    folder = save_to_disk(tmp_path / "saved", with_features(rows(0, 4)))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "needs pyarrow: " in (said := refused(folder)) and install("parquet") in said
