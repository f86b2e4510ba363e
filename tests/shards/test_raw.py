"""`convert --raw`: Pillow's pixels in the same tars and index; deterministic, resumable, readable by others."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from typer.testing import CliRunner

from fasttrain.errors import UserError
from fasttrain.shards.beton import write_betons
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet
from fasttrain.shards.tar import npy_header

MAX_SIZE = 56


def made(source: Path, out: Path, **options) -> ShardSet:
    convert(
        source, out, **{"raw": True, "max_size": MAX_SIZE, "workers": 2, "shard_size": 4, "progress": False, **options}
    )
    return ShardSet.open(out)


def pixels(shards: ShardSet, sample: int) -> np.ndarray:
    return np.frombuffer(shards.bytes(sample), np.uint8).reshape(*shards.sizes()[sample], 3)


@pytest.fixture
def shards(mixed, tmp_path) -> ShardSet:
    Image.open(mixed / "dog" / "00.jpg").resize((50, 40)).save(mixed / "dog" / "small.jpg", quality=80)
    Image.open(mixed / "dog" / "01.jpg").resize((500, 380)).save(mixed / "dog" / "large.jpg")
    Image.new("RGBA", (40, 50), (0, 0, 0, 0)).save(mixed / "dog" / "clear.png")
    return made(mixed, tmp_path / "out")


def test_pixels_are_pillows_upright_and_shrunk(mixed, shards) -> None:
    keys = [key.decode() for key in shards.index["key"]]
    paths = {str(path.relative_to(mixed).with_suffix("")): path for path in mixed.rglob("*.jpg")}
    compared = 0
    for key in keys:
        if key not in paths:
            continue
        image = ImageOps.exif_transpose(Image.open(paths[key])).convert("RGB")
        image.thumbnail((MAX_SIZE, MAX_SIZE), Image.Resampling.LANCZOS, reducing_gap=3.0)
        assert np.array_equal(pixels(shards, keys.index(key)), np.asarray(image)), key
        compared += 1
    assert compared == 26
    assert shards.raw
    assert shards.sizes()[keys.index("cat/01")].tolist() == [56, 42]  # EXIF had it lie on its side
    assert shards.sizes()[keys.index("dog/small")].tolist() == [40, 50]
    assert (pixels(shards, keys.index("dog/clear")) == 255).all()
    grey = pixels(shards, keys.index("cat/02"))
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 0] == grey[..., 2]).all()


def test_everything_is_counted_and_the_broken_are_listed(shards) -> None:
    assert shards.manifest.counts == {
        "photos": 31,
        "stored": 29,
        "decoded: CMYK JPEG": 1,
        "decoded: jpeg": 24,
        "decoded: png": 3,
        "decoded: webp": 1,
        "resized": 27,
        "rotated": 1,
        "broken": 2,
        "ignored": 1,
    }
    listed = (shards.folder / "rejected.tsv").read_text()
    assert "cat/broken.jpg\ttruncated" in listed and "cat/empty.jpg\tempty file\n" in listed
    settings = shards.manifest.settings
    assert settings["raw"] is True and settings["max_size"] == MAX_SIZE and settings["cut"] == "none"


def test_every_photograph_is_a_npy_file_in_the_tar(shards) -> None:
    seen = 0
    for number, shard in enumerate(shards.manifest.shards):
        with tarfile.open(shards.folder / shard.name) as tar:
            members = tar.getmembers()
            content = {member.name: tar.extractfile(member).read() for member in members}
        rows = np.flatnonzero(shards.index["shard"] == number).tolist()
        keys = [shards.index["key"][row].decode() for row in rows]
        assert [member.name for member in members] == [f"{key}.{kind}" for key in keys for kind in ("npy", "cls")]
        for row, key in zip(rows, keys, strict=True):
            read = np.load(io.BytesIO(content[f"{key}.npy"]), allow_pickle=False)
            assert read.dtype == np.uint8 and np.array_equal(read, pixels(shards, row))
            assert int(content[f"{key}.cls"]) == shards.labels()[row]
            seen += 1
    assert seen == len(shards) == 29
    assert shards.verify() == []


@pytest.mark.parametrize("shape", [(1, 1), (171, 256), (65_500, 2_731)])
def test_header_is_numpys(shape) -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (*shape, 3)})
    assert npy_header(*shape) == file.getvalue()


def test_dali_reads_them_by_their_index(shards) -> None:
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def

    tars = [str(shards.folder / shard.name) for shard in shards.manifest.shards]

    @pipeline_def(batch_size=len(shards), num_threads=1, device_id=None)
    def pipeline():
        arrays, labels = fn.readers.webdataset(
            paths=tars,
            index_paths=[tar.replace(".tar", ".idx") for tar in tars],
            ext=["npy", "cls"],
            missing_component_behavior="error",
        )
        return fn.decoders.numpy(arrays), labels

    pipe = pipeline()
    pipe.build()
    arrays, labels = pipe.run()
    for sample in range(len(shards)):
        assert np.array_equal(np.asarray(arrays[sample]), pixels(shards, sample))
        assert int(np.asarray(labels[sample]).tobytes()) == shards.labels()[sample]


def test_the_same_bytes_each_time_and_after_an_interruption(mixed, tmp_path, folder_of, monkeypatch) -> None:
    made(mixed, tmp_path / "whole", workers=1)
    made(mixed, tmp_path / "again", quality=70, optimize=False)  # which shape no pixel
    assert folder_of(tmp_path / "again") == folder_of(tmp_path / "whole")

    from fasttrain.shards import parts

    decode, read = parts.decode, []

    def interrupts(data, **options):
        read.append(1)
        if len(read) == 14:
            os.kill(os.getpid(), signal.SIGINT)
        return decode(data, **options)

    monkeypatch.setattr(parts, "decode", interrupts)
    with pytest.raises(KeyboardInterrupt):
        made(mixed, tmp_path / "out", workers=1)
    assert list((tmp_path / "out").glob("train-*.tar")) and not (tmp_path / "out" / "manifest.json").exists()
    read = [0] * 100
    made(mixed, tmp_path / "out")
    assert len(read) < 100 + 28, "it went on from what was there"
    assert folder_of(tmp_path / "out") == folder_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_size": None}, r"--raw without --max-size .* add --max-size"),
        ({"cut": "mcu"}, "--cut mcu has no effect: leave out one"),
        ({"cut": "row"}, "--cut row has no effect: leave out one"),
        ({"format": "tar,beton"}, "leave out --format, or --raw"),
    ],
)
def test_what_does_not_go_with_raw_is_refused(mixed, tmp_path, options, said) -> None:
    with pytest.raises(UserError, match=said) as caught:
        made(mixed, tmp_path / "out", **options)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_jpegs_and_pixels_are_not_taken_for_each_other(mixed, tmp_path, shards) -> None:
    with pytest.raises(UserError, match=r"raw = True, not False.*--overwrite, or another --out"):
        made(mixed, shards.folder, raw=False)
    with pytest.raises(UserError, match="convert without --raw"):
        write_betons(shards)
    jpegs = made(mixed, shards.folder, raw=False, overwrite=True)
    assert not jpegs.raw and bytes(jpegs.bytes(0)[:3]) == b"\xff\xd8\xff"


def test_manifests_from_before_raw_still_count(mixed, tmp_path) -> None:
    shards = made(mixed, tmp_path / "out", raw=False)
    path = shards.folder / "manifest.json"
    plain = json.loads(path.read_bytes())
    del plain["settings"]["raw"]
    path.write_text(json.dumps(plain))
    assert not ShardSet.open(shards.folder).raw
    made(mixed, tmp_path / "out", raw=False)
    assert json.loads(path.read_bytes()) == plain, "they were left alone"
    with pytest.raises(UserError, match="raw = False, not True"):
        made(mixed, tmp_path / "out")


def test_a_shard_cut_short_or_changed_is_found(shards) -> None:
    path = shards.folder / shards.manifest.shards[0].name
    content = bytearray(path.read_bytes())
    content[int(shards.index["offset"][0]) + 5] ^= 1
    path.write_bytes(content)
    assert [str(path) in problem for problem in ShardSet.open(shards.folder).verify()] == [True]
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"{path.name}.*bytes, but the manifest says"):
        ShardSet.open(shards.folder)


def test_command_line(mixed, tmp_path) -> None:
    from fasttrain.cli import app

    def run(*arguments):
        line = ["convert", "--source", str(mixed), "--out", str(tmp_path / "out"), *arguments]
        return CliRunner().invoke(app, line, env={"COLUMNS": "300"})

    assert isinstance(run("--raw").exception, UserError)
    result = run("--raw", "--max-size", "48", "--workers", "1")
    assert result.exit_code == 0, result.exception
    assert "decoded: jpeg 22" in result.output and "resized 26" in result.output
    assert "C++ module" not in result.output
    assert ShardSet.open(tmp_path / "out").raw
