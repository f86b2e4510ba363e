"""Tables and plain lists as sources: which column is which, where photographs lie, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fasttrain.errors import UserError
from fasttrain.extras import install
from fasttrain.photos.source import Source, SourceOptions
from fasttrain.photos.sources import open_source

PATHS = ("a.jpg", "sub/b c.png", "sub/d.JPG", "e.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four files that begin as JPEGs do, of different sizes, and `elsewhere/`."""
    for number, path in enumerate(PATHS):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"\xff\xd8\xff" + bytes(number))
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


def opened(file: Path, text: str | bytes | None = None, **options: str | Path | bool) -> Source:
    if text is not None:
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    return open_source(file, options=SourceOptions(**options))


def refused(file: Path, text: str | bytes | None = None, **options: str | Path | bool) -> str:
    with pytest.raises(UserError) as caught:
        opened(file, text, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def labels(source: Source) -> dict[str, str]:
    return {path: source.classes[label] for path, label in zip(source.paths, source.labels, strict=True)}


EXPECTED = {"a.jpg": "cat", "sub/b c.png": "dog", "sub/d.JPG": "cat", "e.jpg": "dog"}
ROWS = list(EXPECTED.items())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "image,label\n" + "".join(f"{path},{name}\n" for path, name in ROWS)),
        ("t.csv", "Image Path;Class\r\n" + "".join(f"{path};{name}\r\n" for path, name in ROWS)),
        ("t.tsv", "species\tfilename\n" + "".join(f"{name}\t{path}\n" for path, name in ROWS)),
        ("t.csv", "\ufefffile,category\n" + "".join(f'"{path}","{name}"\n' for path, name in ROWS)),
        ("t.csv", ("photo\ttarget\n" + "".join(f"{path}\t{name}\n" for path, name in ROWS)).encode("utf-16")),
        ("t.csv", "".join(f"{path}, {name}\n" for path, name in ROWS)),
        ("t.txt", "".join(f"{path} {name}\n" for path, name in ROWS)),
        ("t.txt", "# a list\n" + "".join(f"./{path}\t{name}\n" for path, name in ROWS)),
        ("t.lst", "".join(f"{number}\t{name}\t{path}\n" for number, (path, name) in enumerate(ROWS))),
        ("t.txt", "".join(f"{name} {path}\n" for path, name in ROWS)),
        ("t.jsonl", "".join(json.dumps({"file_name": path, "label": name}) + "\n" for path, name in ROWS)),
        ("t.ndjson", "".join(json.dumps({"label": [name], "x": 1, "path": path}) + "\n\n" for path, name in ROWS)),
        ("t.csv", "path,label\n" + "".join(f"{path},{name}\n".replace("/", "\\") for path, name in ROWS)),
        ("t.csv", "classid,filepaths,labels\n" + "".join(f"{ord(name[0])},{path},{name}\n" for path, name in ROWS)),
        (
            "t.csv",
            "path,url,label\n" + "".join(f"{path},x.org/{name}.jpg,{name}\n" for path, name in ROWS),
        ),
    ],
)
def test_columns_are_told_by_their_names_and_content(folder, name, text) -> None:
    source = opened(folder / name, text)
    assert labels(source) == EXPECTED
    assert (source.kind, source.name, source.root) == ("table", name, folder)
    assert source.splits.tolist() == [-1] * 4 and not source.ignored
    assert source.notes[0].startswith(f"{name}: path = ")


def test_parquet(folder) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "image_path": [path for path, _ in ROWS],
        "label": pa.array([name for _, name in ROWS]).dictionary_encode(),
        "split": ["train", "test", "train", None],
        "pixels": [b"x"] * 4,
    }
    pq.write_table(pa.table(columns), folder / "t.parquet")
    source = opened(folder / "t.parquet")
    assert labels(source) == EXPECTED
    assert dict(zip(source.paths, source.splits.tolist(), strict=True))["sub/b c.png"] == 2
    numbers = {**columns, "label": [0.0, 1.0, 0.0, 1.0]}
    pq.write_table(pa.table(numbers), folder / "n.parquet")
    assert opened(folder / "n.parquet").classes == ("0", "1")
    assert "not a readable Parquet file" in refused(folder / "bad.parquet", "not parquet")


def test_parquet_without_pyarrow_names_the_command(folder, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "needs pyarrow: " in (said := refused(folder / "t.parquet", "x")) and install("parquet") in said


def test_splits_and_groups_in_columns(folder) -> None:
    text = "path,label,subset,patient\na.jpg,cat,Training,p1\nsub/b c.png,dog,VAL,p2\n"
    text += "sub/d.JPG,cat,test,\ne.jpg,dog,train,p1\n"
    source = opened(folder / "t.csv", text, group_by="patient")
    assert dict(zip(source.paths, source.splits.tolist(), strict=True)) == {
        "a.jpg": 0,
        "sub/b c.png": 1,
        "sub/d.JPG": 2,
        "e.jpg": 0,
    }
    assert source.groups == ("p1", "p1", "p2", "") and source.settings == {"group_by": "patient"}
    without = opened(folder / "t.csv", text.replace("VAL", "train"))
    assert without.splits.tolist() == [-1, -1, -1, 2], "without validation photographs a share of train validates"
    assert "'later' is not a split" in refused(folder / "t.csv", text.replace("VAL", "later"))
    odd = "path,label,set\na.jpg,cat,holiday\ne.jpg,dog,home\n"
    assert opened(folder / "t.csv", odd).splits.tolist() == [-1, -1], "a column of other words is no split"
    assert "'holiday' is not a split" in refused(folder / "t.csv", odd, split_column="set")
    numbers = "path,label,part\na.jpg,cat,0\ne.jpg,dog,0\nsub/d.JPG,cat,1\n"
    assert opened(folder / "t.csv", numbers, split_column="part").splits.tolist() == [0, 0, 1]


def test_named_columns_win_and_wrong_ones_are_refused(folder) -> None:
    text = "image,label,coarse\n" + "".join(f"{path},{path},{name}\n" for path, name in ROWS)
    assert labels(opened(folder / "t.csv", text, label_column="Coarse")) == EXPECTED
    said = refused(folder / "t.csv", label_column="coarze")
    assert "has no column 'coarze', only image, label, coarse; did you mean 'coarse'?" in said
    both = "path,species,breed\na.jpg,cat,tabby\ne.jpg,dog,pug\nsub/d.JPG,cat,manx\n"
    assert "species or breed may be the label; give --label-column" in refused(folder / "t.csv", both)
    assert opened(folder / "t.csv", both, label_column="breed").classes == ("manx", "pug", "tabby")
    assert "none of its columns (path, colour) is named like a label" in refused(
        folder / "t.csv", "path,colour\na.jpg,red\ne.jpg,blue\n"
    )
    assert "looks like paths; give --path-column" in refused(folder / "t.csv", "x,label\n1,red\n2,blue\n")
    assert labels(opened(folder / "t.txt", "a.jpg x cat\ne.jpg y dog\n", label_column="3")) == {
        "a.jpg": "cat",
        "e.jpg": "dog",
    }


def test_numbers_and_a_file_of_class_names(folder) -> None:
    text = "a.jpg, 10, 0\ne.jpg, 9, 0\n"
    source = opened(folder / "t.txt", text)
    assert source.classes == ("9", "10"), "in the order of numbers"
    assert "extra labels: 3" in source.notes[0]
    names = folder / "names.txt"
    names.write_text("cat\ndog\nowl\n")
    source = opened(folder / "t.txt", "a.jpg 2\ne.jpg 0\n", class_names=names)
    assert source.classes == ("cat", "owl") and labels(source) == {"a.jpg": "owl", "e.jpg": "cat"}
    assert "line 2: label '3' is not one of the 3 --class-names" in refused(
        folder / "t.txt", "a.jpg 2\ne.jpg 3\n", class_names=names
    )
    names.write_text("1 001.Cat\n2 002.Dog\n")
    source = opened(folder / "t.txt", "a.jpg 2\ne.jpg 1\n", class_names=names)
    assert labels(source) == {"a.jpg": "002.Dog", "e.jpg": "001.Cat"}
    for wrong, said in (("cat\ncat\n", "listed twice"), ("1 a\n3 b\n", "don't count"), ("", "no names")):
        names.write_text(wrong)
        assert said in refused(folder / "t.txt", class_names=names)


def test_paths_start_from_the_table_or_the_root(folder) -> None:
    text = "path,label\na.jpg,cat\nsub/d.JPG,dog\n"
    table = folder / "elsewhere" / "t.csv"
    said = refused(table, text)
    assert "it lists 2 photographs, but none exists" in said and "give --root" in said
    assert opened(table, root=folder).paths == ("a.jpg", "sub/d.JPG")
    assert "--root" in refused(table, root=folder / "nowhere")
    above = opened(table, "path,label\n../a.jpg,cat\n../sub/d.JPG,dog\n")
    assert above.root == folder and above.paths == ("a.jpg", "sub/d.JPG")
    absolute = opened(table, f"path,label\n{folder}/a.jpg,cat\n{folder}/sub/d.JPG,dog\n")
    assert (absolute.root, absolute.paths) == (folder, ("a.jpg", "sub/d.JPG"))
    ids = opened(folder / "ids.csv", "id,breed\na,cat\ne,dog\n")
    assert ids.paths == ("a.jpg", "e.jpg")
    assert above.read(0) == (folder / "a.jpg").read_bytes()


def test_nothing_of_a_table_is_lost_in_silence(folder) -> None:
    text = "path,label\na.jpg,cat\n./a.jpg,cat\nsub/d.JPG,\ne.jpg,dog\ngone.jpg,dog\n"
    source = opened(folder / "t.csv", text)
    assert source.paths == ("a.jpg", "e.jpg", "gone.jpg")  # convert lists the missing one as broken
    assert dict(source.ignored) == {"a.jpg": "named again in line 3 of t.csv", "sub/d.JPG": "no label in t.csv"}
    assert "line 3: a.jpg is 'dog' here, but 'cat' in line 2" in refused(
        folder / "t.csv", "path,label\na.jpg,cat\na.jpg,dog\n"
    )
    assert "line 2: https://x.org/a.jpg is a URL" in refused(folder / "t.csv", "path,label\nhttps://x.org/a.jpg,cat\n")
    assert "line 2: 3 cells, but 2 columns" in refused(folder / "t.csv", "path,label\na.jpg,cat,big\n")
    assert "is a quote missing?" in refused(folder / "t.csv", 'path,label\n"a.jpg,cat\ne.jpg,dog\n')
    assert "holds no rows" in refused(folder / "t.csv", "\n\n")
    assert "line 2: not JSON" in refused(folder / "t.jsonl", '{"path": "a.jpg", "label": "cat"}\n{\n')
    assert "line 1: not a JSON object" in refused(folder / "t.jsonl", "[1]\n")
    two = '{"path": "a.jpg", "label": ["cat", "dog"]}\n'
    assert "line 1: 2 labels" in refused(folder / "t.jsonl", two, multi_label=False)
    assert "not UTF-8" in refused(folder / "t.csv", "path,label\na.jpg,crème\n".encode("cp1252"))
    assert "one class only" in refused(folder / "t.csv", "path,label\na.jpg,cat\ne.jpg,cat\n")


def test_a_changed_label_is_another_source(folder) -> None:
    text = "path,label\na.jpg,cat\ne.jpg,dog\nsub/d.JPG,cat\n"
    first = opened(folder / "t.csv", text).fingerprint
    assert opened(folder / "t.csv", text + "\n").fingerprint == first
    assert opened(folder / "t.csv", text.replace("JPG,cat", "JPG,dog")).fingerprint != first
