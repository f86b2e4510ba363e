"""Zips and tars of class folders: the same photographs as unpacked, read in place."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fasttrain.errors import UserError
from fasttrain.photos.gzipped import Gzipped
from fasttrain.photos.source import Source, SourceOptions
from fasttrain.photos.sources import open_source
from fasttrain.photos.tars import tar_members

JPEG = b"\xff\xd8\xff"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Split folders of two classes, within `photos/`, and things that are no photographs."""
    names = (
        *("train/cat/1.jpg", "train/dog/2", "Test/cat/3.jpg", "train/cat/notes.txt", "train/.hidden/4.jpg"),
        *("train/cat/__MACOSX/1.jpg", "train/cat/._1.jpg", "loose.jpg", "other/5.jpg", "train/dog/deep/6.png"),
    )
    for number, name in enumerate(names):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes((b"text" if name.endswith("txt") else JPEG) + bytes(number))
    (tmp_path / "photos" / "train" / "owl").mkdir()
    return tmp_path / "photos"


def refused(path: Path, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        open_source(path, options=SourceOptions(**options))
    assert "\n" not in str(caught.value) and path.name in str(caught.value), caught.value
    return str(caught.value)


def tar_of(path: Path, *names: str | tarfile.TarInfo, mode: str = "w") -> Path:
    """A tar of files that begin as JPEGs do, each with its name in it, and of links."""
    with tarfile.open(path, mode) as archive:
        for name in names:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            content = JPEG + info.name.encode("utf-8", "surrogateescape")
            info.size = len(content) if info.isfile() else 0
            archive.addfile(info, io.BytesIO(content))
    return path


def zip_of(path: Path, *names: str, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, JPEG + name.encode())
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def contents(source: Source) -> dict[str, bytes]:
    return {path: source.read(row) for row, path in enumerate(source.paths)}


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
@pytest.mark.parametrize("nested", [False, True], ids=["at the top", "in a folder"])
def test_an_archive_is_the_folder_that_it_holds(folder, tmp_path, kind, nested) -> None:
    path = shutil.make_archive(str(tmp_path / "a"), kind, tmp_path if nested else folder, "photos" if nested else None)
    packed, unpacked = open_source(path), open_source(folder)
    assert packed.kind == "archive" and packed.name == Path(path).name
    if nested:  # a photograph beside a lone folder would be no class's
        assert "loose.jpg" in dict(packed.ignored)
    assert (packed.classes, packed.paths, packed.ignored) == (unpacked.classes, unpacked.paths, unpacked.ignored)
    assert packed.labels.tolist() == unpacked.labels.tolist() and packed.splits.tolist() == unpacked.splits.tolist()
    assert contents(packed) == contents(unpacked)


def test_the_first_bytes_tell_an_archive_whatever_its_name(tmp_path) -> None:
    for made in (
        tar_of(tmp_path / "a", "cat/1.jpg", "dog/2.jpg"),
        zip_of(tmp_path / "b.bin", "cat/1.jpg", "dog/2.jpg"),
    ):
        assert open_source(made).classes == ("cat", "dog")


def test_classes_within_an_archive(tmp_path) -> None:
    made = zip_of(tmp_path / "a.zip", "Set/Fruit/apple/1.jpg", "Set/Fruit/pear/2.jpg", "Set/Nut/pear/3.jpg")
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr("read.me", "text")
    assert "which are the classes? Give fasttrain convert --classes top (2: Fruit, Nut)" in refused(made)
    for choice, classes in (("top", ("Fruit", "Nut")), ("leaf", ("apple", "pear")), ("path", None)):
        source = open_source(made, options=SourceOptions(classes=choice))
        assert source.classes == (classes or ("Fruit/apple", "Fruit/pear", "Nut/pear"))
        assert source.paths == ("Fruit/apple/1.jpg", "Fruit/pear/2.jpg", "Nut/pear/3.jpg")
        assert source.ignored == (("read.me", "not a photograph (.me)"),)


def test_links_in_a_tar(tmp_path) -> None:
    made = tar_of(
        tmp_path / "a.tar",
        *("cat/1.jpg", "dog/2.jpg"),
        link("cat/hard.jpg", "cat/1.jpg", tarfile.LNKTYPE),
        link("cat/same.jpg", "1.jpg"),
        link("cat/twice.jpg", "same.jpg"),
        link("cat/other.jpg", "../dog/2.jpg"),
        link("cat/folder", "../dog"),
        link("cat/gone.jpg", "none.jpg"),
        link("cat/up.jpg", "../../1.jpg"),
        link("cat/root.jpg", "/etc/1.jpg"),
        link("cat/a.jpg", "b.jpg"),
        link("cat/b.jpg", "a.jpg"),
        link("cat/lost.jpg", "nowhere/1.jpg", tarfile.LNKTYPE),
    )
    source = open_source(made)
    first = JPEG + b"cat/1.jpg"
    same = dict.fromkeys(("cat/1.jpg", "cat/hard.jpg", "cat/same.jpg", "cat/twice.jpg"), first)
    assert contents(source) == {**same, "dog/2.jpg": JPEG + b"dog/2.jpg"}
    assert dict(source.ignored) == {
        "cat/other.jpg": "a link to dog/2.jpg, which is read under its own name",
        "cat/folder": "a link to the folder dog, which is not followed in an archive",
        "cat/gone.jpg": "a broken link",
        "cat/up.jpg": "a link that leads out of the archive",
        "cat/root.jpg": "a link that leads out of the archive",
        "cat/a.jpg": "a link in a circle",
        "cat/b.jpg": "a link in a circle",
        "cat/lost.jpg": "a link to a file that isn't in the archive",
    }


def test_a_link_in_a_zip_is_no_photograph_of_its_path(tmp_path) -> None:
    made = zip_of(tmp_path / "a.zip", "cat/1.jpg", "dog/2.jpg")
    with zipfile.ZipFile(made, "a") as archive:
        info = zipfile.ZipInfo("cat/3.jpg")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "1.jpg")
    assert contents(open_source(made))["cat/3.jpg"] == JPEG + b"cat/1.jpg"


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_odd_paths(tmp_path, pack: Callable[..., Path]) -> None:
    names = ("/cat/1.jpg", "./dog//2.jpg", "dog/../../3.jpg", "cat/é 4.jpg")
    source = open_source(pack(tmp_path / "a.zip", *names))
    assert set(contents(source)) == {"cat/1.jpg", "dog/2.jpg", "cat/é 4.jpg"}
    assert source.ignored == (("dog/../../3.jpg", "its path leads out of the archive"),)


@pytest.mark.parametrize("pack", [tar_of, zip_of])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_members_of_one_name_the_last_counts(tmp_path, pack) -> None:
    pack(tmp_path / "a", "cat/1.jpg", "dog/2.jpg")
    if pack is tar_of:
        with tarfile.open(tmp_path / "a", "a") as archive:
            archive.addfile(info := tarfile.TarInfo("cat/1.jpg"))
            assert not info.size
    else:
        with zipfile.ZipFile(tmp_path / "a", "a") as archive:
            archive.writestr("cat/1.jpg", b"")
    source = open_source(tmp_path / "a")
    assert source.read(0) == b""
    assert source.ignored == (("cat/1.jpg", "in the archive twice: the last one is read, as after unpacking"),)


def test_names_in_other_encodings(tmp_path) -> None:
    made = tar_of(tmp_path / "a.tar", "cat/caf\udce9.jpg", "dog/1.jpg")
    assert contents(open_source(made))["cat/caf\udce9.jpg"] == JPEG + b"cat/caf\xe9.jpg"
    assert "isn't printable UTF-8" in refused(tar_of(tmp_path / "b.tar", "caf\udce9/1.jpg", "dog/1.jpg"))
    # macOS writes UTF-8 without the flag that says so.
    mac = zip_of(tmp_path / "mac.zip", "pâté/1.jpg", "dog/2.jpg")
    data = mac.read_bytes()
    for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = data.index(signature) + at
        assert struct.unpack_from("<H", data, place)[0] == 0x800
        data = data[:place] + b"\0\0" + data[place + 2 :]
    mac.write_bytes(data)
    assert open_source(mac).classes == ("dog", "pâté")
    windows = zip_of(tmp_path / "windows.zip", "cat\\1.jpg", "dog\\2.jpg")
    assert open_source(windows).paths == ("cat/1.jpg", "dog/2.jpg")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_zips_of_every_method_that_is_read(tmp_path, method) -> None:
    made = tmp_path / "a.zip"
    with zipfile.ZipFile(made, "w", method) as archive, archive.open("cat/big", "w", force_zip64=True) as member:
        member.write(JPEG + b"\0" + os.urandom(5000) + bytes(200_000))  # \xf7 would make it a JPEG-LS
    with zipfile.ZipFile(made, "a", method) as archive:
        archive.writestr("dog/1.jpg", JPEG)
        archive.writestr("dog/empty", b"")
    made.write_bytes(b"#!/bin/sh\n" + made.read_bytes())  # one that unpacks itself
    source = open_source(made)
    with zipfile.ZipFile(made) as archive:
        assert contents(source) == {name: archive.read(name) for name in ("cat/big", "dog/1.jpg")}
    assert source.ignored == (("dog/empty", "not a photograph"),)


def test_zips_that_are_refused(tmp_path) -> None:
    assert "compressed by method 14" in refused(zip_of(tmp_path / "a.zip", "cat/1.jpg", method=zipfile.ZIP_LZMA))
    made = zip_of(tmp_path / "b.zip", "cat/1.jpg", "dog/2.jpg")
    data = bytearray(made.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    made.write_bytes(data)
    assert "cat/1.jpg is encrypted, which can't be read in place; unpack the zip" in refused(made)
    made.write_bytes(data[:-30])
    assert "not a readable zip (File is not a zip file); copy it again" in refused(made)


def test_tars_that_are_damaged(tmp_path) -> None:
    made = tar_of(tmp_path / "a.tar", *(f"{name}/{number}.jpg" for number in range(5) for name in ("cat", "dog")))
    whole = made.read_bytes()
    made.write_bytes(whole[:3000])
    assert "damaged after" in refused(made)
    made.write_bytes(whole[: 10 * 1024])
    assert "damaged after 10 entries (it is truncated)" in refused(made)
    made.write_bytes(whole[: 3 * 1024] + b"\7" * 512 + whole[3 * 1024 + 512 :])
    assert "damaged after 3 entries (a header is damaged)" in refused(made)
    made.write_bytes(b"\7" * 4096)
    assert "not a readable tar" in refused(made)
    made.write_bytes(b"")
    assert "not a readable tar" in refused(made)
    packed = gzip.compress(whole)
    made.write_bytes(packed[:-20])
    assert "damaged" in refused(made)
    made.write_bytes(packed[:60] + bytes([packed[60] ^ 255]) + packed[61:])
    assert "copy it again" in refused(made)


def test_joined_tars_are_read_to_the_end(tmp_path) -> None:
    parts = [tar_of(tmp_path / name, f"{name}/1.jpg") for name in ("cat", "dog", "owl")]
    joined = tmp_path / "all.tar"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert open_source(joined).classes == ("cat", "dog", "owl")


def test_kinds_that_cannot_be_read_in_place(folder, tmp_path) -> None:
    for kind, command in (("bztar", "bzip2 -dk"), ("xztar", "xz -dk")):
        assert command in refused(Path(shutil.make_archive(str(tmp_path / "a"), kind, folder)))
    (tmp_path / "a.7z").write_bytes(b"7z\xbc\xaf\x27\x1c\0\0")
    assert "is a 7z archive, which can't be read in place; unpack it: 7z x" in refused(tmp_path / "a.7z")


def test_a_large_gzipped_tar_is_read_from_many_threads(tmp_path) -> None:
    made = tmp_path / "a.tgz"
    names = [f"{name}/{number}.jpg" for number in range(20) for name in ("cat", "dog")]
    content = {name: JPEG + b"\0" + os.urandom(150_000) for name in names}
    with tarfile.open(made, "w:gz", compresslevel=1) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(content[name])
            archive.addfile(info, io.BytesIO(content[name]))
    made.write_bytes(made.read_bytes() + bytes(700))
    source = open_source(made)
    rows = list(reversed(range(len(names)))) * 2
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(source.read, rows))
    assert found == [content[source.paths[row]] for row in rows]
    file = Gzipped(made)
    for _ in tar_members(file):
        pass
    assert all(wanted - file.before(wanted).out < 3 << 20 for wanted in range(0, 6_000_000, 500_000))


def test_a_photograph_damaged_in_a_zip_is_an_error_of_its_own(tmp_path) -> None:
    path = zip_of(tmp_path / "a.zip", "cat/1.jpg", "dog/2.jpg")
    path.write_bytes(path.read_bytes().replace(JPEG + b"cat", JPEG + b"cut", 1))
    source = open_source(path)
    with pytest.raises(OSError, match="a photograph's checksum differs"):
        source.read(0)
    assert source.read(1) == JPEG + b"dog/2.jpg"


def test_an_archive_that_changes_is_noticed(tmp_path) -> None:
    before = open_source(zip_of(tmp_path / "a.zip", "cat/1.jpg", "dog/2.jpg"))
    copied = open_source(shutil.copy(tmp_path / "a.zip", tmp_path / "b.zip"))
    assert before.fingerprint == copied.fingerprint and before.local_state != copied.local_state
    data = (tmp_path / "a.zip").read_bytes()
    zip_of(tmp_path / "a.zip", "cat/1.jpg", "dog/2.jpg").write_bytes(
        data.replace(b"\xff\xd8\xffcat", b"\xff\xd8\xffcut")
    )
    with pytest.raises(UserError, match="has changed since it was listed; run the same command again"):
        before.read(0)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("cat/1.jpg", JPEG + b"cut/1.jpg")
        archive.writestr("dog/2.jpg", JPEG + b"dog/2.jpg")
    assert open_source(tmp_path / "a.zip").fingerprint != before.fingerprint


def test_no_class_of_an_archive_vanishes(tmp_path) -> None:
    made = zip_of(tmp_path / "a.zip", "cat/1.jpg", "dog/2.jpg")
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr("owl/3.jpg.txt", "text")
    assert "every file of this class is left out (1 x not a photograph (.txt))" in refused(made)


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_an_archive_for_each_class(tmp_path, pack) -> None:
    suffix = pack.__name__.removesuffix("_of")
    pack(tmp_path / f"cat.{suffix}", "1.jpg", "deep/2.jpg")
    pack(tmp_path / f"test_tubes.{suffix}", "test_tubes/1.jpg", ".hidden.jpg")
    (tmp_path / "README").write_text("text")
    source = open_source(tmp_path)
    assert source.kind == "archive" and source.classes == ("cat", "test_tubes")
    assert contents(source) == {
        "cat/1.jpg": JPEG + b"1.jpg",
        "cat/deep/2.jpg": JPEG + b"deep/2.jpg",
        "test_tubes/1.jpg": JPEG + b"test_tubes/1.jpg",
    }
    assert source.ignored == (("README", "not a file that holds photographs"),)
    (tmp_path / "owl.tar.xz").write_bytes(b"\xfd7zXZ\0")
    assert "owl.tar.xz is a tar compressed by xz" in refused(tmp_path)


def test_an_archive_for_each_split(tmp_path) -> None:
    zip_of(tmp_path / "train.zip", "train/cat/1.jpg", "train/dog/2.jpg")
    tar_of(tmp_path / "val.tar", "cat/3.jpg", link("cat/4.jpg", "3.jpg"), link("dog/5.jpg", "../cat/3.jpg"))
    source = open_source(tmp_path)
    assert dict(zip(source.paths, source.splits.tolist(), strict=True)) == {
        "train/cat/1.jpg": 0,
        "train/dog/2.jpg": 0,
        "val/cat/3.jpg": 1,
        "val/cat/4.jpg": 1,
    }
    assert source.read(3) == JPEG + b"cat/3.jpg"
    assert source.ignored == (("val/dog/5.jpg", "a link to val/cat/3.jpg, which is read under its own name"),)


def test_archives_that_are_counted_are_no_classes(tmp_path) -> None:
    for number in range(3):
        tar_of(tmp_path / f"part-{number:03d}.tar", f"{number}.jpg")
    assert "part-000.tar and the files with the next numbers are neither classes" in refused(tmp_path)
    (tmp_path / "part-001.tar").unlink()
    assert open_source(tmp_path).classes == ("part-000", "part-002")  # names like ImageNet's n01440764.tar


def test_a_tar_of_tars(tmp_path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("n01440764", "n01443537"):
        tar_of(
            tmp_path / "inner" / f"{name}.tar",
            f"{name}_1.JPEG",
            f"{name}_2.JPEG",
            link(f"{name}_3.JPEG", f"{name}_1.JPEG"),
        )
    with tarfile.open(tmp_path / "outer.tar", "w") as archive:
        for path in sorted((tmp_path / "inner").iterdir()):
            archive.add(path, path.name)
    source = open_source(tmp_path / "outer.tar")
    assert source.classes == ("n01440764", "n01443537") and len(source.paths) == 6
    assert source.read(2) == source.read(0) == JPEG + b"n01440764_1.JPEG"
    data = bytearray((tmp_path / "outer.tar").read_bytes())
    data[data.index(b"n01443537_2.JPEG\0")] = 0
    (tmp_path / "outer.tar").write_bytes(data)
    assert "a header is damaged" in refused(tmp_path / "outer.tar")


@pytest.fixture
def food(tmp_path: Path) -> Path:
    """Food-101's layout, with a photograph that isn't named, and one that is missing."""
    root = tmp_path / "food-101"
    for number, name in enumerate(("pie/1.jpg", "pie/2.jpg", "soup/3.jpg", "soup/4.jpg", "soup/notes.txt")):
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_bytes((b"text" if name.endswith("txt") else JPEG) + bytes(number))
    (root / "meta").mkdir()
    (root / "meta" / "train.txt").write_bytes(b"\xef\xbb\xbfpie/1\r\nsoup/3\r\nsoup/5\r\n")
    (root / "meta" / "test.txt").write_text("pie/2\n")
    (root / "meta" / "classes.txt").write_text("pie\nsoup\n")
    (root / "README.txt").write_text("Food-101")
    return root


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
@pytest.mark.parametrize("nested", [False, True], ids=["at the top", "in a folder"])
def test_the_layout_of_food101(food, tmp_path, kind, nested) -> None:
    path = shutil.make_archive(str(tmp_path / "a"), kind, tmp_path if nested else food, "food-101" if nested else None)
    packed, unpacked = open_source(path), open_source(food)
    assert (packed.paths, packed.classes) == (unpacked.paths, unpacked.classes)
    assert packed.labels.tolist() == unpacked.labels.tolist() and packed.splits.tolist() == unpacked.splits.tolist()
    assert packed.sizes.tolist() == unpacked.sizes.tolist()
    assert set(unpacked.ignored) <= set(packed.ignored)
    assert [packed.read(row) for row in range(3)] == [unpacked.read(row) for row in range(3)]
    with pytest.raises(FileNotFoundError):  # soup/5.jpg: `convert` lists it as missing
        packed.read(3)
    assert "--classes top has no effect, because " in refused(Path(path), classes="top")
    (food / "images" / "pie" / "1.jpg").write_bytes(JPEG + b"!")
    other = shutil.make_archive(str(tmp_path / "b"), kind, food)
    assert kind != "zip" or open_source(other).fingerprint != packed.fingerprint


def test_what_is_no_food101_is_class_folders(food, tmp_path) -> None:
    (food / "meta" / "test.txt").unlink()
    shutil.copy(food / "images" / "pie" / "1.jpg", food / "meta")
    archive = shutil.make_archive(str(tmp_path / "a"), "zip", food)
    assert open_source(archive, options=SourceOptions(classes="top")).classes == ("images", "meta")
