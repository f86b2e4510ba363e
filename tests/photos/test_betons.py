"""FFCV's `.beton` files as sources: those that FFCV writes, those that fasttrain writes, and damaged ones."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fasttrain.errors import UserError
from fasttrain.photos.beton_layout import ALLOCATION, FIELD, HEADER, IMAGE, IN_A_ROW, INT_FIELD
from fasttrain.photos.source import SourceOptions
from fasttrain.photos.sources import open_source
from fasttrain.shards.reader import ShardSet


def refused(path: Path, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        open_source(path, options=SourceOptions(**options))
    assert "\n" not in str(caught.value) and path.name in str(caught.value)
    return str(caught.value)


def written(path: Path, fields: dict[str, int], rows: list[dict[str, object]], data: bytes = b"") -> Path:
    """A beton of `rows`, whose images all are `data`."""
    layout = np.dtype([(name, IN_A_ROW[kind]) for name, kind in fields.items()], align=True)
    start = HEADER.itemsize + len(fields) * FIELD.itemsize + len(rows) * layout.itemsize
    header = np.zeros(1, HEADER)
    header[0] = (2, len(fields), 1 << 21, len(rows), start + len(data))
    described, samples = np.zeros(len(fields), FIELD), np.zeros(len(rows), layout)
    for field, (name, kind) in zip(described, fields.items(), strict=True):
        field["type_id"] = kind
        field["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
    for sample, row in zip(samples, rows, strict=True):
        for name, value in row.items():
            sample[name] = np.array((*value, start), IMAGE) if isinstance(value, tuple) else value
    allocations = np.zeros(len(rows), ALLOCATION)
    allocations["ptr"], allocations["size"] = start, len(data)
    path.write_bytes(b"".join(each.tobytes() for each in (header, described, samples)) + data + allocations.tobytes())
    return path


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["raw", "jpg"])
def test_what_ffcv_writes(tmp_path, mode) -> None:
    pytest.importorskip("ffcv", reason="ffcv isn't installed")
    from ffcv.fields import FloatField, IntField, JSONField, NDArrayField, RGBImageField
    from ffcv.reader import Reader
    from ffcv.writer import DatasetWriter

    drawn = np.random.default_rng(0)
    images = [drawn.integers(0, 256, (20 + number, 30, 3)).astype(np.uint8) for number in range(6)]
    numbers = np.arange(3, dtype=np.float32)
    data = [(1.5, image, {"a": 1}, numbers, 2 * (row % 2), row) for row, image in enumerate(images)]
    fields = {
        "weight": FloatField(),
        "picture": RGBImageField(write_mode=mode),
        "about": JSONField(),
        "vector": NDArrayField(np.dtype("float32"), (3,)),
        "label": IntField(),
        "index": IntField(),
    }
    path = tmp_path / "a.beton"
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(data)
    source = open_source(path)
    assert source.kind == "beton" and source.classes == ("0", "2") and source.labels.tolist() == [0, 1] * 3
    assert "a.beton: label = label; not used: index" in source.notes
    assert open_source(path, options=SourceOptions(label_column="index")).labels.tolist() == list(range(6))
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n")
    assert open_source(path, options=SourceOptions(class_names=tmp_path / "names.txt")).classes == ("cat", "owl")
    if mode == "raw":
        assert all((pixels(source.read(row)) == image).all() for row, image in enumerate(images))
        return
    reader = Reader(str(path))
    content, sizes = path.read_bytes(), dict(zip(reader.alloc_table["ptr"], reader.alloc_table["size"], strict=True))
    for row in range(6):
        start = int(reader.metadata[row][1]["data_ptr"])
        assert source.read(row) == content[start : start + int(sizes[start])]


def test_what_fasttrain_writes(shard_folder, tmp_path) -> None:
    shards = ShardSet.open(shard_folder)
    (tmp_path / "betons").mkdir()
    for split in ("train", "val"):
        (tmp_path / "betons" / f"{split}.beton").symlink_to(shard_folder / f"{split}.beton")
    source = open_source(tmp_path / "betons")
    ids = np.concatenate([shards.ids("train"), shards.ids("val")])
    assert source.labels.tolist() == shards.labels()[ids].tolist()
    assert source.splits.tolist() == [0] * len(shards.ids("train")) + [1] * len(shards.ids("val"))
    assert all(source.read(row) == bytes(shards.bytes(int(sample))) for row, sample in enumerate(ids))
    assert "holds shards already" in refused(shard_folder)


FIELDS = {"image": 2, "label": INT_FIELD}


def row(label: int, mode: int = 0, width: int = 2, height: int = 1) -> dict[str, object]:
    return {"image": (mode, width, height), "label": label}


def test_samples_that_cannot_be_read_are_listed(tmp_path) -> None:
    rows = [row(0), row(1), row(1, mode=1, width=1), row(1, mode=7), row(1, mode=1)]
    path = written(tmp_path / "a.beton", FIELDS, rows, b"\xff\xd8\xffabc")
    data = bytearray(path.read_bytes())
    data[HEADER.itemsize + 2 * FIELD.itemsize + 5] ^= 1  # the first pointer
    path.write_bytes(data)
    source = open_source(path, least_classes=1)
    assert source.paths == ("00000001.jpg", "00000004.ppm")
    assert source.read(1) == b"P6 2 1 255\n\xff\xd8\xffabc"
    assert dict(source.ignored) == {
        "00000000.jpg": "its pointer is invalid",
        "00000002.ppm": "6 bytes for 1 x 1 pixels",
        "00000003.ppm": "stored in an unknown mode (7)",
    }


def test_damaged_betons_are_refused(tmp_path) -> None:
    path = written(tmp_path / "a.beton", FIELDS, [row(0), row(1)], b"\xff\xd8\xffabc")
    whole = path.read_bytes()
    assert open_source(path).classes == ("0", "1")
    for end in (0, 10, 1000, 2200, len(whole) - 24, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert "a.beton: not a readable .beton (truncated, or never finished)" in refused(path)
    path.write_bytes(b"\3" + whole[1:])
    assert "its version is 3, but only 2 can be read" in refused(path)
    path.write_bytes(whole[:16] + bytes(8) + whole[24:])
    assert "truncated, or never finished" in refused(path)
    path.write_bytes(whole[: HEADER.itemsize] + b"\xff" + whole[HEADER.itemsize + 1 :])
    assert "its field 'image' has a custom type" in refused(path)
    assert "its fields are image" in refused(written(path, {"image": 2}, [{"image": (0, 2, 1)}], b"\xff\xd8\xff"))
    assert "it has no samples" in refused(written(path, FIELDS, []))


def test_which_integer_is_the_label(tmp_path) -> None:
    fields = {"image": 2, "target": INT_FIELD, "place": INT_FIELD}
    rows: list[dict[str, object]] = [{"image": (0, 2, 1), "target": n % 2, "place": n} for n in range(3)]
    assert open_source(written(tmp_path / "a.beton", fields, rows, b"\xff\xd8\xff")).labels.tolist() == [0, 1, 0]
    fields = {"image": 2, "a": INT_FIELD, "b": INT_FIELD}
    rows = [{"image": (0, 2, 1), "a": n % 2, "b": n} for n in range(3)]
    path = written(tmp_path / "a.beton", fields, rows, b"\xff\xd8\xff")
    assert "a or b may be the label; give --label-column" in refused(path)
    assert open_source(path, options=SourceOptions(label_column="b")).labels.tolist() == [0, 1, 2]
