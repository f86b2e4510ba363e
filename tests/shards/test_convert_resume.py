"""Conversions that are killed, stopped, or meet a full disk, and what the next one makes of it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fasttrain import files as atomic
from fasttrain.errors import UserError
from fasttrain.shards import parts
from fasttrain.shards.convert import convert
from fasttrain.shards.layout import shard_name
from tests.support.patience import PATIENCE, wait_until

SCRIPT = """
import importlib, sys, time
from fasttrain.errors import Stopped
from fasttrain.shards import parts
from fasttrain.stop import StopRequest
module = importlib.import_module("fasttrain.shards.convert")
asked, read, normalize = [], [], parts.normalize
class Recorded(StopRequest):
    def __enter__(self):
        asked.append(self)
        return super().__enter__()
def pausing(*arguments, **options):
    read.append(1)
    while len(read) > 10 and asked[0].requested is None:  # two shards are there, and half of the third
        time.sleep(0.001)
    return normalize(*arguments, **options)
parts.normalize, module.StopRequest = pausing, Recorded
try:
    module.convert(sys.argv[1], sys.argv[2], shard_size=4, workers=1)
except Stopped as stopped:
    print(stopped)
    sys.exit(stopped.exit_code)
except KeyboardInterrupt:
    sys.exit(130)
"""


def undisturbed(source: Path, out: Path, **options) -> None:
    convert(source, out, **{"shard_size": 4, "workers": 2, "progress": False, **options})


def interrupted(source: Path, out: Path, number: signal.Signals) -> tuple[int, str]:
    """Sends the signal once two shards are there; the process waits for it in the third."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(source), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(lambda: len(list(out.glob(".parts/train-*.json"))) >= 2 or process.poll() is not None)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(number)
    said, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, " ".join(said.split())


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=["kill", "term", "int"]
)
@pytest.mark.slow
def test_stopped_and_resumed_gives_the_same_bytes(mixed, tmp_path, folder_of, monkeypatch, number, code) -> None:
    undisturbed(mixed, tmp_path / "whole")
    out = tmp_path / "out"
    returned, said = interrupted(mixed, out, number)
    assert returned == code
    assert not (out / "manifest.json").exists()
    if number != signal.SIGKILL:
        assert "run the same command again to resume" in said
        assert not list(out.glob(".*.tmp"))
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("train-*.tar")}
    (out / ".train-00009.tar.00000000.1.tmp").touch()
    read = []
    normalize = parts.normalize
    monkeypatch.setattr(parts, "normalize", lambda data, **options: read.append(1) or normalize(data, **options))
    undisturbed(mixed, out)
    assert len(read) <= 28 - 2 * 4
    assert folder_of(out) == folder_of(tmp_path / "whole")
    for name in ("train-00000.tar", "train-00001.tar"):
        assert (out / name).stat().st_mtime_ns == finished[name]


@pytest.mark.slow
def test_a_torn_shard_is_made_again(mixed, tmp_path, folder_of) -> None:
    undisturbed(mixed, tmp_path / "whole")
    out = tmp_path / "out"
    interrupted(mixed, out, signal.SIGKILL)
    (out / "train-00000.tar").write_bytes(b"torn")
    (out / ".parts" / "train-00001.json").write_text('{"bytes":')
    undisturbed(mixed, out)
    assert folder_of(out) == folder_of(tmp_path / "whole")


@pytest.mark.slow
def test_other_settings_or_source_need_overwrite(mixed, tmp_path, folder_of) -> None:
    out = tmp_path / "out"
    interrupted(mixed, out, signal.SIGKILL)
    with pytest.raises(UserError, match=r"seed = 0, not 1.*--overwrite"):
        undisturbed(mixed, out, seed=1)
    undisturbed(mixed, out, seed=1, overwrite=True)
    with pytest.raises(UserError, match=r"shard_size = 4, not 5.*--overwrite, or another --out"):
        undisturbed(mixed, out, seed=1, shard_size=5)
    (mixed / "dog" / "new.jpg").write_bytes((mixed / "dog" / "01.jpg").read_bytes())
    with pytest.raises(UserError, match="other photographs"):
        undisturbed(mixed, out, seed=1)
    undisturbed(mixed, out, shard_size=20, overwrite=True)
    undisturbed(mixed, tmp_path / "fresh", shard_size=20)
    assert folder_of(out) == folder_of(tmp_path / "fresh")  # and no shard of the larger number before


@pytest.mark.slow
def test_a_photograph_touched_in_between_starts_over_and_says_so(mixed, tmp_path, folder_of, capfd) -> None:
    undisturbed(mixed, tmp_path / "whole")
    out = tmp_path / "out"
    interrupted(mixed, out, signal.SIGKILL)
    done = 4 * len(list(out.glob(".parts/train-*.json")))
    assert done >= 8
    (mixed / "dog" / "11.jpg").touch()
    capfd.readouterr()
    undisturbed(mixed, out, progress=True)
    said = " ".join(capfd.readouterr().err.split())
    assert "photographs were modified since the conversion stopped; all are converted again" in said
    assert f"including {done} finished ones" in said
    assert "resuming in" not in said
    assert folder_of(out) == folder_of(tmp_path / "whole")


def test_shards_of_any_number_are_replaced_and_other_files_stay(mixed, tmp_path, folder_of) -> None:
    out = tmp_path / "out"
    undisturbed(mixed, out)
    ours = [f"{shard_name(0, 100_000)}.tar", f"{shard_name(1, 100_000)}.idx", f"{shard_name(2, 123_456_789)}.tar"]
    others = ["train-0000.tar", "train-1234567890.tar", "train-00000.txt", "my-train-00000.tar"]
    for name in ours + others:
        (out / name).touch()
    undisturbed(mixed, out, seed=1, overwrite=True)
    undisturbed(mixed, tmp_path / "fresh", seed=1)
    assert folder_of(out) == {**folder_of(tmp_path / "fresh"), **dict.fromkeys(others, b"")}


def test_complete_shards_are_left_alone(mixed, tmp_path, capfd) -> None:
    out = tmp_path / "out"
    undisturbed(mixed, out)
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    result = convert(mixed, out, shard_size=4, workers=1)
    assert result.already and result.photos == 0
    assert "nothing to do" in " ".join(capfd.readouterr().err.split())
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == times


@pytest.mark.parametrize(("code", "said"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "no permission")])
def test_a_disk_that_fails_is_one_line_and_can_be_gone_on_from(
    mixed, tmp_path, folder_of, monkeypatch, code, said
) -> None:
    undisturbed(mixed, tmp_path / "whole")
    synced, fsync = [], os.fsync

    def fails_in_the_end(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 12:
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", fails_in_the_end)
    with pytest.raises(UserError, match=said) as caught:
        undisturbed(mixed, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob(".*.tmp"))
    monkeypatch.setattr(atomic.os, "fsync", fsync)
    undisturbed(mixed, tmp_path / "out")
    assert folder_of(tmp_path / "out") == folder_of(tmp_path / "whole")


def test_two_at_once_do_not_mix(mixed, tmp_path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(mixed), str(out)], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: bool(list(out.glob(".parts/train-*.json"))) or process.poll() is not None)
        with pytest.raises(UserError, match="another fasttrain convert"):
            undisturbed(mixed, out)
    finally:
        process.kill()
        process.wait()


def test_unreadable_files_are_broken_ones(mixed, tmp_path, monkeypatch) -> None:
    read = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path.name == "07.jpg":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    undisturbed(mixed, tmp_path / "out")
    assert "dog/07.jpg\tcan't be read: Permission denied\n" in (tmp_path / "out" / "rejected.tsv").read_text()
