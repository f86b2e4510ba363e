from __future__ import annotations

import functools
import hashlib
import socket
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fasttrain.errors import UserError
from fasttrain.photos.sources import open_source


def lay(root: Path, *paths: str) -> Path:
    """Files of different sizes that begin as JPEGs do, but for those whose names say text."""
    for number, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((b"text" if file.suffix in (".txt", ".json") else b"\xff\xd8\xff") + bytes(number))
    return root


def refused(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_source(str(root))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_class_folders(tmp_path) -> None:
    root = lay(
        tmp_path / "pets", "dog/2.jpg", "dog/1.PNG", "cat/deep/3.webp", "cat/note.txt", "loose.jpg", ".git/x/a.jpg"
    )
    (root / "empty").mkdir()
    lay(root, "cat/.hidden.jpg", "cat/__MACOSX/b.jpg", "dog/raw.txt")
    source = open_source(str(root))
    assert (source.kind, source.name, source.root) == ("folder", "pets", root)
    assert source.classes == ("cat", "dog")
    assert source.paths == ("cat/deep/3.webp", "dog/1.PNG", "dog/2.jpg")
    assert source.labels.tolist() == [0, 1, 1] and source.labels.dtype == np.int32
    assert source.splits.tolist() == [-1, -1, -1]
    assert dict(source.ignored) == {
        "cat/note.txt": "not a photograph (.txt)",
        "dog/raw.txt": "not a photograph (.txt)",
        "empty/": "empty class",
        "loose.jpg": "not in a class folder",
    }


def test_content_decides_where_the_name_is_unknown(tmp_path) -> None:
    root = lay(tmp_path, "a/photo.dat", "b/1.jpg")
    (root / "a" / "list.csv").write_text("x,y")
    source = open_source(root)
    assert source.paths == ("a/photo.dat", "b/1.jpg")
    assert source.ignored == (("a/list.csv", "not a photograph (.csv)"),)


def test_links_are_followed_once(tmp_path) -> None:
    root = lay(tmp_path / "root", "a/1.jpg", "b/1.jpg")
    elsewhere = lay(tmp_path / "elsewhere", "2.jpg")
    (root / "a" / "linked").symlink_to(elsewhere)
    (root / "a" / "round").symlink_to(root / "a")
    (root / "b" / "gone.jpg").symlink_to(root / "nothing.jpg")
    source = open_source(root)
    assert source.paths == ("a/1.jpg", "a/linked/2.jpg", "b/1.jpg")
    assert dict(source.ignored) == {
        "a/round/": "a link to a, which is read under its own name",
        "b/gone.jpg": "a broken link",
    }


@pytest.mark.parametrize(("folder", "split"), [("val", 1), ("validation", 1), ("valid", 1), ("test", 2)])
def test_split_folders(tmp_path, folder, split) -> None:
    root = lay(tmp_path, "train/a/1.jpg", "train/b/2.jpg", f"{folder}/a/3.jpg")
    source = open_source(root)
    assert source.classes == ("a", "b")
    found = dict(zip(source.paths, source.splits.tolist(), strict=True))
    # Only where the source has no validation photographs are they taken out of train/.
    undecided = 0 if split == 1 else -1
    assert found == {"train/a/1.jpg": undecided, "train/b/2.jpg": undecided, f"{folder}/a/3.jpg": split}


def test_a_class_called_train_is_a_class(tmp_path) -> None:
    assert open_source(lay(tmp_path, "train/1.jpg", "bus/2.jpg")).classes == ("bus", "train")


def test_food101_layout(tmp_path) -> None:
    root = lay(tmp_path, "images/pie/1.jpg", "images/pie/2.jpg", "images/soup/3.jpg", "images/soup/4.jpg")
    (root / "meta").mkdir()
    (root / "meta" / "train.txt").write_text("pie/1\nsoup/3\nsoup/5\n")
    (root / "meta" / "test.txt").write_text("pie/2\n")
    source = open_source(root)
    assert source.root == root / "images"
    assert source.paths == ("pie/1.jpg", "pie/2.jpg", "soup/3.jpg", "soup/5.jpg")  # 5 is missing: convert says so
    assert source.splits.tolist() == [-1, 2, -1, -1]
    assert source.ignored == (("soup/4.jpg", "not named in meta/train.txt or meta/test.txt"),)


def test_fingerprint_follows_names_sizes_and_splits(tmp_path) -> None:
    root = lay(tmp_path / "a", "x/1.jpg", "y/2.jpg")
    first = open_source(root).fingerprint
    assert first == open_source(lay(tmp_path / "b", "x/1.jpg", "y/2.jpg")).fingerprint
    (root / "y" / "2.jpg").write_bytes(bytes(99))
    assert open_source(root).fingerprint != first
    assert open_source(lay(tmp_path / "c", "x/1.jpg", "y/3.jpg")).fingerprint != first


def test_errors_are_one_line_with_the_fix(tmp_path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere")
    lay(tmp_path, "file.jpg")
    assert "is a file" in refused(tmp_path / "file.jpg")
    assert "1 photograph but no class folders" in refused(tmp_path)
    (tmp_path / "void").mkdir()
    assert "no class folders" in refused(tmp_path / "void")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    assert "no photographs" in refused(tmp_path / "empty")
    lay(tmp_path / "one", "all/cat/1.jpg", "all/dog/1.jpg")
    assert f"did you mean --source {tmp_path / 'one' / 'all'}?" in refused(tmp_path / "one")
    lay(tmp_path / "odd", "train/cat/1.jpg", "train/dog/1.jpg", "val/cow/1.jpg")
    assert "'cow'" in refused(tmp_path / "odd")
    lay(tmp_path / "two", "train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "valid/cat/1.jpg")
    assert "keep one" in refused(tmp_path / "two")
    lay(tmp_path / "shards", "manifest.json")
    assert "fasttrain train " in refused(tmp_path / "shards")


@pytest.fixture
def food101_server(tmp_path, monkeypatch) -> Iterator[Path]:
    """A Food-101 of three photographs, served over HTTP in its own archive; the archive's path."""
    from torchvision.datasets import Food101

    folder = tmp_path / "server"
    root = lay(folder / "food-101", "images/pie/1.jpg", "images/soup/2.jpg", "images/pie/3.jpg")
    (root / "meta").mkdir()
    (root / "meta" / "train.txt").write_text("pie/1\nsoup/2\n")
    (root / "meta" / "test.txt").write_text("pie/3\n")
    (root / "meta" / "train.json").write_text('{"pie": ["pie/1"], "soup": ["soup/2"]}')
    archive = folder / "food-101.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root, "food-101")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(SimpleHTTPRequestHandler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Food101, "_URL", f"http://127.0.0.1:{server.server_port}/food-101.tar.gz")
    monkeypatch.setattr(Food101, "_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    yield archive
    server.shutdown()
    server.server_close()


def test_food101_is_downloaded_checked_and_unpacked_once(food101_server, tmp_path) -> None:
    # A process that was killed while unpacking leaves this. torchvision would take it for the complete data set.
    lay(tmp_path / "cache" / "food-101.partial", "food-101/images/pie/1.jpg", "food-101/meta/train.txt")
    source = open_source("food101")
    assert (source.kind, source.paths) == ("food101", ("pie/1.jpg", "pie/3.jpg", "soup/2.jpg"))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["food-101"]
    food101_server.unlink()
    assert open_source("food101").fingerprint == source.fingerprint


def test_food101_with_a_wrong_checksum_is_refused_and_tried_again(food101_server) -> None:
    whole = food101_server.read_bytes()
    food101_server.write_bytes(whole[:-9])
    assert "corrupted" in refused("food101")
    food101_server.write_bytes(whole)
    assert open_source("food101").classes == ("pie", "soup")


def test_food101_without_a_network_names_the_other_ways(tmp_path, monkeypatch) -> None:
    from torchvision.datasets import Food101

    with socket.socket() as unanswered:  # bound, never listening: connections are refused at once
        unanswered.bind(("127.0.0.1", 0))
        monkeypatch.setattr(Food101, "_URL", f"http://127.0.0.1:{unanswered.getsockname()[1]}/food-101.tar.gz")
        monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
        said = refused("food101")
    assert "--source sample" in said and "--source DIR" in said
    assert not any((tmp_path / "cache").iterdir())
