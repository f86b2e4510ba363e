from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from fasttrain.shards.keys import MAX_KEY, make_keys
from fasttrain.shards.tar import TarWriter

WEBDATASET_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")  # webdataset/tariterators.py, base_plus_ext


def written(samples: list[tuple[str, bytes, int]]) -> tuple[bytes, TarWriter, list[int]]:
    file = io.BytesIO()
    tar = TarWriter(file)
    offsets = [tar.add(*sample) for sample in samples]
    tar.close()
    return file.getvalue(), tar, offsets


SAMPLES = [("cat/a", b"x" * 700, 3), ("cat/b%20c~2", b"y" * 512, 12), ("dog/" + "z" * 80, b"", 0)]


def test_tarfile_reads_it_and_offsets_are_right() -> None:
    data, tar, offsets = written(SAMPLES)
    assert len(data) == tar.size and len(data) % 10_240 == 0
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        members = opened.getmembers()
        assert opened.extractfile(members[3].name).read() == b"12"
    assert [member.name for member in members] == [f"{key}.{kind}" for key, *_ in SAMPLES for kind in ("jpg", "cls")]
    assert {(member.mode, member.mtime, member.uid, member.gid) for member in members} == {(0o644, 0, 0, 0)}
    for (_, jpeg, _), offset in zip(SAMPLES, offsets, strict=True):
        assert data[offset : offset + len(jpeg)] == jpeg
    assert b"ustar\x0000" in data


def test_names_are_webdatasets() -> None:
    data, *_ = written(SAMPLES)
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        names = opened.getnames()
    for name in names:
        key, extension = WEBDATASET_NAME.match(name).groups()
        assert extension in ("jpg", "cls") and key in [sample[0] for sample in SAMPLES]


@pytest.mark.skipif(shutil.which("tar") is None, reason="wds2idx asks GNU tar")
def test_index_is_what_dalis_own_tool_makes(tmp_path) -> None:
    tool = pytest.importorskip("wds2idx", reason="comes with nvidia-dali")
    samples = [sample for sample in SAMPLES if sample[1]]
    data, tar, _ = written(samples)
    (tmp_path / "a.tar").write_bytes(data)
    subprocess.run([sys.executable, tool.__file__, str(tmp_path / "a.tar"), str(tmp_path / "a.idx")], check=True)
    assert tar.dali_index() == (tmp_path / "a.idx").read_bytes()


def test_dali_reads_shards_by_their_index(shard_folder) -> None:
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def

    from fasttrain.shards.reader import ShardSet

    shards = ShardSet.open(shard_folder)
    tars = [shard_folder / shard.name for shard in shards.manifest.shards]

    @pipeline_def(batch_size=len(shards), num_threads=1, device_id=None)
    def pipeline():
        jpegs, labels = fn.readers.webdataset(
            paths=[str(path) for path in tars],
            index_paths=[str(path.with_suffix(".idx")) for path in tars],
            ext=["jpg", "cls"],
            missing_component_behavior="error",
        )
        return jpegs, labels

    pipe = pipeline()
    pipe.build()
    jpegs, labels = pipe.run()
    assert len(jpegs) == len(shards) == 96
    for sample in range(len(shards)):
        assert np.asarray(jpegs[sample]).tobytes() == shards.bytes(sample)
        assert int(np.asarray(labels[sample]).tobytes()) == shards.labels()[sample]


@pytest.mark.parametrize("key", ["a.b", "ä", "a b", "x" * 97])
def test_keys_that_would_not_be_read_back_are_refused(key) -> None:
    with pytest.raises(ValueError):
        written([(key, b"", 0)])


def test_keys() -> None:
    paths = ["cat/IMG_1.v2.jpg", "cat/a.jpg", "cat/a.png", "cat/a~2.jpg", "cat/a.gif", "ä b/ü.jpg", "c.d/e.jpg"]
    assert make_keys(paths) == [
        "cat/IMG_1%2Ev2",
        "cat/a",
        "cat/a~2",
        "cat/a~2~2",
        "cat/a~3",
        "%C3%A4%20b/%C3%BC",
        "c%2Ed/e",
    ]


def test_long_and_undecodable_names_stay_apart_and_fit() -> None:
    long = "class/" + "ü" * 60
    keys = make_keys([f"{long}1.jpg", f"{long}2.jpg", "a/\udcff.jpg", f"{long}1.png"])
    assert len(set(keys)) == 4
    assert keys[2] == "a/%FF"
    for key in keys:
        assert len(key) <= MAX_KEY and key.isascii()
        written([(key, b"", 0)])
