"""Further limits of a machine: open files, memory, shared memory, permission, names; and readers of the output."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.reliability.conftest import Fault
from tests.reliability.machine import NOBODY, SMALL, Ended, Machine, Made
from tests.reliability.test_machine_disk import left_over
from tests.support.patience import PATIENCE

_MB = 1 << 20
_WRITE = ("convert", "convert --part", "train", "evaluate --out", "evaluate --report", "export torchscript", "preview",
          "lr-find", "profile", "compare", "tune")  # fmt: skip
_QUICK = ("convert", "train", "evaluate --out", "compare", "tune")
_KILL_A_WORKER = """
import os, signal, threading, time
def kill():
    children = f"/proc/self/task/{os.getpid()}/children"
    while not (found := open(children).read().split()):
        time.sleep(0.002)
    os.kill(int(found[0]), signal.SIGKILL)
threading.Thread(target=kill, daemon=True).start()
"""
_NOBODY_READS = "import os; r, w = os.pipe(); os.dup2(w, 1); os.close(r); os.close(w)"
_CLOSED = "import os; os.close(1)"
_NO_TEMPORARY = r"Traceback[^\n]*\n(  [^\n]*\n)*OSError: \[Errno 24\] Too many open files: '[^']*/pymp-\w+'\n"
_ABORTED = (-signal.SIGABRT, 127)  # glibc, torch and Python find no memory to raise an error in


def some(fault: Fault, commands: tuple[str, ...]) -> list[str]:
    """All of them, or those that take no time."""
    return [name for name in commands if fault.full or name in _QUICK]


def refused(ended: Ended, *words: str) -> None:
    assert ended.code == 2, ended
    assert all(word in ended.said for word in words), ended


def test_convert_runs_out_of_descriptors(machine: Machine, made: Made, fault: Fault) -> None:
    """It never takes a photograph that it had no descriptor for as one that is broken."""
    whole = machine.folder()
    line = [*made.commands(whole)["convert"], "--shard-size", "2", "--workers", "8"]
    assert machine.run(*line).code == 0
    expected = machine.holds(whole)
    failed = 0
    limits = range(4, 24) if fault.full else (4, 6)
    for limit in limits:
        place = machine.folder()
        line = [*made.commands(place)["convert"], "--shard-size", "2", "--workers", "8"]
        ended = machine.run(*line, limits={"NOFILE": limit})
        if ended.code:
            failed += 1
            refused(ended, "too many open files", f"the limit of this process is {limit}", "ulimit -n")
            assert not (place / "shards" / "manifest.json").exists()
            assert machine.run(*line).code == 0
        assert machine.holds(place) == expected
    assert failed
    fault.seen(
        "out of file descriptors", "`fasttrain convert --workers 8` with `ulimit -n` of 4 to 24; then again", failed
    )


@pytest.mark.parametrize("loader", ["native", "torchvision", "workers", "MLflow"])
def test_train_runs_out_of_descriptors(machine: Machine, made: Made, fault: Fault, loader: str) -> None:
    if loader == "native":
        pytest.importorskip("fasttrain._native")
    if loader == "MLflow" and not fault.full:
        pytest.skip("at full length only: it takes long")
    given = ["--loader", loader] if loader in ("native", "torchvision") else []
    given += ["--workers", "4"] if loader == "workers" else []
    failed = 0
    limits = range(6, 40, 2) if fault.full else (8,)
    for limit in limits:
        place = machine.folder()
        environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db"}
        track = [] if loader == "MLflow" else ["--no-track"]
        ended = machine.run(
            *made.train(), *given, *track, "--out", place / "runs", limits={"NOFILE": limit}, env=environment
        )
        # A worker's Python prints why it can't remove its (empty) folder in /tmp when it ends.
        ended = replace(ended, err=re.sub(_NO_TEMPORARY, "", ended.err))
        assert "Traceback" not in ended.out + ended.err and not left_over(machine.holds(place)), ended
        (folder,) = (place / "runs").glob("*") if (place / "runs").exists() else (place,)
        if ended.code:
            failed += 1
            refused(ended, "too many open files")
        assert (folder / "evaluation.json").exists() == (not ended.code)
    assert failed
    fault.seen("out of file descriptors", f"`fasttrain train` ({loader}) with small `ulimit -n`", failed)


@pytest.mark.parametrize("command", ["convert", "train", "evaluate --out", "predict"])
def test_out_of_memory(machine: Machine, made: Made, fault: Fault, command: str) -> None:
    failed = aborted = hung = 0
    limits = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128) if fault.full else (2, 12)
    for limit in limits:
        place = machine.folder()
        commands = {**made.commands(place), "predict": ["predict", "--checkpoint", made.run, made.photos]}
        ended = machine.run(*commands[command], memory=limit * _MB, idle=60)
        if ended.hung:  # Python's Thread.start() waits for a thread that found no memory to begin in
            assert ended.code == -signal.SIGABRT and "MemoryError" in ended.err, ended
            hung += 1
        held = machine.holds(place)
        if ended.code:
            failed += 1
            if ended.code in _ABORTED:  # ended like by SIGKILL: the same command then succeeds
                aborted += 1
                if command in ("convert", "evaluate --out"):
                    assert machine.run(*commands[command]).code == 0
                    assert not left_over(machine.holds(place))
            else:
                assert not left_over(held), held
                refused(ended)
                assert any(word in ended.said for word in ("memory", "refuses more threads")), ended
            assert not any(name.endswith(("manifest.json", "evaluation.json")) for name in held)
        elif command == "convert":
            assert "broken" not in ended.out, ended
    assert failed
    assert not fault.full or aborted <= failed // 2
    fault.seen(
        "out of memory",
        f"`fasttrain {command}` with 1 to 128 MB to spare (RLIMIT_AS)",
        failed,
        measured=f"no torn file; one line of ours but for {aborted}, which glibc, torch or Python aborted"
        + (f", {hung} of them after they had waited for ever in Python's `Thread.start`" if hung else ""),
    )


def test_no_room_in_shared_memory(machine: Machine, made: Made, fault: Fault) -> None:
    """Batches of worker processes pass through /dev/shm; torch waits for ever for one that finds no room there."""
    evaluate = [
        "evaluate",
        "--checkpoint",
        made.run,
        "--data",
        made.shards,
        "--loader",
        "torchvision",
        "--workers",
        "1",
    ]
    train = [*made.train(), "--no-track", "--workers", "1", "--out"]
    for size in ("4k", "64k"):
        for line in ([*train, machine.folder()], evaluate):
            machine.mount_over("/dev/shm", size)
            ended = machine.run(*line)
            machine.unmount("/dev/shm")
            refused(ended, "/dev/shm", "--workers 0", "--shm-size")
    fault.seen(
        "/dev/shm is too small", "`fasttrain train` and `evaluate` with worker processes and 4 and 64 kB of it", 4
    )


def test_worker_killed(machine: Machine, made: Made, fault: Fault) -> None:
    times = fault.times(short=1, full=20)
    for _ in range(times):
        place = machine.folder()
        line = [*made.train(), "--no-track", "--workers", "2" if fault.full else "1", "--out", place / "runs"]
        ended = machine.run(*line, before=_KILL_A_WORKER)
        refused(ended, "worker process was killed", "memory", "--workers")
        assert not left_over(machine.holds(place))
    fault.seen("a loader's worker is killed, as by the kernel for its memory", "`fasttrain train --workers 2`", times)


def test_no_permission(machine: Machine, made: Made, fault: Fault) -> None:
    if os.getuid():
        pytest.skip("needs root, to become nobody")
    commands = some(fault, _WRITE)
    place = machine.folder()
    place.chmod(0o755)
    for name in commands:
        ended = machine.run(*made.commands(place)[name], user=NOBODY)
        refused(ended, str(place), f"no permission (as user {NOBODY})")
    assert not machine.holds(place)
    cache = {"FASTTRAIN_CACHE": str(place)}
    for line in (["convert", "--source", "sample", "--out", machine.folder()], [*made.train(), "--data", made.photos]):
        refused(machine.run(*line, user=NOBODY, env=cache), str(place), "no permission", "FASTTRAIN_CACHE")
    fault.seen("no permission", "every command that writes, as nobody, into root's folder", len(commands) + 2)


def test_read_only(machine: Machine, made: Made, fault: Fault) -> None:
    commands = some(fault, _WRITE)
    disk = machine.disk("1m")
    (machine.inside(disk) / "curves.png").write_bytes(b"was here")
    machine.read_only(disk)
    before = machine.holds(disk)
    for name in commands:
        refused(machine.run(*made.commands(disk)[name]), str(disk), "read-only")
    assert machine.holds(disk) == before
    machine.unmount(disk)
    fault.seen("the disk is read-only", "every command that writes, onto a read-only mount", len(commands))


def test_sources_may_be_read_only(machine: Machine, made: Made, fault: Fault) -> None:
    place = machine.folder()
    machine.read_only(made.photos)
    machine.read_only(made.shards)
    machine.read_only(made.run)
    for name in ("convert", "train", "evaluate --out") if fault.full else ("convert", "evaluate --out"):
        assert machine.run(*made.commands(place)[name]).code == 0
    for path in (made.photos, made.shards, made.run):
        machine.unmount(path)
    fault.seen("photographs, shards and run on a read-only disk", "`fasttrain convert`, `train`, `evaluate`", 3)


def test_a_file_where_a_folder_should_be(machine: Machine, made: Made, fault: Fault) -> None:
    commands = some(fault, _WRITE)
    file = machine.folder() / "file"
    file.write_bytes(b"was here")
    for name in commands:
        refused(machine.run(*made.commands(file)[name]), str(file), "file")
    assert file.read_bytes() == b"was here"
    folder = machine.folder()
    for line in (["evaluate", "--checkpoint", made.run, "--data", made.shards, "--out", folder],):
        refused(machine.run(*line), str(folder), "is a folder")
    fault.seen("the output's place is a file", "every command that writes", len(commands) + 1)


@pytest.mark.parametrize("name", ["with space", "new\nline", "Käse 寿司 🍣", "[red]$(x);'\"", "x" * 255])
def test_odd_names(machine: Machine, made: Made, fault: Fault, name: str) -> None:
    """The name is that of the folder of everything, and that of a class."""
    place = machine.folder() / name
    place.mkdir()
    ended = machine.run(*made.commands(place)["convert"])
    assert ended.code == 0, ended
    for command in ("train", "evaluate --out") if fault.full or "red" in name else ():
        line = [place / "shards" if each == made.shards else each for each in made.commands(place)[command]]
        ended = machine.run(*line)
        assert ended.code == 0 and "could not be written" not in ended.out, ended
    photos = machine.folder() / "photos"
    for number, kind in enumerate(sorted(made.photos.iterdir())[:2]):
        (photos / (name if number else "other")).mkdir(parents=True)
        for file in sorted(kind.iterdir())[:5]:
            os.link(file, photos / (name if number else "other") / file.name)
    line = [photos if each == made.photos else each for each in made.commands(machine.folder())["convert"]]
    ended = machine.run(*line)
    if name.isprintable():
        assert ended.code == 0, ended
    else:
        refused(ended, "isn't printable")
    fault.seen(
        "a folder with an odd name", f"`{name[:12]!r}`: convert, train, evaluate; as a class".replace("|", ""), 4
    )


def test_names_that_are_no_text(machine: Machine, made: Made, fault: Fault) -> None:
    """Bytes that are no UTF-8: taken where only files have them, refused where TOML and MLflow must hold them."""
    place = machine.folder() / os.fsdecode(b"caf\xe9")
    place.mkdir()
    assert machine.run(*made.commands(place)["convert"]).code == 0
    ended = machine.run(*made.commands(place)["train"])
    refused(ended, "out", "UTF-8")
    predicted = machine.run("predict", "--checkpoint", made.run, place, "--format", "jsonl")
    photograph = next(made.photos.glob("*/*.jpg"))
    os.link(photograph, place / "x.jpg")
    predicted = machine.run("predict", "--checkpoint", made.run, place / "x.jpg", "--format", "jsonl")
    assert predicted.code == 0 and "caf" in predicted.out, predicted
    fault.seen("a folder's name is no UTF-8", "`fasttrain convert` and `predict` take it, `train` says so", 3)


def test_too_long_names(machine: Machine, made: Made, fault: Fault) -> None:
    commands = some(fault, _WRITE)
    longs = ("x" * 256, "/".join(["y" * 200] * 25))[: fault.times(short=1, full=2)]
    for long in longs:
        place = machine.folder() / long
        for name in commands:
            refused(machine.run(*made.commands(place)[name]), "too long")
        for option in ("--source", "--data", "--checkpoint"):
            line = {
                "--source": ["convert", "--out", machine.folder() / "x"],
                "--data": [*made.train()[:1], *SMALL],
                "--checkpoint": ["evaluate", "--data", made.shards],
            }[option]
            refused(machine.run(*line, option, place), "too long")
    fault.seen(
        "a name of 256 bytes, a path of 5,000",
        "every command that writes, and as what is read",
        len(longs) * (len(commands) + 3),
    )


def test_links_in_circles_and_folders_that_nobody_may_read(machine: Machine, made: Made, fault: Fault) -> None:
    place = machine.folder()
    photos = place / "photos"
    photos.mkdir()
    for kind in sorted(made.photos.iterdir())[:2]:
        (photos / kind.name).mkdir()
        for file in kind.iterdir():
            os.link(file, photos / kind.name / file.name)
    first = next(photos.iterdir())
    (first / "round").symlink_to(first / "about")
    (first / "about").symlink_to(first / "round")
    (first / "up").symlink_to(photos)
    (photos / "self").symlink_to(photos / "self")
    line = ["convert", "--source", photos, "--out", place / "shards"]
    ended = machine.run(*line)
    assert ended.code == 0 and "round" in (place / "shards" / "rejected.tsv").read_text(), ended
    listed = (place / "shards" / "rejected.tsv").read_text()
    assert "about" in listed and "up/" in listed
    if not os.getuid():
        first.chmod(0o700)
        ended = machine.run(*line[:-1], place / "others", user=NOBODY)
        refused(ended, str(first), "no permission", "readable")
    fault.seen("links in circles, a folder that can't be read", "`fasttrain convert`", 2)


@pytest.mark.parametrize("command", ["convert", "train", "evaluate --out", "preview"])
def test_working_directory_is_gone(machine: Machine, made: Made, fault: Fault, command: str) -> None:
    if command == "train" and not fault.full:
        pytest.skip("at full length only: it takes long")
    gone = "import os, tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)"
    ended = machine.run(*made.commands(Path("here"))[command], before=gone)
    assert ended.code == 2 and "gone" in ended.said, ended
    ended = machine.run(*made.commands(machine.folder())[command], before=gone)
    assert ended.code == 0, ended  # with whole paths nothing needs it
    fault.seen("the working directory is removed", f"`fasttrain {command}`", 2)


def test_output_that_nobody_takes(machine: Machine, made: Made, fault: Fault) -> None:
    """Nobody reads it (`| head`), the disk below it is full, it is closed."""
    place = machine.folder()
    writing = [name for name in _WRITE if fault.full or name in ("convert", "train")]
    lines: dict[str, list[str | Path]] = {
        **{name: made.commands(place / name)[name] for name in writing},
        "predict": ["predict", "--checkpoint", made.run, made.photos],
        "evaluate": ["evaluate", "--checkpoint", made.run, "--data", made.shards, "--json"],
        "inspect": ["inspect", made.shards, "--json"],
        "help": ["train", "--help"],
    }
    if fault.full:
        lines["doctor"] = ["doctor"]
    for name, line in lines.items():
        if fault.full or name != "train":
            ended = machine.run(*line, before=_NOBODY_READS)
            assert ended.code == 141 and not ended.err.count("fasttrain:"), (name, ended)
            ended = machine.run(*line, before=_CLOSED)
            assert ended.code == 0 and "Traceback" not in ended.err, (name, ended)
        ended = machine.run(*line, stdout="/dev/full")
        if name in ("train", "tune"):
            assert ended.code == 0 and ended.err.count("the run continues without printing") == 1, ended
        else:
            refused(ended, "standard output: the disk is full")
    assert not left_over(machine.holds(place))
    assert sum(name.endswith("evaluation.json") for name in machine.holds(place / "train")) == (2 if fault.full else 1)
    fault.seen("standard output: a closed pipe, a full disk, closed", f"{len(lines)} commands", 3 * len(lines))


def test_nothing_to_write_to_at_home(machine: Machine, made: Made, fault: Fault) -> None:
    """A container's user: no home, no /tmp, and what libraries keep there. Its own process: they look early."""
    if not fault.full:
        pytest.skip("at full length only: it takes long")
    nowhere = machine.read_only(machine.folder())
    place = machine.folder()
    environment = {**os.environ, "HOME": str(nowhere), "TMPDIR": str(nowhere), "OMP_NUM_THREADS": "1"}
    for line in (made.commands(place)["train"], made.commands(place)["evaluate --report"]):
        done = subprocess.run(
            [sys.executable, "-m", "fasttrain", *map(os.fspath, line)],
            env=environment,
            cwd=place,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0 and "Traceback" not in done.stderr, done
    fault.seen("a home and a /tmp that can't be written", "`fasttrain train` and `evaluate --report`", 2)


def test_an_account_without_a_home(machine: Machine, made: Made, fault: Fault) -> None:
    """`docker run --user 12345`: no entry in /etc/passwd, and no HOME."""
    if os.getuid():
        pytest.skip("needs root, to become another user")
    homeless = {"user": 12345, "before": "import os; del os.environ['HOME']"}
    place = machine.folder()
    for name in ("convert", "train", "compare"):
        ended = machine.run(*made.commands(place)[name], **homeless)
        assert ended.code == 0 and "Traceback" not in ended.err, ended
    no_cache = {**homeless, "env": {"FASTTRAIN_CACHE": ""}}
    for line in (["convert", "--source", "sample", "--out", place / "s"], [*made.train(), "--data", made.photos]):
        refused(machine.run(*line, **no_cache), "no home folder", "set FASTTRAIN_CACHE")
    refused(
        machine.run(*made.train(), "--out", "~/runs", **homeless), "~/runs: this account has no home folder", "set HOME"
    )
    assert not (place / "~").exists()
    fault.seen("an account without a home folder", "`fasttrain convert`, `train`, `compare`, as user 12345", 6)
