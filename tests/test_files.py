"""Files that are whole or absent: what is there at each moment, and what is left of a write that failed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fasttrain import files as atomic
from fasttrain.files import (
    atomic_folder,
    atomic_write,
    atomic_write_bytes,
    clear_temporaries,
    make_folder,
    require_place,
)

HERE = atomic._here()


@pytest.fixture
def acts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Record the operations on the disk, in order: ("fsync" or "replace", name)."""
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        done.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        done.append(("replace", Path(target).name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    return done


@pytest.fixture
def dead() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_on_the_disk_before_it_takes_its_name_and_the_folder_after(tmp_path, acts):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
        temporary = f".a.bin.{HERE}.{os.getpid()}.tmp"
        assert names(tmp_path) == [temporary, "a.bin"]
    assert path.read_bytes() == b"new" and names(tmp_path) == ["a.bin"]
    assert acts == [("fsync", temporary), ("replace", "a.bin"), ("fsync", tmp_path.name)]
    atomic_write_bytes(path, b"newer")
    assert path.read_bytes() == b"newer"


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, OSError])
def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, kind):
    error = kind(errno.ENOSPC, "full")
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(kind) as caught, atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a.bin"]
    assert getattr(caught.value, "filename", None) == (str(path) if kind is OSError else None)


def test_errors_name_the_file_that_was_to_be(tmp_path):
    path = tmp_path / "none" / "a.bin"
    with pytest.raises(FileNotFoundError) as caught:
        atomic_write_bytes(path, b"")
    assert caught.value.filename == str(path)
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "b") as file:
        file.write(b"x")
        raise OSError(errno.EACCES, "no", "/another/file")
    assert caught.value.filename == "/another/file"


def test_what_killed_processes_left_goes_and_what_is_being_written_stays(tmp_path, dead):
    atomic._abandoned_in.cache_clear()
    ours = (f".a.bin.{HERE}.{dead}.tmp", f".b.bin.{HERE}.{dead}.tmp", f".a.bin.{HERE}.{os.getppid()}.tmp")
    for name in (*ours, ".a.bin.tmp", "a.1.tmp"):
        (tmp_path / name).touch()
    (tmp_path / f".c.{HERE}.{dead}.tmp").mkdir()
    (tmp_path / f".c.{HERE}.{dead}.tmp" / "inside").touch()
    atomic_write_bytes(tmp_path / "a.bin", b"")
    assert f".a.bin.{HERE}.{dead}.tmp" not in names(tmp_path) and f".b.bin.{HERE}.{dead}.tmp" in names(tmp_path)
    with atomic_folder(tmp_path / "c") as folder:
        (folder / "c").touch()
    assert names(tmp_path) == sorted(
        [f".b.bin.{HERE}.{dead}.tmp", f".a.bin.{HERE}.{os.getppid()}.tmp", ".a.bin.tmp", "a.1.tmp", "a.bin", "c"]
    )
    alive = tmp_path / f".d.{HERE}.{os.getppid()}.tmp"
    alive.mkdir()
    clear_temporaries(tmp_path)
    assert names(tmp_path) == sorted([".a.bin.tmp", "a.1.tmp", "a.bin", "c", alive.name])
    clear_temporaries(tmp_path / "none")


def test_what_another_machine_writes_stays_for_a_day(tmp_path, dead):
    """Its process numbers say nothing here."""
    atomic._abandoned_in.cache_clear()
    files = [tmp_path / f".a.bin.{place}.{dead}.tmp" for place in ("00000000", "ffffffff")]
    for path in files:
        path.touch()
    yesterday = time.time() - 90_000
    os.utime(files[1], (yesterday, yesterday))
    atomic_write_bytes(tmp_path / "a.bin", b"")
    assert names(tmp_path) == sorted([files[0].name, "a.bin"])
    folders = [tmp_path / f".c.00000000.{number}.tmp" for number in (1, 2)]
    for path in folders:
        path.mkdir()
    os.utime(folders[1], (yesterday, yesterday))
    clear_temporaries(tmp_path)
    assert names(tmp_path) == sorted([folders[0].name, "a.bin"])


def test_a_folder_of_files_comes_with_its_own_name_last(tmp_path, acts):
    for name in ("m.idx", "z.idx", "m.tar"):
        (tmp_path / name).write_text("old")
    with atomic_folder(tmp_path / "m.tar") as folder:
        for name in ("m.tar", "m.idx", "z.idx"):
            (folder / name).write_text("new")
        assert {(tmp_path / name).read_text() for name in ("m.idx", "z.idx", "m.tar")} == {"old"}
    assert [name for act, name in acts if act == "replace"][-1] == "m.tar"
    kinds = [act for act, _ in acts]
    assert kinds == ["fsync"] * 3 + ["replace"] * 3 + ["fsync"] and acts[-1][1] == tmp_path.name
    assert {(tmp_path / name).read_text() for name in names(tmp_path)} == {"new"} and len(names(tmp_path)) == 3
    with pytest.raises(ValueError), atomic_folder(tmp_path / "m.tar") as folder:
        (folder / "m.tar").write_text("half")
        raise ValueError
    assert (tmp_path / "m.tar").read_text() == "new" and len(names(tmp_path)) == 3


def test_folders_are_made_with_those_above_them_and_each_is_fsynced(tmp_path, acts):
    make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert acts == [("fsync", tmp_path.name), ("fsync", "a"), ("fsync", "b")]
    make_folder(tmp_path / "a" / "b" / "c")
    assert len(acts) == 3
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        make_folder(tmp_path / "file")


def test_a_place_is_tried_without_leaving_anything(tmp_path):
    require_place(tmp_path / "x" / "y.bin")
    assert names(tmp_path) == ["x"] and names(tmp_path / "x") == []
    (tmp_path / "x" / "z.bin").write_bytes(b"old")
    require_place(tmp_path / "x" / "z.bin")
    assert (tmp_path / "x" / "z.bin").read_bytes() == b"old"
    with pytest.raises(IsADirectoryError) as caught:
        require_place(tmp_path / "x")
    assert (caught.value.errno, caught.value.filename) == (errno.EISDIR, str(tmp_path / "x"))
    assert caught.value.strerror == os.strerror(errno.EISDIR)
