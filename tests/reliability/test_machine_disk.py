"""Disks that are full, have no room for another file, or take no larger ones; real ones, of a few kilobytes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.reliability.conftest import Fault
from tests.reliability.machine import Ended, Machine, Made

_WORKPLACE = re.compile(r"(\.parts/.+|\..+\.partial)$")  # files from which the same command resumes
_RESUMED = ("convert", "convert --format tar,beton", "convert --raw")

# The disk's kilobytes in the short run: all of them, and about half of what the command writes.
_SIZES = {
    "convert": (4, 1200),
    "convert --format tar,beton": (3000,),
    "convert --raw": (300,),
    "convert --part": (400,),
    "evaluate --out": (4,),
    "evaluate --report": (40,),
    "export torchscript": (700,),
    "export exported-program": (700,),
    "export onnx": (),
    "preview": (12,),
    "lr-find": (4,),
    "profile": (),
    "compare": (12,),
    "tune": (4, 300),
}


def left_over(held: dict[str, str]) -> list[str]:
    """Temporaries, which nobody will ever ask for."""
    hidden = [name for name in held if any(part[0] == "." for part in Path(name).parts)]
    return [name for name in hidden if not _WORKPLACE.search(name) and not name.endswith(".lock")]


def need_of(machine: Machine, line: list[str | Path], place: Path) -> int:
    """Bytes of the disk that an undisturbed command's files in `place` take: whole pages, and no holes."""
    ended = machine.run(*line)
    assert ended.code == 0, ended
    return sum((machine.inside(place) / name).stat().st_blocks * 512 for name in machine.holds(place))


def full_disks(machine: Machine, made: Made, command: str, fault: Fault) -> list[int]:
    """Sizes of disks too small for what `command` writes, in kilobytes."""
    if not fault.full:
        return list(_SIZES[command])
    place = machine.disk("64m")
    need = need_of(machine, made.commands(place)[command], place) // 1024
    machine.unmount(place)
    return sorted({4 + need * step // 10 // 4 * 4 for step in range(10)})


def refused(ended: Ended, disk: Path) -> None:
    assert ended.code == 2, ended
    assert str(disk) in ended.said and "the disk is full" in ended.said, ended.said


@pytest.mark.parametrize("command", list(_SIZES))
def test_full_disk(machine: Machine, made: Made, fault: Fault, command: str) -> None:
    sizes = full_disks(machine, made, command, fault)
    if not sizes:
        pytest.skip("at full length only: it takes long")
    failed = 0
    for size in sizes:
        disk = machine.disk(f"{size}k")
        (machine.inside(disk) / "before").write_bytes(b"was here")  # a page, of the smallest disk all there is
        ended = machine.run(*made.commands(disk)[command])
        held = machine.holds(disk)
        assert (machine.inside(disk) / "before").read_bytes() == b"was here"
        assert not left_over(held), held
        if ended.code:
            failed += 1
            if command == "tune" and size < 200:  # SQLite names no sizes
                assert ended.code == 2 and "disk is full" in ended.said and str(disk) in ended.said, ended
            else:
                refused(ended, disk)
            whole = [name for name in held if "shards/" in name and name.endswith("manifest.json")]
            assert not whole or command.endswith("beton"), held
        machine.unmount(disk)
    assert failed >= min(len(sizes), 5)
    fault.seen("the disk is full", f"`fasttrain {command}` onto disks of {sizes[0]} to {sizes[-1]} kB", failed)


@pytest.mark.parametrize("command", _RESUMED)
def test_more_room_and_the_same_command_goes_on(machine: Machine, made: Made, fault: Fault, command: str) -> None:
    whole = machine.disk("64m")
    assert machine.run(*made.commands(whole)[command]).code == 0
    expected = machine.holds(whole)
    sizes = full_disks(machine, made, command, fault)[-fault.times(short=1, full=6) :]
    for size in sizes:
        disk = machine.disk(f"{size}k")
        line = made.commands(disk)[command]
        ended = machine.run(*line)
        refused(ended, disk)
        assert "again to resume" in ended.said
        machine.resize(disk, "64m")
        assert machine.run(*line).code == 0
        assert machine.holds(disk) == expected
        machine.unmount(disk)
    machine.unmount(whole)
    fault.seen("the disk is full, then has room again", f"`fasttrain {command}`, and again", len(sizes))


def test_train_on_a_full_disk_goes_on(machine: Machine, made: Made, fault: Fault) -> None:
    """Wherever the room ends: one line, and with more room the run resumes, or begins again where it had no epoch."""
    sizes = range(100, 12_000, 500) if fault.full else (1500, 9400)
    failed = 0
    for size in sizes:
        disk = machine.disk(f"{size}k")
        line = [*made.train(), "--epochs", "2", "--no-track", "--out", disk / "runs"]
        ended = machine.run(*line)
        assert not left_over(machine.holds(disk))
        machine.resize(disk, "64m")
        (folder,) = (machine.inside(disk) / "runs").iterdir()
        if ended.code:
            failed += 1
            refused(ended, disk)
            assert not (folder / "evaluation.json").exists()
            resumable = any((folder / "checkpoints").iterdir())
            assert ("--resume" in ended.said) == resumable
            if resumable:
                ended = machine.run("train", "--resume", disk / "runs" / folder.name)
                assert ended.code == 0 and (folder / "evaluation.json").exists(), ended
        else:  # room for the run, not for all of its pictures
            assert (folder / "evaluation.json").exists()
            assert (folder / "report.html").exists() or "the report could not be written" in ended.out, ended
        machine.unmount(disk)
    assert failed >= 2
    fault.seen(
        "the disk is full", "`fasttrain train` onto disks of growing sizes; then more room, and --resume", failed
    )


def test_train_whose_pictures_find_no_room(machine: Machine, made: Made, fault: Fault) -> None:
    disk = machine.disk("64m")
    line = [*made.train(), "--no-track", "--out", disk / "runs"]
    need = need_of(machine, line, disk)
    (folder,) = (machine.inside(disk) / "runs").iterdir()
    pictures = sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.glob("*.png"))
    page = -(-(folder / "report.html").stat().st_size // 4096) * 4096
    times = fault.times(short=1, full=2)
    for left_out in (page + pictures // 2, page // 2)[:times]:
        small = machine.disk(need - left_out)
        ended = machine.run(*made.train(), "--no-track", "--out", small / "runs")
        assert ended.code == 0 and "the report could not be written" in ended.out and "disk is full" in ended.out, ended
        (folder,) = (machine.inside(small) / "runs").iterdir()
        assert {"evaluation.json", "model.safetensors"} <= {path.name for path in folder.iterdir()}
        assert not left_over(machine.holds(small))
        machine.unmount(small)
    machine.unmount(disk)
    fault.seen(
        "the disk is full when the run's report is written", "`fasttrain train`; the run ends well, and says so", times
    )


def test_merge_on_a_full_disk(machine: Machine, made: Made, fault: Fault) -> None:
    expected: dict[str, str] = {}
    for left in (1 << 20, 0, *((4, 8, 12, 16, 20, 24) if fault.full else (8,))):
        disk = machine.disk("16m")
        inside = machine.inside(disk)
        for part in ("1/2", "2/2"):
            assert machine.run(*made.commands(disk)["convert"], "--part", part).code == 0
        before = machine.holds(disk)
        room = sum(-(-path.stat().st_size // 4096) * 4 for path in inside.rglob("*") if path.is_file()) + left
        machine.resize(disk, f"{max(room, 4)}k")
        ended = machine.run("merge", disk / "shards")
        if not expected:
            assert ended.code == 0, ended
            expected = machine.holds(disk)
            continue
        refused(ended, disk)
        after = machine.holds(disk)
        assert {name: after.get(name) for name in before} == before
        assert "shards/manifest.json" not in after and not left_over(after)
        machine.resize(disk, "16m")
        assert machine.run("merge", disk / "shards").code == 0
        assert machine.holds(disk) == expected
        machine.unmount(disk)
    fault.seen(
        "the disk is full", "`fasttrain merge` with 0 to 24 kB left; then more room, and again", 7 if fault.full else 2
    )


@pytest.mark.parametrize("command", ["convert", "train", "evaluate --out"])
def test_no_inodes(machine: Machine, made: Made, fault: Fault, command: str) -> None:
    counts = (1, *range(2, 14, 2)) if fault.full else (4 if command != "evaluate --out" else 1,)
    failed = 0
    for files in counts:
        disk = machine.disk("64m", files=files)
        ended = machine.run(*made.commands(disk)[command])
        if ended.code:
            failed += 1
            refused(ended, disk)
        assert not left_over(machine.holds(disk))
        machine.unmount(disk)
    assert failed
    fault.seen("the disk has no inodes left", f"`fasttrain {command}` onto disks of few files", failed)


@pytest.mark.parametrize("command", ["convert", "train", "evaluate --report", "export torchscript"])
def test_files_may_not_be_so_large(machine: Machine, made: Made, fault: Fault, command: str) -> None:
    place = machine.folder()
    ended = machine.run(*made.commands(place)[command], limits={"FSIZE": 20_000}, env={"TMPDIR": str(place)})
    assert ended.code == 2 and "exceeds the greatest file size" in ended.said and str(place) in ended.said, ended
    assert not left_over(machine.holds(place))
    fault.seen("a file may not grow so large", f"`fasttrain {command}` under `ulimit -f`", 1)


def test_tracking_finds_no_room(machine: Machine, made: Made, fault: Fault) -> None:
    """MLflow's database, or its artifacts, on a full disk: the run ends well, and says what is missing."""
    place = machine.folder()
    sizes = [4096]
    if fault.full:
        store = machine.folder()
        environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}
        assert machine.run(*made.train(), "--out", place / "whole", env=environment, cwd=store).code == 0
        need = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
        sizes += [need * step // 8 // 4096 * 4096 for step in range(1, 8)]
    for size in sizes:
        disk = machine.disk(size)
        environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{disk}/mlflow.db"}
        ended = machine.run(*made.train(), "--out", place / f"{size}", env=environment, cwd=disk)
        assert ended.code == 0, ended
        assert "Traceback" not in ended.out + ended.err, ended
        assert "MLflow" in ended.out and ("full" in ended.out or "No space" in ended.out), ended
        (folder,) = (place / f"{size}").iterdir()
        assert {"evaluation.json", "report.html", "tracking.json"} <= {path.name for path in folder.iterdir()}
        machine.resize(disk, "64m")
        delivered = machine.run("runs", "--deliver", folder, env=environment, cwd=disk)
        assert delivered.code == 0 and "waits" not in delivered.out, delivered
        listed = machine.run("runs", "--json", env=environment, cwd=disk)
        (run,) = json.loads(listed.out)
        assert run["status"] == "finished" and run["epochs"] == 1 and run["val/top1"] and not run["waiting"], run
        machine.unmount(disk)
    fault.seen(
        "MLflow's disk is full",
        "`fasttrain train` with its store on small disks; then more room, and `fasttrain runs --deliver`",
        len(sizes),
        measured="what the store lacks stays in the run's folder; in the end it lacks nothing",
    )


def test_extras_find_no_room(machine: Machine, made: Made, fault: Fault) -> None:
    """The trace, which torch would pack in the full TMPDIR; and the caches of the sample and of photographs."""
    temporary, place = machine.disk("8k"), machine.folder()
    (machine.inside(temporary) / "full").write_bytes(bytes(8192))
    ended = machine.run(
        *made.train(), "--no-track", "--profile", "--out", place / "runs", env={"TMPDIR": str(temporary)}
    )
    assert ended.code == 0, ended
    (folder,) = (place / "runs").iterdir()
    assert (folder / "trace.json.gz").exists() and not left_over(machine.holds(temporary))
    lines: list[list[str | Path]] = [
        ["convert", "--source", "sample", "--out", place / "x"],
        [*made.train(), "--data", made.photos, "--out", place / "x"],
        [*made.train(), "--data", f"file://{made.shards}", "--out", place / "x"],
    ]
    for line in lines:
        cache = machine.disk("600k")
        ended = machine.run(*line, env={"FASTTRAIN_CACHE": str(cache)})
        if "--data" in line and str(line[-3]).startswith("file://"):  # a URL's cache counts its room beforehand
            assert ended.code == 2 and "the cache may hold 0.6 MB" in ended.said, ended
        else:
            refused(ended, cache)
        assert not left_over(machine.holds(cache)), machine.holds(cache)
        machine.unmount(cache)
    fault.seen("no room in $TMPDIR, or in the cache", "`fasttrain train --profile`; the sample; photographs; a URL", 4)
