"""WebDataset's tars as sources: one, a folder and a pattern of them, and every way to label in them."""

from __future__ import annotations

import json
import math
import tarfile
from pathlib import Path

import pytest

from fasttrain.errors import UserError
from fasttrain.photos.source import Source, SourceOptions
from fasttrain.photos.sources import defines_splits, open_source
from tests.support.containers import write_tar

JPEG = b"\xff\xd8\xff"


def samples(ending: str, *labels: str, start: int = 0) -> dict[str, str | bytes]:
    made: dict[str, str | bytes] = {}
    for number, label in enumerate(labels, start):
        made[f"{number:04d}.jpg"] = JPEG + bytes([number])
        made[f"{number:04d}.{ending}"] = label
    return made


def opened(source: Path | str, **options: str | Path) -> Source:
    return open_source(source, options=SourceOptions(**options))


def labels(source: Source) -> dict[str, str]:
    return {path: source.classes[label] for path, label in zip(source.paths, source.labels, strict=True)}


def refused(source: Path | str, **options: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        opened(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("ending", ["cls", "txt", "label", "cls.txt"])
def test_labels_of_text(tmp_path, ending) -> None:
    source = opened(write_tar(tmp_path / "a.tar", samples(ending, "2", "10\n", "2")))
    assert source.kind == "webdataset" and source.classes == ("2", "10")
    assert labels(source) == {"0000.jpg": "2", "0001.jpg": "10", "0002.jpg": "2"}
    assert [source.read(row) for row in range(3)] == [JPEG + bytes([number]) for number in range(3)]


def test_numbers_with_class_names(tmp_path) -> None:
    made = write_tar(tmp_path / "a.tar", samples("cls", "2", "0", "2"))
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n")
    assert opened(made, class_names=tmp_path / "names.txt").labels.tolist() == [1, 0, 1]
    assert opened(made, class_names=tmp_path / "names.txt").classes == ("cat", "owl")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    assert "0000.jpg: label '2' is not one of the 2 --class-names" in refused(made, class_names=tmp_path / "names.txt")


def test_labels_in_json(tmp_path) -> None:
    said = [{"label": 1, "class_name": "owl", "width": 4}, {"label": 0, "class_name": "cat", "width": 5}]
    made = write_tar(tmp_path / "a.tar", samples("json", *map(json.dumps, said)))
    assert labels(opened(made)) == {"0000.jpg": "owl", "0001.jpg": "cat"}
    assert "a.tar: label = class_name; extra labels: label, width" in opened(made).notes
    assert opened(made).extra == {"label": [1, 0], "width": [4, 5]}
    assert opened(made, label_column="width").extra == {"label": [1, 0], "class_name": ["owl", "cat"]}
    assert opened(made, label_column="label").classes == ("0", "1")
    assert opened(made, label_column="width").classes == ("4", "5")
    assert "has no label 'labell', only" in refused(made, label_column="labell")
    two = [{"species": "owl", "category": "bird"}, {"species": "hawk", "category": "bird"}]
    made = write_tar(tmp_path / "b.tar", samples("json", *map(json.dumps, two)))
    assert "category or species may be the label; give --label-column" in refused(made)
    assert opened(made, label_column="species").classes == ("hawk", "owl")


def test_further_keys_of_the_json_are_extra_labels(tmp_path) -> None:
    said = [
        {"caption": "an owl", "width": 4, "score": 0.5, "tags": ["a", "b"], "box": {"top": 1}, "sharp": True},
        {"caption": "a cat", "width": 5, "score": math.nan, "more": None},
    ]
    made = samples("cls", "1", "0", "1") | {f"{n:04d}.json": json.dumps(each) for n, each in enumerate(said)}
    source = opened(write_tar(tmp_path / "a.tar", made))
    assert source.classes == ("0", "1") and source.extra == {
        "caption": ["an owl", "a cat", None],
        "width": [4, 5, None],
        "score": [0.5, None, None],
        "tags": [["a", "b"], None, None],
        "box": [{"top": 1}, None, None],
        "sharp": [True, None, None],
        "more": [None, None, None],
    }
    assert "extra labels: caption, width, score, tags, box, sharp, more" in source.notes[0]
    changed = made | {"0001.json": json.dumps({**said[1], "width": 6})}
    assert opened(write_tar(tmp_path / "a.tar", changed)).fingerprint != source.fingerprint


def test_the_cls_decides_and_names_are_taken_where_they_are_the_same_classes(tmp_path) -> None:
    members = samples("cls", "3", "7", "3")
    captions = {f"{number:04d}.txt": text for number, text in enumerate(("one", "two", "three"))}
    assert opened(write_tar(tmp_path / "a.tar", members | captions)).classes == ("3", "7")
    names = {f"{number:04d}.txt": text for number, text in enumerate(("cat", "dog", "cat"))}
    assert opened(write_tar(tmp_path / "b.tar", members | names)).classes == ("cat", "dog")


def test_captions_are_no_classes(tmp_path) -> None:
    made = write_tar(tmp_path / "a.tar", samples("txt", *(f"a photo of {number}" for number in range(30))))
    assert "each photograph has its own txt, so it is not a class" in refused(made)


def test_what_is_left_out_is_listed(tmp_path) -> None:
    members = samples("cls", "cat", "dog") | {
        "a/5.jpg": JPEG,
        "a/6.cls": "cat",
        "0000.seg.png": JPEG,
        "0001.mp3": b"sound",
        "0001.json": "{",
        "7.html.jpg.cls": "cat",
        ".hidden.jpg": JPEG,
    }
    made = write_tar(tmp_path / "a.tar", members)
    with tarfile.open(made, "a") as archive:
        for kind, name in ((tarfile.SYMTYPE, "8.jpg"), (tarfile.LNKTYPE, "9.jpg"), (tarfile.DIRTYPE, "folder")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "0001.jpg"
            archive.addfile(info)
        archive.addfile(info := tarfile.TarInfo("9.cls"))
    source = opened(made)
    assert labels(source) == {"0000.jpg": "cat", "0001.jpg": "dog"}
    assert dict(source.ignored) == {
        "a/5.jpg": "no label next to it (.cls, .txt or .json)",
        "a/6.cls": "a label without a photograph",
        "0000.seg.png": "another photograph with this key is used: 0000.jpg",
        "0001.mp3": "not a photograph (.mp3)",
        "0001.json": "not readable JSON",
        "7.html.jpg.cls": "not a photograph (.cls)",
        "8.jpg": "not a regular file",
        "9.jpg": "cls: no label, or several",
    }


def folder_of_tars(root: Path) -> Path:
    for split, numbers in (("train", (0, 1, 2)), ("val", (3,))):
        for number in numbers:
            members = samples("cls", "cat", "dog", start=2 * number)
            write_tar(root / f"imagenet1k-{split}-{number:03d}.tar", members)
    (root / "README.md").write_text("text")
    return root


def test_a_folder_of_tars_with_splits_by_their_names(tmp_path) -> None:
    source = opened(folder_of_tars(tmp_path / "shards"))
    assert source.kind == "webdataset" and source.splits.tolist() == [0] * 6 + [1] * 2
    assert source.paths[0] == "imagenet1k-train-000.tar/0000.jpg"
    assert dict(source.ignored) == {"README.md": "not a file that holds photographs"}
    assert "by the files' names: 6 training, 2 validation" in source.notes
    assert defines_splits(tmp_path / "shards")
    (tmp_path / "shards" / "imagenet1k-val-003.tar").unlink()
    assert not defines_splits(tmp_path / "shards")
    write_tar(tmp_path / "shards" / "extra.tar", samples("cls", "cat", "dog"))
    assert "train-000.tar is named after a split, but extra.tar isn't; rename it" in refused(tmp_path / "shards")


def test_folders_of_tars_name_splits_too(tmp_path) -> None:
    for split in ("train", "test"):
        write_tar(tmp_path / "data" / split / "000.tar", samples("cls", "cat", "dog"))
    source = opened(tmp_path / "data")
    assert dict(zip(source.paths, source.splits.tolist(), strict=True)) == {
        **{f"test/000.tar/000{number}.jpg": 2 for number in range(2)},
        **{f"train/000.tar/000{number}.jpg": -1 for number in range(2)},
    }


def test_patterns_of_tars(tmp_path) -> None:
    root = folder_of_tars(tmp_path / "shards")
    source = opened(f"{root}/imagenet1k-train-{{000..002}}.tar")
    assert len(source.paths) == 6 and set(source.splits.tolist()) == {-1}
    both = opened(f"{root}/imagenet1k-{{train-{{000..001}},val-003}}.tar")
    assert len(both.paths) == 6 and both.splits.tolist() == [0] * 4 + [1] * 2
    write_tar(tmp_path / "0.tar", {"cat/1.jpg": JPEG})
    assert "no photograph has a label next to it; add KEY.cls" in refused(f"{tmp_path}/{{0..0}}.tar")
    assert "imagenet1k-train-003.tar does not exist" in refused(f"{root}/imagenet1k-train-{{000..003}}.tar")


def test_class_folders_beside_a_tar_stay_class_folders(tmp_path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(JPEG)
    write_tar(tmp_path / "backup.tar", samples("cls", "0"))
    for name in ("cat", "dog"):
        (tmp_path / name / "folder.tar").mkdir()
        write_tar(tmp_path / name / ".hidden.tar", samples("cls", "0"))
    assert opened(tmp_path).kind == "folder"


def test_class_folders_with_notes_beside_photographs_are_no_webdataset(tmp_path) -> None:
    members = {"cat/1.jpg": JPEG, "cat/1.txt": "note", "dog/2.jpg": JPEG, "dog/2.json": "{}"}
    made = write_tar(tmp_path / "a.tar", members)
    assert opened(made).kind == "archive" and opened(made).classes == ("cat", "dog")


def test_a_gzipped_and_a_damaged_tar(tmp_path) -> None:
    made = write_tar(tmp_path / "a.tar.gz", samples("cls", "cat", "dog"), "w:gz")
    assert labels(opened(made)) == {"0000.jpg": "cat", "0001.jpg": "dog"} and opened(made).read(1) == JPEG + b"\1"
    members = samples("cls", *["cat", "dog"] * 40)
    made = write_tar(tmp_path / "b.tar", members)
    made.write_bytes(made.read_bytes()[: 150 * 1024])
    assert "b.tar: the tar is damaged after" in refused(made)


def test_another_label_is_another_source(tmp_path) -> None:
    before = opened(write_tar(tmp_path / "a.tar", samples("cls", "0", "1", "1")))
    after = opened(write_tar(tmp_path / "a.tar", samples("cls", "0", "0", "1")))
    assert before.fingerprint != after.fingerprint
