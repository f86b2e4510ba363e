"""Tables with several classes a photograph: how the sets are read, when they are recognised, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasttrain.errors import UserError
from fasttrain.photos.label_bits import members
from fasttrain.photos.source import Source, SourceOptions
from fasttrain.photos.sources import open_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four files that begin as JPEGs do, of different sizes."""
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(b"\xff\xd8\xff" + bytes(number))
    return tmp_path


def opened(file: Path, text: str, **options: str | Path | bool) -> Source:
    file.write_text(text)
    return open_source(file, options=SourceOptions(**options))


def refused(file: Path, text: str, **options: str | Path | bool) -> str:
    with pytest.raises(UserError) as caught:
        opened(file, text, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sets(source: Source) -> list[set[str]]:
    assert source.multi_label
    return [{source.classes[each] for each in members(bits)} for bits in source.labels]


EXPECTED = [{"cat", "dog"}, {"cat"}, {"dog"}, set()]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("t.csv", "path,label\n0.jpg,cat|dog\n1.jpg,cat\n2.jpg,dog\n3.jpg,\n", None),
        ("t.csv", "path,label\n0.jpg,cat; dog\n1.jpg,cat\n2.jpg,dog\n3.jpg,\n", None),
        ("t.csv", 'path,label\n0.jpg,"cat, dog"\n1.jpg,cat\n2.jpg,dog\n3.jpg,\n', True),
        ("t.csv", "path,label\n0.jpg,cat dog\n1.jpg,cat\n2.jpg,dog\n3.jpg,\n", True),
        ("t.csv", 'path,label\n0.jpg,"[""cat"", ""dog""]"\n1.jpg,"[""cat""]"\n2.jpg,"[""dog""]"\n3.jpg,[]\n', None),
        ("t.csv", "path,label\n0.jpg,cat\n0.jpg,dog\n1.jpg,cat\n2.jpg,dog\n3.jpg,\n", True),
        ("t.csv", "path,cat,dog\n0.jpg,1,1\n1.jpg,1,0\n2.jpg,0,1\n3.jpg,0,0\n", None),
        ("t.csv", "path,cat,dog\n0.jpg,1,1\n1.jpg,1,-1\n2.jpg,-1,1\n3.jpg,-1,-1\n", None),
        ("t.csv", "id,split,cat,dog,age\n0,val,1,1,3\n1,train,1,0,1\n2,train,0,1,0\n3,train,0,0,7\n", None),
        (
            "t.jsonl",
            '{"path": "0.jpg", "labels": ["cat", "dog"]}\n{"path": "1.jpg", "labels": ["cat", "cat"]}\n'
            '{"path": "2.jpg", "labels": ["dog"]}\n{"path": "3.jpg", "labels": []}\n',
            None,
        ),
    ],
)
def test_sets_of_every_kind_of_table(folder, name, text, told) -> None:
    options = {} if told is None else {"multi_label": told}
    source = opened(folder / name, text, **options)
    assert source.classes == ("cat", "dog")
    assert sets(source) == EXPECTED
    assert any("multi-label" in note and "1 photograph without a class" in note for note in source.notes)
    assert "cat" not in source.extra


def test_single_labels_stay_single(folder) -> None:
    """A name may hold a separator; one 1 in each row is a single label; a list of one is one label."""
    names = opened(folder / "t.csv", "path,label\n0.jpg,bird|owl\n1.jpg,bird|tit\n2.jpg,bird|owl\n")
    assert names.classes == ("bird|owl", "bird|tit") and not names.multi_label
    assert "labels with '|', 3 of them, are read as one name each; --multi-label splits them" in names.notes
    spaces = opened(folder / "t.csv", "path,label\n0.jpg,apple pie\n1.jpg,apple\n2.jpg,pie\n")
    assert spaces.classes == ("apple", "apple pie", "pie")
    columns = opened(folder / "t.csv", "path,cat,dog\n0.jpg,1,0\n1.jpg,0,1\n2.jpg,1,0\n")
    assert columns.labels.tolist() == [0, 1, 0] and columns.classes == ("cat", "dog")
    lists = opened(folder / "t.jsonl", '{"path": "0.jpg", "label": ["a"]}\n{"path": "1.jpg", "label": ["b"]}\n')
    assert not lists.multi_label
    told = opened(folder / "t.csv", "path,label\n0.jpg,a|b\n1.jpg,a\n2.jpg,b\n", multi_label=False)
    assert told.classes == ("a", "a|b", "b")


def test_what_is_ambiguous_is_refused(folder) -> None:
    text = "path,finding,male,smoker\n0.jpg,cyst,1,1\n1.jpg,none,0,1\n2.jpg,cyst,0,0\n"
    assert "is named like a label; give --label-column, or --multi-label" in refused(folder / "t.csv", text)
    assert opened(folder / "t.csv", text, multi_label=True).classes == ("male", "smoker")
    text = "path,label\n0.jpg,a|b;c\n1.jpg,a\n2.jpg,b\n"
    assert "column label hold '|' and ';'; separate" in refused(folder / "t.csv", text, multi_label=True)
    twice = refused(folder / "t.csv", "path,label\n0.jpg,a\n0.jpg,b\n1.jpg,a\n")
    assert "remove one line, or give --multi-label" in twice
    (folder / "new.csv").write_text("path,label\n0.jpg,a\n")
    text = "path,label\n0.jpg,a|b\n1.jpg,a\n2.jpg,b\n"
    assert "--relabel" in refused(folder / "t.csv", text, relabel=folder / "new.csv")
    with pytest.raises(UserError, match="--multi-label True has no effect on --source sample"):
        open_source("sample", options=SourceOptions(multi_label=True))


def test_class_names_choose_and_order_the_columns(folder) -> None:
    (folder / "names.txt").write_text("dog\ncat\n")
    text = "path,cat,dog,indoor\n0.jpg,1,1,1\n1.jpg,1,0,1\n2.jpg,0,1,0\n3.jpg,0,0,0\n"
    source = opened(folder / "t.csv", text, class_names=folder / "names.txt")
    assert source.classes == ("dog", "cat") and sets(source) == EXPECTED
    assert source.extra == {"indoor": [1, 1, 0, 0]}
    numbers = "path,target\n0.jpg,1 0\n1.jpg,1\n2.jpg,0\n3.jpg,\n"
    source = opened(folder / "t.csv", numbers, class_names=folder / "names.txt", multi_label=True)
    assert sets(source) == EXPECTED


def test_a_class_without_photographs_is_named(folder) -> None:
    source = opened(folder / "t.csv", "path,cat,dog,emu\n0.jpg,1,1,0\n1.jpg,1,0,0\n2.jpg,0,1,0\n")
    assert source.classes == ("cat", "dog")
    assert "classes without a photograph, left out: emu" in source.notes


def test_a_changed_set_is_another_source(folder) -> None:
    text = "path,label\n0.jpg,a|b\n1.jpg,a\n2.jpg,b\n"
    first = opened(folder / "t.csv", text).fingerprint
    assert opened(folder / "t.csv", text.replace("a|b", "b|a")).fingerprint == first
    assert opened(folder / "t.csv", text.replace("1.jpg,a", "1.jpg,a|b")).fingerprint != first
