"""Whatever is put into shards comes out again: keys of odd names, class names, sizes; tar, index and manifest."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fasttrain.errors import UserError
from fasttrain.photos.source import SourceSummary
from fasttrain.shards.assemble import assemble
from fasttrain.shards.destination import Folder
from fasttrain.shards.format import MANIFEST, SPLITS, Manifest, parse_manifest, read_manifest
from fasttrain.shards.keys import MAX_KEY, make_keys
from fasttrain.shards.layout import ShardJob, shard_name
from fasttrain.shards.parts import Part
from fasttrain.shards.reader import ShardSet
from fasttrain.shards.tar import TarWriter, npy_header

# File names may have any byte but "/" and NUL. Python gives undecodable bytes as lone surrogates.
names = st.one_of(
    st.binary(min_size=1, max_size=60).map(
        lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_").decode("utf-8", "surrogateescape")
    ),
    st.text("aä.~% 1", min_size=1, max_size=6),
).filter(lambda name: name not in (".", ".."))
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
class_names = st.text(st.characters(blacklist_characters="/"), min_size=1, max_size=30).filter(str.isprintable)
photographs = st.tuples(
    paths,
    st.binary(min_size=1, max_size=1500),
    st.integers(1, 13_000),
    st.integers(1, 13_000),
    st.integers(0, 3),
    st.integers(0, 2),
)


@given(st.lists(paths, unique=True, max_size=40))
@pytest.mark.slow
def test_keys_are_different_short_and_the_same_each_time(given_paths: list[str]) -> None:
    keys = make_keys(given_paths)
    assert len(set(keys)) == len(given_paths) and keys == make_keys(given_paths)
    for key in keys:
        assert key.isascii() and key.isprintable() and len(key) <= MAX_KEY and not set(key) & set(". \\")
        assert key == key.rstrip("/") != ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("written")


@given(
    st.lists(photographs, min_size=1, max_size=25, unique_by=lambda each: each[0]),
    st.lists(class_names, min_size=4, max_size=4, unique=True),
    st.integers(1, 10),
)
@pytest.mark.slow
def test_shards_give_back_what_was_put_in(
    folder: Path, samples: list[Any], classes: list[str], shard_size: int
) -> None:
    keys = make_keys([path for path, *_ in samples])
    # `convert` refuses a data set with a class that has no training photograph.
    samples += [(None, b"x", 1, 1, label, 0) for label in range(4)]
    keys += [f"~more/{label}" for label in range(4)]
    jobs = []
    for split in range(len(SPLITS)):
        rows = np.array([row for row, sample in enumerate(samples) if sample[5] == split], dtype=np.int64)
        for number, start in enumerate(range(0, len(rows), shard_size)):
            jobs.append(ShardJob(shard_name(split, number), split, rows[start : start + shard_size]))
    parts, tars = [], {}
    for job in jobs:
        file, part = io.BytesIO(), Part()
        tar = TarWriter(file)
        for row in job.rows.tolist():
            _, content, width, height, label, _ = samples[row]
            part.offsets.append(tar.add(keys[row], content, label))
            part.keys.append(keys[row])
            part.lengths.append(len(content))
            part.widths.append(width)
            part.heights.append(height)
            part.labels.append(label)
            part.crcs.append(zlib.crc32(content))
        tar.close()
        part.bytes, part.sha256, tars[job.name] = tar.size, tar.sha256, file.getvalue()
        (folder / f"{job.name}.tar").write_bytes(file.getvalue())
        (folder / f"{job.name}.idx").write_bytes(tar.dali_index())
        parts.append((job, part))
    source = SourceSummary("folder", "odd", tuple(classes), len(samples), (), "sha256:0")
    written = assemble(Folder(folder), source, parts, {"raw": False})

    shards = ShardSet.open(folder)
    assert shards.manifest.to_bytes() == written.to_bytes() and shards.classes == classes
    assert len(shards) == len(samples) and shards.verify() == []
    order = [row for job in jobs for row in job.rows.tolist()]
    for sample, row in enumerate(order):
        _, content, width, height, label, split = samples[row]
        assert shards.index["key"][sample].decode() == keys[row]
        assert bytes(shards.bytes(sample)) == content
        assert shards.sizes()[sample].tolist() == [height, width] and shards.labels()[sample] == label
        assert sample in shards.ids(SPLITS[split])
    by_key = {}
    for data in tars.values():
        with tarfile.open(fileobj=io.BytesIO(data)) as opened:
            by_key |= {member.name: opened.extractfile(member).read() for member in opened}
    assert by_key == {
        name: content
        for row in order
        for name, content in ((f"{keys[row]}.jpg", samples[row][1]), (f"{keys[row]}.cls", b"%d" % samples[row][4]))
    }


@given(st.lists(class_names, min_size=1, max_size=5, unique=True), st.dictionaries(class_names, st.integers(0, 2**40)))
def test_a_manifest_is_read_back_the_same(folder: Path, classes: list[str], counts: dict[str, int]) -> None:
    manifest = Manifest.model_validate(
        {
            "schema": 1,
            "classes": classes,
            "splits": {"train": 4, "val": 0, "test": 0},
            "source": {"kind": "folder", "name": classes[0], "fingerprint": "sha256:1"},
            "shards": [
                {"name": "train-00000.tar", "split": "train", "samples": 4, "bytes": 10_240, "sha256": "a" * 64}
            ],
            "index": {"sha256": "b" * 64, "samples": 4},
            "settings": {"raw": True, "max_size": None, "quality": 90},
            "counts": counts,
        }
    )
    read = parse_manifest(manifest.to_bytes(), "m")
    assert (read.classes, read.counts, read.shards, read.settings) == (
        classes,
        counts,
        manifest.shards,
        manifest.settings,
    )
    (folder / MANIFEST).write_bytes(manifest.to_bytes())
    assert read_manifest(folder) == read and read.to_bytes() == manifest.to_bytes()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_a_manifest_with_one_thing_changed_is_read_or_refused_in_one_line(
    shard_folder: Path, data: st.DataObject
) -> None:
    """No change of a manifest by hand ends in anything but a manifest or one line that says what is wrong."""
    plain = json.loads((shard_folder / MANIFEST).read_bytes())
    at: Any = plain
    while True:
        key = data.draw(st.sampled_from(sorted(at)) if isinstance(at, dict) else st.integers(0, len(at) - 1))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(json_values)
    try:
        text = json.dumps(plain).encode()
    except ValueError:
        assume(False)
    try:
        parse_manifest(text, "manifest.json")
    except UserError as error:
        assert "\n" not in str(error) and str(error).startswith("manifest.json: ")


@given(st.binary(max_size=200))
def test_bytes_that_are_no_manifest_are_refused_in_one_line(text: bytes) -> None:
    with pytest.raises(UserError, match=r"^manifest\.json: damaged"):
        parse_manifest(text, "manifest.json")


@given(st.integers(1, 999_999), st.integers(1, 999_999))
def test_a_header_is_numpys(height: int, width: int) -> None:
    header = npy_header(height, width)
    version = np.lib.format.read_magic(file := io.BytesIO(header))
    assert len(header) == 128 and version == (1, 0)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    assert (shape, fortran, dtype) == ((height, width, 3), False, np.uint8) and file.tell() == 128
