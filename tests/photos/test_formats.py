"""Content decides what a file is; what can't be read is named in words of its own, and no class vanishes."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from fasttrain.errors import UserError
from fasttrain.photos import formats
from fasttrain.photos.normalize import BrokenPhoto, decode, normalize
from fasttrain.photos.source import SourceOptions
from fasttrain.photos.sources import open_source
from fasttrain.photos.walk import Found, walk
from fasttrain.text import printable

HEIC = b"\0\0\0\x24ftypheic\0\0\0\0mif1heicmiafMiHE" + bytes(2000)
REST = bytes(2000)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + REST, "video (MP4)"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + REST, "video (QuickTime)"),
        (b"RIFF\0\0\0\0AVI LIST" + REST, "video (AVI)"),
        (b"\x1a\x45\xdf\xa3" + REST, "video (Matroska)"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n <HTML><body>", "web page"),
        (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (REST, "zero bytes"),
        (b"", "empty file"),
        (b"%PDF-1.7", "PDF"),
        (b"8BPS\0\1" + REST, "PSD"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + REST, "raw file"),
        (b"FUJIFILMCCD-RAW 0201" + REST, "raw file"),
        (b"IIU\0" + REST, "raw file"),
        (b"II*\0\x10\0\0\0CR\2\0" + REST, "raw file"),
        (b"\xff\xd8\xff\xf7" + REST, "JPEG-LS"),
        (b"PK\3\4" + REST, "archive"),
        (b"hello", "no known picture format"),
    ],
)
def test_what_is_no_photograph_is_named(data, word) -> None:
    for read in (normalize, lambda data: decode(data, max_size=64)):
        with pytest.raises(BrokenPhoto) as caught:
            read(data)
        assert word in caught.value.reason and "\n" not in caught.value.reason


def test_jpegs_of_twelve_bits_and_damaged_files_are_named(picture, encode) -> None:
    jpeg, png, bmp = encode(picture), encode(picture, "PNG"), encode(picture, "BMP")
    frame = jpeg.index(b"\xff\xc0")
    twelve = jpeg[:frame] + b"\xff\xc1" + jpeg[frame + 2 : frame + 4] + b"\x0c" + jpeg[frame + 5 :]
    for data, word in ((twelve, "12-bit JPEG"), (png[:29] + bytes(4) + png[33:], "PNG that is damaged")):
        with pytest.raises(BrokenPhoto, match=word):
            normalize(data)
    with pytest.raises(BrokenPhoto, match="BMP that is damaged"):
        normalize(bmp[:28] + b"\2\0" + bmp[30:])


def test_a_bitmap_without_a_file_header_is_read(picture, encode) -> None:
    assert normalize(encode(picture, "DIB")).how == ("re-encoded: dib",)


@pytest.mark.parametrize(
    ("module", "kind", "name"), [("pillow_heif", "HEIF", "HEIC"), ("pillow_jxl", "JXL", "JPEG XL")]
)
def test_formats_of_extras(picture, encode, monkeypatch, module, kind, name) -> None:
    pytest.importorskip(module, reason=f"{module} isn't installed")
    Image.init()
    if module == "pillow_heif":
        import pillow_heif

        pillow_heif.register_heif_opener()
    block = Image.Exif()
    block[0x112] = 1
    data = encode(picture, kind, exif=block.tobytes(), quality=95)
    assert formats.sniff(data[: formats.HEAD]) == name
    stored = normalize(data.replace(b"II*\0", b"hey!").replace(b"MM\0*", b"hey!"))
    assert (stored.how, stored.width, stored.height) == ((f"re-encoded: {kind.lower()}",), 64, 48)
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BrokenPhoto, match=rf"{name} needs .* install .*\[(heif|jxl)\]'"):
        normalize(data)


def test_a_jpeg_in_a_jpeg_xl_keeps_its_coefficients(picture, encode, tmp_path) -> None:
    pytest.importorskip("pillow_jxl", reason="pillow_jxl isn't installed")
    (tmp_path / "a.jpg").write_bytes(encode(picture))
    with Image.open(tmp_path / "a.jpg") as opened, pytest.warns(UserWarning, match="reconstruction"):
        opened.save(tmp_path / "a.jxl")
    assert normalize((tmp_path / "a.jxl").read_bytes()).jpeg == encode(picture)


def test_raws_are_left_out_by_name_and_by_content(encode, picture, tmp_path) -> None:
    tiff = encode(picture, "TIFF")
    for suffix in ("dng", "nef", "pef", "srw", "3fr", "rw2", "THM"):
        (tmp_path / f"1.{suffix}").write_bytes(tiff)
    (tmp_path / "2.dng").write_bytes(encode(picture))  # a JPEG, whatever its name
    found = list(walk(tmp_path, "", set()))
    assert [item.path for item in found if isinstance(item, Found)] == ["2.dng"]
    assert "PEF, a camera's raw file" in dict(item for item in found if not isinstance(item, Found))["1.pef"]
    for info in ({50706: b"\1\4\0\0"}, {262: 32803}):
        file = io.BytesIO()
        picture.convert("L").save(file, "TIFF", tiffinfo=info)
        data = (
            file.getvalue() if 262 not in info else tiff.replace(b"\6\1\3\0\1\0\0\0\2\0", b"\6\1\3\0\1\0\0\0\x23\x80")
        )
        with pytest.raises(BrokenPhoto, match="raw file"):
            normalize(data)


def test_content_decides_where_no_suffix_does(picture, encode, tmp_path) -> None:
    for name, kind in (
        ("a.pnm", "PPM"),
        ("b", "PNG"),
        ("c.hif", "JPEG"),
        ("d.heic", "JPEG"),
        ("e.j2k", "PNG"),
        ("f.dib", "DIB"),
    ):
        (tmp_path / name).write_bytes(encode(picture, kind))
        assert normalize((tmp_path / name).read_bytes()).width == 64
    (tmp_path / "g.txt").write_text("BMW is a car")
    found = list(walk(tmp_path, "", set()))
    names = [item.path for item in found if isinstance(item, Found)]
    assert names == ["a.pnm", "b", "c.hif", "d.heic", "e.j2k", "f.dib"]
    assert found[-1] == ("g.txt", "not a photograph (.txt)")


@pytest.fixture
def folders(tmp_path, encode, picture) -> Path:
    for name in ("cat", "dog", "owl"):
        (tmp_path / name).mkdir()
        for number in range(2):
            (tmp_path / name / f"{number}.jpg").write_bytes(encode(picture))
    return tmp_path


def test_no_class_vanishes(folders, monkeypatch) -> None:
    for name in ("0.jpg", "1.jpg"):
        (folders / "cat" / name).unlink()
        (folders / "cat" / name.replace("jpg", "HEIC")).write_bytes(HEIC)
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"cat: every file .*2 x HEIC needs pillow-heif: .*--skip-empty-classes"):
        open_source(folders)
    assert open_source(folders, options=SourceOptions(skip_empty_classes=True)).classes == ("dog", "owl")
    for name in ("dog", "owl"):
        for file in (folders / name).iterdir():
            file.rename(file.with_suffix(".HEIC")).write_bytes(HEIC)
    with pytest.raises(UserError, match="6 x HEIC needs pillow-heif"):
        open_source(folders, options=SourceOptions(skip_empty_classes=True))


def test_links_move_no_photograph_to_another_class(folders, tmp_path) -> None:
    plain = open_source(folders)
    (folders / "cat" / "up").symlink_to(folders)
    (folders / "cat" / "above").symlink_to(folders.parent)
    (folders / "cat" / "dogs").symlink_to(folders / "dog")
    (folders / "cat" / "zero.jpg").symlink_to(folders / "owl" / "0.jpg")
    (folders / "owl" / "gone.jpg").symlink_to(folders / "owl" / "nothing.jpg")
    source = open_source(folders)
    assert (source.paths, source.classes, source.labels.tolist()) == (plain.paths, plain.classes, plain.labels.tolist())
    reasons = dict(source.ignored)
    assert reasons["cat/zero.jpg"] == "a link to owl/0.jpg, which is read under its own name"
    assert reasons["cat/dogs/"] == "a link to dog, which is read under its own name"
    assert reasons["owl/gone.jpg"] == "a broken link"
    (folders / "canine").symlink_to(folders / "dog")
    source = open_source(folders, options=SourceOptions(skip_empty_classes=True))
    assert source.classes == plain.classes and source.paths == plain.paths


def test_control_characters_are_escaped() -> None:
    assert printable("a\x1b[31m\n\u202eb\x7f") == "a\\x1b[31m\\n\\u202eb\\x7f"
    kept = os.fsdecode(b"caf\xe9 \xc3\xa9")
    assert printable(kept) == kept
