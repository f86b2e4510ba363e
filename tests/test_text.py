"""Text files from Windows editors (byte-order marks, UTF-16, refused encodings), and counts with their nouns."""

from __future__ import annotations

import codecs
import shutil
from pathlib import Path

import pytest

from fasttrain.checkpoint.trained import load_trained
from fasttrain.config.load import read_toml
from fasttrain.errors import UserError
from fasttrain.photos.sources import open_source
from fasttrain.text import counted, probability_percent, read_text

_TEXT = "apple/000\ncrème/001\n"
_MARKED = {
    "UTF-8": codecs.BOM_UTF8 + _TEXT.encode(),
    "UTF-16 LE": codecs.BOM_UTF16_LE + _TEXT.encode("utf-16-le"),
    "UTF-16 BE": codecs.BOM_UTF16_BE + _TEXT.encode("utf-16-be"),
    "UTF-32 LE": codecs.BOM_UTF32_LE + _TEXT.encode("utf-32-le"),
    "UTF-32 BE": codecs.BOM_UTF32_BE + _TEXT.encode("utf-32-be"),
    "UTF-8, lines of Windows": codecs.BOM_UTF8 + _TEXT.replace("\n", "\r\n").encode(),
    "UTF-16, lines of Windows": codecs.BOM_UTF16_LE + _TEXT.replace("\n", "\r\n").encode("utf-16-le"),
    "lines of old Macs": _TEXT.replace("\n", "\r").encode(),
}
_REFUSED = {
    "Windows-1252": (_TEXT.encode("cp1252"), "line 2: the byte 0xE8 is not UTF-8"),
    "Windows-1252, lines of Windows": (_TEXT.replace("\n", "\r\n").encode("cp1252"), "line 2: the byte 0xE8"),
    "Windows-1251": ("яблоко/000\n".encode("cp1251"), "line 1: the byte 0xFF"),
    "Shift-JIS": ("りんご/000\n".encode("shift-jis"), "line 1: the byte 0x82"),
    "GB18030": ("苹果/000\n".encode("gb18030"), "line 1: the byte 0xB9"),
    "UTF-16 without a mark": (_TEXT.encode("utf-16-le"), "line 1: a NUL character"),
    "UTF-16 without a mark, big end first": (_TEXT.encode("utf-16-be"), "line 1: a NUL character"),
    "UTF-16 cut off": (_MARKED["UTF-16 LE"][:-1], "line 2: the byte 0x0A is not UTF-16-LE"),
    "UTF-8 cut off": ("crème".encode()[:3], "line 1: the byte 0xC3 is not UTF-8"),
}


@pytest.mark.parametrize("name", _MARKED)
def test_marks_and_line_ends_are_left_out(name: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(_MARKED[name])
    assert read_text(tmp_path / "list.txt") == _TEXT


@pytest.mark.parametrize("name", _REFUSED)
def test_another_encoding_is_refused_with_the_file_and_the_line(name: str, tmp_path: Path) -> None:
    data, said = _REFUSED[name]
    (tmp_path / "list.txt").write_bytes(data)
    with pytest.raises(UserError) as error:
        read_text(tmp_path / "list.txt")
    assert str(error.value).startswith(f"{tmp_path / 'list.txt'}: {said}")
    assert "save it as UTF-8" in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def food101_like(photographs: Path, tmp_path: Path) -> Path:
    """A folder with `images` of two classes, one of them with an accent, and room for `meta`."""
    for old, new in zip(sorted(photographs.iterdir())[:2], ("apple", "crème"), strict=True):
        shutil.copytree(old, tmp_path / "data" / "images" / new)
    (tmp_path / "data" / "meta").mkdir()
    return tmp_path / "data"


def _write_lists(root: Path, encoding: str, mark: bytes = b"") -> None:
    stems = sorted(f"{path.parent.name}/{path.stem}" for path in (root / "images").glob("*/*"))
    for part, listed in (("train", stems[::2]), ("test", stems[1::2])):
        (root / "meta" / f"{part}.txt").write_bytes(mark + "\r\n".join(listed).encode(encoding))


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
    ],
)
def test_lists_of_photographs_with_a_mark(food101_like: Path, encoding: str, mark: bytes) -> None:
    _write_lists(food101_like, encoding, mark)
    source = open_source(food101_like)
    assert source.classes == ("apple", "crème") and len(source.paths) == 32 and not source.ignored


def test_lists_in_another_encoding_name_the_list(food101_like: Path) -> None:
    _write_lists(food101_like, "cp1252")
    with pytest.raises(UserError, match=r"meta/train\.txt: line 9: the byte 0xE8 is not UTF-8"):
        open_source(food101_like)


@pytest.mark.parametrize("name", [each for each in _MARKED if each.startswith("UTF")])
def test_settings_with_a_mark(name: str, tmp_path: Path) -> None:
    encoding = "utf-8-sig" if name.startswith("UTF-8") else name.split(",")[0].replace(" ", "-").lower()
    mark = "" if encoding == "utf-8-sig" or encoding == "utf-16" else "\ufeff"
    (tmp_path / "c.toml").write_bytes((mark + 'epochs = 1\r\nrun_name = "crème"\r\n').encode(encoding))
    assert read_toml(tmp_path / "c.toml") == {"epochs": 1, "run_name": "crème"}


def test_settings_in_another_encoding_name_the_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes('epochs = 1\nrun_name = "crème"\n'.encode("cp1252"))
    with pytest.raises(UserError, match=r"c\.toml: line 2: the byte 0xE8 is not UTF-8"):
        read_toml(tmp_path / "c.toml")


@pytest.mark.parametrize(
    ("probability", "said"), [(0.1234, "12.3"), (0.9994, "99.9"), (0.99996, "99.9"), (1.0, "99.9"), (0.0, "0.0")]
)
def test_no_probability_is_shown_as_certain(probability: float, said: str) -> None:
    assert probability_percent(probability) == said


def test_a_models_description_with_a_mark(model_folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(model_folder, tmp_path / "run")
    (run / "model.json").write_bytes(codecs.BOM_UTF8 + (run / "model.json").read_bytes())
    assert load_trained(run)[1] == load_trained(model_folder)[1]


@pytest.mark.parametrize(
    ("count", "nouns", "expected"),
    [
        (0, ("file",), "0 files"),
        (1, ("file",), "1 file"),
        (1234, ("file",), "1,234 files"),
        (1, ("entry", "entries"), "1 entry"),
        (2, ("entry", "entries"), "2 entries"),
    ],
)
def test_a_count_has_the_matching_noun(count: int, nouns: tuple[str, ...], expected: str) -> None:
    assert counted(count, *nouns) == expected
