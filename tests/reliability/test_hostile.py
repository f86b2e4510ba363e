"""Files made to do harm: bombs, shards of a stranger, archives that reach outside. Refused in a line, and in little
memory."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hostile import COMMAND, bombs, flips, found, measured

from fasttrain.errors import UserError
from fasttrain.photos.normalize import BrokenPhoto, decode, normalize
from fasttrain.photos.sample import draw_sample
from fasttrain.shards.beton import BetonBytes
from fasttrain.shards.checksum import crc32
from fasttrain.shards.convert import convert, convert_part
from fasttrain.shards.merge import merge
from fasttrain.shards.reader import ShardSet
from fasttrain.shards.settings import ShardSettings

ROOM_MB = 120  # beyond what the same command takes for sound photographs; every bomb is worth 200 MB to 10 GB


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """Class folders, three photographs in each."""
    folder = tmp_path_factory.mktemp("few") / "photographs"
    draw_sample(folder, per_class=3)
    return folder


@pytest.fixture(scope="module")
def small(few) -> Path:
    out = few.with_name("shards")
    convert(few, out, workers=1, progress=False, val_fraction=0.34, format="tar,beton")
    return out


@pytest.fixture
def copied(small, tmp_path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "shards"))


@pytest.fixture(scope="module")
def bombed(few, tmp_path_factory) -> Path:
    """Class folders with all bombs in one of them."""
    folder = Path(shutil.copytree(few, tmp_path_factory.mktemp("bombed") / "photographs"))
    for name, data in bombs().items():
        (sorted(folder.iterdir())[0] / name).write_bytes(data)
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        ShardSet.open(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


PASSED_OVER = ("ztxt.png", "itxt.png", "iccp.png")
"""Bombs beside the pixels, which are never inflated, or not beyond what a profile may have."""


@pytest.mark.parametrize("name", PASSED_OVER)
def test_a_bomb_beside_the_pixels_never_goes_off(name):
    for cut in ("mcu", "none"):
        assert normalize(bombs()[name], cut=cut).how[0] == "re-encoded: png"
    assert decode(bombs()[name], max_size=64).how[0] == "decoded: png"


@pytest.mark.parametrize("name", [name for name in bombs() if name not in PASSED_OVER])
def test_a_bomb_is_broken_for_every_way_in(name, monkeypatch):
    """Whatever Pillow's own limit was set to."""
    from PIL import Image

    data = bombs()[name]
    kinds = {"segments.jpg": "10,000 segments", "scans.jpg": "100 scans"}
    kinds["webp.webp"] = "decompression bomb|decoder"  # libwebp makes room for it, and may fail, before it is asked
    why = kinds.get(name, "decompression bomb")
    for limit in (Image.MAX_IMAGE_PIXELS, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for cut in ("mcu", "none"):
            with pytest.raises(BrokenPhoto, match=why):
                normalize(data, cut=cut)
        with pytest.raises(BrokenPhoto, match=why):
            decode(data, max_size=64)


def test_bombs_take_no_memory(few, bombed, model_folder, tmp_path, monkeypatch, fault):
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    ways: dict[str, Callable[[Path], tuple[object, ...]]] = {
        "convert": lambda folder: ("convert", "--source", folder, "--out", tmp_path / f"out-{folder.parent.name}"),
        "predict": lambda folder: ("predict", "--checkpoint", model_folder, folder, "--device", "cpu"),
    }
    if fault.full:
        ways |= {
            "convert --raw": lambda folder: (
                *("convert", "--source", folder, "--raw", "--max-size", 64),
                *("--out", tmp_path / f"raw-{folder.parent.name}"),
            ),
            "convert --cut none": lambda folder: (
                *("convert", "--source", folder, "--cut", "none"),
                *("--out", tmp_path / f"uncut-{folder.parent.name}"),
            ),
            "inspect": lambda folder: ("inspect", folder),
            "evaluate": lambda folder: ("evaluate", "--checkpoint", model_folder, "--data", folder, "--device", "cpu"),
        }
    seen = []
    for way, line in ways.items():
        usual = measured(COMMAND, *line(few))[2] if fault.full else 800
        code, said, peak = measured(COMMAND, *line(bombed))
        assert peak < usual + ROOM_MB, f"{way}: {peak} MB, with sound photographs {usual}"
        assert "internal error" not in said and "Traceback" not in said and code in (0, 2), said
        if way.startswith("convert"):
            rejected = (tmp_path / f"{line(bombed)[-1]}" / "rejected.tsv").read_text()
            assert all((name in rejected) != (name in PASSED_OVER) for name in bombs()), rejected
        seen.append(f"{way} {peak - usual:+} MB")
    how = (
        "JPEG, PNG, GIF, WebP, TIFF, BMP, PPM of up to 60,000 x 60,000 px; zTXt, iTXt, iCCP of 200 MB; 2,000 scans, "
        + ("1,000,000 segments")
    )
    fault.seen(
        "decompression bombs", how, len(bombs()) * len(ways), measured="peak against sound ones: " + ", ".join(seen)
    )


_READ = """
import sys
from fasttrain.errors import UserError
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.registry import loader_class
from fasttrain.shards.reader import ShardSet
shards = ShardSet.open(sys.argv[1])
settings = LoaderSettings(8, 32, Crop(), on_bad_sample="skip", report=print)
loader = loader_class(sys.argv[2])(shards, shards.ids("train"), settings)
print(sum(len(ids) for _, _, ids in loader), "read")
"""


@pytest.mark.parametrize("name", ["native", "torchvision", "dali", "ffcv"])
def test_a_bomb_in_a_shard_takes_no_memory(name, small, copied, signed, fault):
    """Its checksum right, and the index lying about its size; or a photograph that is a PNG."""
    from fasttrain.loaders.registry import loader_class

    if reason := loader_class(name).unavailable(ShardSet.open(small), "cpu"):
        pytest.skip(reason)
    if name not in ("torchvision", "dali") and not fault.full:
        pytest.skip("its own decoder's check, tests/native has it too: tools/reliability.sh runs it")
    shards, index = ShardSet.open(small), np.load(copied / "index.npy")
    big, png = shards.ids("train")[:2].tolist()
    for sample in (big, png):
        data = bytearray(shards.bytes(sample))
        if sample == big:
            at = data.index(b"\xff\xc0") + 5
            data[at : at + 4] = 2 * (60_000).to_bytes(2, "big")
        else:
            data[:] = bombs()["png.png"].ljust(len(data), b"\0")[: len(data)]
        for path in (copied / shards.manifest.shards[0].name, copied / "train.beton"):
            content = path.read_bytes()
            path.write_bytes(content.replace(bytes(shards.bytes(sample)), bytes(data)))
        index["crc32"][sample] = crc32(bytes(data))
    np.save(copied / "index.npy", index)
    usual = measured(_READ, small, name)[2] if fault.full else 800
    code, said, peak = measured(_READ, signed(copied), name)
    assert code == 0 and f"{len(shards.ids('train')) - 2} read" in said and said.count("bad sample left out") == 2, said
    assert peak < usual + ROOM_MB, f"{peak} MB, with sound shards {usual}"
    fault.seen(
        f"a bomb in a shard, --loader {name}",
        "a JPEG of 60,000 x 60,000 px and a PNG where the index says otherwise, checksums right",
        2,
        measured=f"peak against sound shards: {peak - usual:+} MB",
    )


def _hostile_manifests(plain: dict[str, Any]) -> dict[str, bytes]:
    first, *rest = plain["shards"]

    def shard(**change: object) -> bytes:
        return json.dumps({**plain, "shards": [{**first, **change}, *rest]}).encode()

    text = json.dumps(plain).encode()
    names = (
        "../x.tar",
        "/etc/passwd",
        "a/b.tar",
        "..",
        ".hidden.tar",
        "",
        "a\\b.tar",
        "a\0.tar",
        "a\n.tar",
        rest[0]["name"],
    )
    return {
        **{f"name {name!r}": shard(name=name) for name in names},
        **{f"samples {count}": shard(samples=count) for count in (-1, 0, 10**30, 1.5, "many", float("nan"))},
        **{f"bytes {count}": shard(bytes=count) for count in (-1, 0, 10**30, float("inf"))},
        "split": shard(split="../train"),
        **{
            f"schema {value}": json.dumps({**plain, "schema": value}).encode()
            for value in (0, -1, None, [], "x", float("inf"))
        },
        "schema nan": json.dumps({**plain, "schema": float("nan")}).encode(),
        "no classes": json.dumps({**plain, "classes": []}).encode(),
        "classes twice": json.dumps({**plain, "classes": [plain["classes"][0]] * len(plain["classes"])}).encode(),
        "escapes": json.dumps({**plain, "classes": ["\x1b[2J", *plain["classes"][1:]]}).encode(),
        "surrogate": json.dumps({**plain, "classes": ["\ud800", *plain["classes"][1:]]}).encode(),
        "fewer classes": json.dumps({**plain, "classes": plain["classes"][:-1]}).encode(),
        "negative split": json.dumps({**plain, "splits": {**plain["splits"], "val": -5}}).encode(),
        "nested": b'{"schema":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
        "nested later": text[:-1] + b', "counts": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        "long number": b'{"schema":' + b"9" * 100_000 + b"}",
        "not UTF-8": b"\xff\xfe" + text,
        "a list": b"[]",
        "null": b"null",
        "empty": b"",
    }


def test_hostile_manifests_are_refused(copied, fault):
    path = copied / "manifest.json"
    cases = _hostile_manifests(json.loads(path.read_bytes()))
    for name, text in cases.items():
        path.write_bytes(text)
        assert str(copied) in refused(copied), name
    path.unlink()
    os.mkfifo(path)  # opening it would wait for ever
    assert "not a regular file" in refused(copied)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert "too large for a manifest" in refused(copied)
    how = "absurd numbers, NaN, names outside of the folder, nesting of 1,000,000, a pipe, a terabyte"
    fault.seen("a manifest from a stranger", how, len(cases) + 2, measured="each refused in one line")


def test_hostile_indexes_are_refused(copied, signed, fault):
    path, sound = copied / "index.npy", np.load(copied / "index.npy")
    values: dict[str, list[Any]] = {
        "shard": [len(json.loads((copied / "manifest.json").read_bytes())["shards"]), 2**32 - 1],
        "offset": [2**40, 2**64 - 1, 2**64 - 4, int(sound["offset"][1])],
        "length": [0, 2**32 - 1],
        "width": [0, 2**32 - 1, 2**31],
        "height": [0, 2**32 - 1],
        "label": [-1, 6, 2**31 - 1, -(2**31)],
        "split": [1, 3, 255],
        "key": [b"", b"/etc/passwd", b"../../x", b"a b", b"a\x1b[2J", b"caf\xe9", b"a\0b"],
    }
    count = 0
    for column, wrong in values.items():
        for value in wrong:
            index = sound.copy()
            index[column][2] = value
            np.save(path, index)
            assert "index.npy" in refused(signed(copied)), (column, value)
            count += 1

    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (copied / "touched",)

    others: dict[str, Any] = {
        "pickled": np.array([Touch()] * len(sound), object),
        "two dimensions": sound.reshape(1, -1),
        "other columns": sound[["key", "shard"]],
        "other types": sound.astype(
            [(name, sound.dtype[name] if name != "label" else "<f8") for name in sound.dtype.names]
        ),
        "twice": np.concatenate([sound, sound]),
        "none": sound[:0],
    }
    for name, index in others.items():
        np.save(path, index, allow_pickle=True)
        assert "index.npy" in refused(signed(copied)), name
    assert not (copied / "touched").exists()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**15,)})
    raw = {
        "a zip": b"PK\x03\x04" + bytes(100),
        "a pickle": b"\x80\x04" + bytes(100),
        "a petabyte": header.getvalue(),
        "deep header": b"\x93NUMPY\x02\0" + (9000).to_bytes(4, "little") + b"(" * 9000,
        "giant header": b"\x93NUMPY\x02\0" + b"\xff\xff\xff\x7f" + b" " * 1000,
        "code": b"\x93NUMPY\x01\0" + (40).to_bytes(2, "little") + b"__import__('os').abort()".ljust(40),
    }
    for name, data in raw.items():
        path.write_bytes(data)
        assert "index.npy" in refused(signed(copied)), name
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in refused(copied)
    count += len(others) + len(raw) + 1
    how = "wild offsets, overlaps, labels beyond the classes, keys with .., pickles, odd headers, checksums made right"
    fault.seen("an index from a stranger", how, count, measured="each refused in one line")


_FUZZ = """
import contextlib, io, json, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from fasttrain.errors import UserError
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.native import NativeLoader
from fasttrain.loaders.plan import Crop
from fasttrain.shards.reader import ShardSet
import hashlib
folder, times, seed = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
random = np.random.default_rng(seed)
index, manifest = folder / "index.npy", folder / "manifest.json"
sound, plain = index.read_bytes(), json.loads(manifest.read_bytes())
shards = {each["name"]: (folder / each["name"]).read_bytes() for each in plain["shards"]}
passed = 0
for _ in range(times):
    data = bytearray(sound)
    for _ in range(random.integers(1, 6)):
        data[random.integers(128, len(data))] = random.integers(256)
    index.write_bytes(data)
    plain["index"]["sha256"] = hashlib.sha256(data).hexdigest()
    manifest.write_text(json.dumps(plain))
    for name, content in shards.items():
        content = bytearray(content)
        for _ in range(random.integers(0, 40)):
            content[random.integers(len(content))] = random.integers(256)
        (folder / name).write_bytes(content)
    try:
        there = ShardSet.open(folder)
        there.verify()
        # The decoders must hold alone, too: without the checksums everything reaches them.
        there.crc32s = lambda: None
        settings = LoaderSettings(8, 32, Crop(), workers=2, on_bad_sample="skip", report=lambda line: None)
        loader = NativeLoader(there, there.ids("train"), settings)
        for _ in loader:
            pass
        loader.close()
        passed += 1
    except UserError as error:
        assert "\\n" not in str(error)
print("passed", passed)
"""


def test_random_bytes_crash_nothing(copied, fault):
    times = fault.times(short=60, full=3000)
    code, said, _ = measured(_FUZZ, Path(__file__).parent, copied, times, 11)
    assert code == 0 and "passed" in said, said[-2000:]
    how = (
        "1 to 5 random bytes of the index and up to 40 of each shard, checksums made right, native decoder, in a child"
    )
    fault.seen("shards of random bytes", how, times, measured="no crash")


def test_tar_members_that_reach_outside_are_found(copied, signed, fault):
    """The samples' own headers put in others' place; the sums are right, the bytes of the photographs stay."""
    path = copied / "train-00000.tar"
    sound = path.read_bytes()
    assert not found(signed(copied))

    def header(**change: Any) -> bytes:
        info = tarfile.TarInfo.frombuf(sound[:512], "ascii", "strict")
        for name, value in change.items():
            setattr(info, name, value)
        return info.tobuf(tarfile.GNU_FORMAT)[:512]

    cases = [
        *(header(name=name) for name in ("../../evil", "/etc/cron.d/evil", "a/../../b", "other")),
        header(type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        header(type=tarfile.LNKTYPE, linkname="../x"),
        *(
            header(type=kind)
            for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, b"L", b"x")
        ),
        *(header(size=size) for size in (0, 8**11 - 1, 8**12)),
    ]
    for number, head in enumerate(cases):
        path.write_bytes(head + sound[512:])
        assert found(signed(copied)), number
    with tarfile.open(path, "w") as tar:  # one more member behind the last
        info = tarfile.TarInfo("../evil")
        tar.addfile(info)
    with tarfile.open(fileobj=io.BytesIO(sound)) as tar:
        tail = tar.getmembers()[-1].offset_data + 512
    path.write_bytes(sound[:tail] + path.read_bytes())
    assert found(signed(copied))
    how = ".., absolute names, links, devices, pipes, sizes of terabytes, members of no sample; checksums made right"
    fault.seen("tar members that reach outside", how, len(cases) + 1, measured="`inspect --verify` names the shard")


def test_ffcvs_files_with_wild_pointers_are_refused(copied, signed, fault):
    path = copied / "train.beton"
    sound = path.read_bytes()
    shards = ShardSet.open(signed(copied))
    BetonBytes(shards, "train")
    head = 24 + 2 * 1048
    table = int.from_bytes(sound[16:24], "little")
    places = [*range(24), *range(head, head + 32), *range(table, table + 24)]
    times = fault.times(short=40, full=400)
    random = np.random.default_rng(2)
    for _ in range(times):
        changed = bytearray(sound)
        changed[random.choice(places)] ^= int(random.integers(1, 256))
        path.write_bytes(changed)
        with pytest.raises(UserError, match="does not match"):
            BetonBytes(shards, "train")
    how = "a byte of the header, of a sample's metadata, of the allocation table"
    fault.seen("FFCV's files with wild pointers", how, times, measured="refused before FFCV opens them")


def test_a_part_that_names_files_outside_is_not_merged(few, tmp_path, fault):
    out = tmp_path / "out"
    for number in (1, 2):
        convert_part(few, out, f"{number}/2", ShardSettings(shard_size=6), workers=1, progress=False)
    summary = out / "part-1-of-2" / ".parts" / "summary.json"
    sound = summary.read_text()
    plain = json.loads(sound)
    cases: list[Any] = [
        ["../evil", 0, 3],
        ["/tmp/evil", 0, 3],
        ["train-00000", 7, 3],
        ["train-00000", 0, 10**15],
        ["train-00000", 0, -1],
        [None, 0, 1],
        "x",
    ]
    for case in cases:
        for number in (1, 2):
            text = json.dumps({**plain, "jobs": [case, *plain["jobs"][1:]]})
            (out / f"part-{number}-of-2" / ".parts" / "summary.json").write_text(text)
        with pytest.raises(UserError):
            merge(out)
    for number in (1, 2):
        (out / f"part-{number}-of-2" / ".parts" / "summary.json").write_text(sound)
    tar = next((out / "part-1-of-2").glob("*.tar"))
    secret = tmp_path / "secret"
    shutil.move(tar, secret)
    tar.symlink_to(secret)
    with pytest.raises(UserError, match="isn't finished"):
        merge(out)
    tar.unlink()
    shutil.move(secret, tar)
    assert merge(out).shards
    fault.seen("parts from a stranger", "names outside, absurd counts, a link for a shard, `merge`", len(cases) + 1)


def test_a_url_s_names_stay_in_the_cache(small, tmp_path, monkeypatch, fault):
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    plain = json.loads((small / "manifest.json").read_bytes())
    names = ("../../x.tar", "/x.tar", "a/b.tar", "..", ".lock", "index.npy\0")
    for name in names:
        text = json.dumps({**plain, "shards": [{**plain["shards"][0], "name": name}, *plain["shards"][1:]]})
        memory.pipe_file("/hostile/manifest.json", text.encode())
        with pytest.raises(UserError, match="damaged"):
            ShardSet.open("memory://hostile")
    assert not list(tmp_path.rglob("*.tar"))
    for path in small.iterdir():
        memory.pipe_file(f"/hostile/{path.name}", path.read_bytes())
    ShardSet.open("memory://hostile").bytes(0)
    (kept,) = tmp_path.rglob("*.tar")
    vast = [{**shard, "bytes": 1 << 60} for shard in plain["shards"]]
    memory.pipe_file("/hostile/manifest.json", json.dumps({**plain, "shards": vast}).encode())
    with pytest.raises(UserError, match="more than the disk of"):
        ShardSet.open("memory://hostile").bytes(0)
    assert kept.exists(), "nobody's shards are deleted for a number"
    memory.rm("/hostile", recursive=True)
    how = "names with .., absolute, hidden; a shard of an exabyte"
    fault.seen("a URL whose manifest reaches outside of the cache", how, len(names) + 1)


def test_damaged_photographs_crash_nothing(few, fault):
    """Random bytes of every format that `convert` takes."""
    from PIL import Image

    picture = Image.open(next(few.rglob("*.jpg"))).convert("RGB").resize((96, 64))
    times = fault.times(short=10, full=300)
    count = 0
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"):
        file = io.BytesIO()
        picture.save(file, kind)
        for _, changed in flips(file.getvalue(), times, seed=3):
            for cut in ("mcu", "none"):
                try:
                    assert normalize(changed, cut=cut).jpeg
                except BrokenPhoto as error:
                    assert "\n" not in error.reason
                count += 1
    fault.seen(
        "photographs with a flipped bit", "a random bit, seven formats, `convert`'s reader", count, measured="no crash"
    )
