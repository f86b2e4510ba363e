"""TFRecords as sources: the features of TF-Slim and TensorFlow Datasets, splits by names, and damaged files."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from fasttrain.errors import UserError
from fasttrain.photos.crc32c import crc32c
from fasttrain.photos.source import Source, SourceOptions
from fasttrain.photos.sources import open_source
from tests.support.containers import example, write_tfrecord

JPEG = b"\xff\xd8\xff"


def opened(path: Path | str, **options: str | Path) -> Source:
    return open_source(path, options=SourceOptions(**options))


def refused(path: Path | str, **options: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        opened(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def slim(number: int, label: int, text: str = "") -> dict[str, object]:
    made: dict[str, object] = {
        "image/encoded": JPEG + bytes([number]) * 5000,
        "image/class/label": label,
        "image/filename": f"n01/{number}.JPEG",
        "image/format": "JPEG",
        "image/height": 100,
        "image/object/bbox/xmin": [0.5, 0.25],
        "image/object/bbox/label": [1, 2, 300],
    }
    return made | ({"image/class/text": text} if text else {})


@pytest.mark.parametrize("length", [0, 1, 4, 31, 32, 1023, 1024, 1025, 300_000])
def test_crc32c(length) -> None:
    assert crc32c(b"123456789") == 0xE3069283 and crc32c(bytes(32)) == 0x8A9136AA and crc32c(b"\xff" * 32) == 0x62A8AB43
    data = os.urandom(length)
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    assert crc32c(data) == state ^ 0xFFFFFFFF


def test_the_features_of_tf_slim(tmp_path) -> None:
    path = write_tfrecord(
        tmp_path / "train-00000-of-00001", (slim(n, 1 + n % 2, ("cat", "dog")[n % 2]) for n in range(4))
    )
    source = opened(path)
    assert source.kind == "tfrecord" and source.classes == ("cat", "dog") and source.labels.tolist() == [0, 1, 0, 1]
    assert source.paths[3] == "0000003-3.JPEG"
    assert [source.read(row) for row in range(4)] == [JPEG + bytes([n]) * 5000 for n in range(4)]
    assert "label = image/class/text; not used: image/class/label" in source.notes[0]
    assert opened(path, label_column="image/class/label").classes == ("1", "2")
    # One text for two classes: their numbers count.
    write_tfrecord(path, (slim(n, n, "crane") for n in range(4)))
    assert opened(path).classes == ("0", "1", "2", "3")


def test_the_features_of_tensorflow_datasets(tmp_path) -> None:
    for split, count in (("train", 4), ("validation", 2)):
        rows = ({"image": JPEG + bytes([n]), "label": n % 2, "file_name": f"{n}.jpg"} for n in range(count))
        write_tfrecord(tmp_path / "1.0.0" / f"set-{split}.tfrecord-00000-of-00001", rows)
    (tmp_path / "1.0.0" / "features.json").write_text("{}")
    assert opened(tmp_path / "1.0.0").classes == ("0", "1")
    (tmp_path / "1.0.0" / "label.labels.txt").write_text("cat\ndog\n")
    source = opened(tmp_path / "1.0.0")
    assert source.classes == ("cat", "dog") and source.splits.tolist() == [0] * 4 + [1] * 2
    assert source.paths[0] == "set-train.tfrecord-00000-of-00001/0000000-0.jpg"
    assert {path for path, _ in source.ignored} == {"features.json"}  # and no file that was used
    assert f"class names: {tmp_path / '1.0.0' / 'label.labels.txt'}" in source.notes
    (tmp_path / "names.txt").write_text("owl\nhawk\n")
    source = opened(tmp_path / "1.0.0", class_names=tmp_path / "names.txt")
    assert source.classes == ("owl", "hawk")
    assert {path for path, _ in source.ignored} == {"features.json", "label.labels.txt"}
    (tmp_path / "names.txt").rename(tmp_path / "1.0.0" / "names.txt")
    source = opened(tmp_path / "1.0.0", class_names=tmp_path / "1.0.0" / "names.txt")
    assert {path for path, _ in source.ignored} == {"features.json", "label.labels.txt"}


def test_names_of_files_and_patterns(tmp_path) -> None:
    for name in ("flowers_train_00000-of-00002.tfrecord", "flowers_train_00001-of-00002.tfrecord", "validation.tfrec"):
        write_tfrecord(tmp_path / name, ({"image": JPEG, "label": n} for n in range(2)))
    (tmp_path / "flowers_train.tfrecord.idx").write_text("0 100\n")
    source = opened(tmp_path)
    assert source.splits.tolist() == [0] * 4 + [1] * 2
    assert source.ignored == (("flowers_train.tfrecord.idx", "not a file that holds photographs"),)
    assert len(opened(f"{tmp_path}/flowers_train_{{00000..00001}}-of-00002.tfrecord").paths) == 4


def test_features_of_other_names(tmp_path) -> None:
    rows = [{"pixels": JPEG, "thumb": b"text", "species": f"s{n}", "weight": 1.5} for n in range(2)]
    assert opened(write_tfrecord(tmp_path / "a.tfrecord", rows)).classes == ("s0", "s1")
    rows = [{"pixels": JPEG, "kind": f"s{n}"} for n in range(2)]
    path = write_tfrecord(tmp_path / "b.tfrecord", rows)
    assert "photographs without labels" in refused(path)
    assert opened(path, label_column="kind").classes == ("s0", "s1")


def test_what_is_left_out_is_listed(tmp_path) -> None:
    good = [{"image": JPEG, "label": n} for n in range(2)]
    bad = [
        {"image": bytes(100), "label": 1},
        {"image": JPEG, "label": [1, 2]},
        {"image": JPEG, "text": "x"},
        {"text": "x", "label": 1},
        b"\xff" * 40,
        b"",
    ]
    source = opened(write_tfrecord(tmp_path / "a.tfrecord", [*good, *bad]))
    assert source.labels.tolist() == [0, 1]
    assert dict(source.ignored) == {
        "0000002": "image: not a photograph: it holds only zero bytes; copy it again",
        "0000003": "label: no label, or several",
        "0000004": "label: no label, or several",
        "0000005": "no photograph in its features (label, text)",
        "0000006": "not a readable tf.train.Example",
        "0000007": "no photograph in its features ()",
    }


def test_integers_that_are_not_packed_and_negative_ones(tmp_path) -> None:
    def unpacked(label: bytes) -> bytes:
        feature = b"\x1a" + bytes([1 + len(label)]) + b"\x08" + label
        entry = b"\x0a\x05label\x12" + bytes([len(feature)]) + feature
        image = example({"image": JPEG})
        inside = image[2:] + b"\x0a" + bytes([len(entry)]) + entry
        return b"\x0a" + bytes([len(inside)]) + inside

    path = write_tfrecord(
        tmp_path / "a.tfrecord", [unpacked(b"\x07"), unpacked(b"\xac\x02"), unpacked(b"\xff" * 9 + b"\1")]
    )
    assert set(opened(path).classes) == {"7", "300", "-1"}


def test_damaged_files_are_refused_and_damaged_records_are_broken_photographs(tmp_path) -> None:
    path = write_tfrecord(tmp_path / "a.tfrecord", (slim(n, n % 2) for n in range(3)))
    whole = path.read_bytes()
    third = len(whole) // 3
    path.write_bytes(whole[: third + 1000] + bytes([whole[third + 1000] ^ 1]) + whole[third + 1001 :])
    source = opened(path)
    assert source.read(0) == JPEG + b"\0" * 5000
    with pytest.raises(OSError, match="a record's checksum differs"):
        source.read(1)
    one, two, none = "1 record", "2 records", "0 records"
    for end, count in ((-1, two), (-third - 2, one), (third + 7, one), (1000, none), (7, none)):
        path.write_bytes(whole[:end])
        assert f"a.tfrecord: truncated after {count}; copy it again" in refused(path)
    path.write_bytes(whole[:third] + b"\7" + whole[third + 1 :])
    assert "damaged after 1 record (a length's checksum differs)" in refused(path)
    path.write_bytes(b"text that is no TFRecord")
    assert "not a TFRecord" in refused(path)
    path.write_bytes(b"")
    assert "a.tfrecord holds no photographs with a label (1 x an empty file, without records)" in refused(path)
    path.write_bytes(gzip.compress(whole))
    assert "compressed by gzip; decompress it: gunzip -k" in refused(path)


def test_another_photograph_of_the_same_size_is_noticed(tmp_path) -> None:
    rows = [{"image": JPEG + b"a", "label": n} for n in range(2)]
    before = opened(write_tfrecord(tmp_path / "a.tfrecord", rows))
    again = opened(write_tfrecord(tmp_path / "a.tfrecord", rows))
    assert before.fingerprint == again.fingerprint and before.local_state != again.local_state
    rows[1]["image"] = JPEG + b"b"
    assert opened(write_tfrecord(tmp_path / "a.tfrecord", rows)).fingerprint != before.fingerprint
