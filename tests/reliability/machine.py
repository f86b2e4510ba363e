"""A machine that fails as it is told: full disks, ulimits, other users, for one fasttrain command at a time.

Run as a program it is a process in a mount namespace of its own, so that disks of any size can be mounted where
nothing else on the machine sees them, and all of them go when it does. It has imported what fasttrain imports, which
takes six seconds, and forks for each command: what happens in the child, limits, user, error and exit included, is what
happens to a `fasttrain` that was just started.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import importlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import fasttrain.cli

_NEWNS, _NEWUSER = 0x20000, 0x10000000
_READ_ONLY, _REMOUNT, _BIND, _REC, _PRIVATE, _DETACH = 1, 32, 4096, 16384, 1 << 18, 2
NOBODY = 65534


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative for a signal's, what it said, whether it had to be ended."""

    code: int
    out: str
    err: str
    hung: bool = False

    @property
    def said(self) -> str:
        """The one line of an error. Fails where it is none, or more, or a stack trace."""
        everything = f"exit code {self.code}\n{self.out}\n{self.err}"
        assert "Traceback" not in self.err + self.out, everything
        # Not at the start of a line: Python may have run out of memory within a line of its own about a thread.
        lines = re.findall("fasttrain: .*", self.err)
        assert len(lines) == 1, everything
        assert "internal error" not in lines[0], everything
        return lines[0]


class Machine:
    """The process, from the tests' side."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="fasttrain-machine-"))
        self.base.chmod(0o755)
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.base,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": ""},
        )
        self._folders = 0
        if problem := self._answer()["problem"]:
            self.close()
            pytest.skip(problem)

    def folder(self) -> Path:
        """A new folder that anyone may enter and write to."""
        self._folders += 1
        path = self.base / f"{self._folders:03d}"
        path.mkdir()
        path.chmod(0o777)
        return path

    def disk(self, size: str | int, files: int = 0) -> Path:
        """A new, empty disk of `size` bytes ("64k", "2m") that holds at most so many files (0: any number)."""
        path = self.folder()
        self._ask(op="disk", path=str(path), options=f"size={size},nr_inodes={files},mode=777")
        return path

    def mount_over(self, path: Path | str, size: str | int) -> None:
        """A small disk in place of what is at `path`, until `unmount`."""
        self._ask(op="disk", path=str(path), options=f"size={size},mode=1777")

    def resize(self, disk: Path, size: str | int) -> None:
        self._ask(op="remount", path=str(disk), options=f"size={size}", flags=_REMOUNT)

    def read_only(self, path: Path) -> Path:
        """The folder, which can only be read from now on."""
        self._ask(op="read_only", path=str(path))
        return path

    def unmount(self, path: Path | str) -> None:
        self._ask(op="unmount", path=str(path))

    def run(
        self,
        *line: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        limits: Mapping[str, int] | None = None,
        memory: int | None = None,
        user: int | None = None,
        stdout: str | None = None,
        before: str = "",
        idle: float = 600,
    ) -> Ended:
        """Runs `fasttrain LINE`.

        limits: rlimits ("NOFILE"). memory: bytes that it may map beyond what is mapped (RLIMIT_AS). stdout: a file in
        place of the one that is read. before: Python that the command's process runs first. idle: seconds without any
        CPU time after which the command counts as hung and is ended by SIGABRT.
        """
        said = [self.base / f"{name}.txt" for name in ("out", "err")]
        for path in said:
            path.write_bytes(b"")
        answer = self._ask(
            op="run",
            line=[os.fsdecode(each) for each in line],
            cwd=str(cwd or self.base),
            env={"HOME": str(self.base), "FASTTRAIN_CACHE": str(self.base / "cache"), "COLUMNS": "200", **(env or {})},
            limits=dict(limits or {}),
            memory=memory,
            user=user,
            said=[stdout or str(said[0]), str(said[1])],
            before=before,
            idle=idle,
        )
        out, err = (path.read_text(errors="replace") for path in said)
        return Ended(answer["code"], out, err, answer["hung"])

    def inside(self, path: Path) -> Path:
        """`path` on its disks, as this process can read it."""
        return Path(f"/proc/{self._server.pid}/root") / path.relative_to("/")

    def holds(self, folder: Path) -> dict[str, str]:
        """Each file below `folder` with the hash of its bytes, hidden ones too."""
        root = self.inside(folder)
        files = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
        return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def close(self) -> None:
        assert self._server.stdin is not None
        with contextlib.suppress(OSError):
            self._server.stdin.close()
        self._server.wait(600)
        shutil.rmtree(self.base, ignore_errors=True)

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = self._answer()
        assert not answer["problem"], answer["problem"]
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, "the machine is gone"
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass(frozen=True)
class Made:
    """The inputs of commands: class folders of photographs, their shards, a small run; and each command by name."""

    photos: Path
    shards: Path
    run: Path

    def commands(self, out: Path) -> dict[str, list[str | Path]]:
        """All that write, each into `out`."""
        convert = ["convert", "--source", self.photos, "--shard-size", "20", "--workers", "2", "--out", out / "shards"]
        evaluate = ["evaluate", "--checkpoint", self.run, "--data", self.shards]
        export = ["export", "--checkpoint", self.run, "--no-speed", "--photographs", "4"]
        sweep = [*SMALL, "--start", "1e-5", "--steps", "20"]
        search = ["--epochs", "1", "--trials", "1", "--batch-sizes", "16", "--no-track"]
        return {
            "convert": convert,
            "convert --format tar,beton": [*convert, "--format", "tar,beton"],
            "convert --raw": [*convert, "--raw", "--max-size", "64"],
            "convert --part": [*convert, "--part", "1/1"],
            "train": [*self.train(), "--no-track", "--out", out / "runs"],
            "evaluate --out": [*evaluate, "--out", out / "evaluation.json"],
            "evaluate --report": [*evaluate, "--report", out / "page.html"],
            "export torchscript": [*export, "--format", "torchscript", "--out", out / "model.pt"],
            "export exported-program": [*export, "--format", "exported-program", "--out", out / "model.pt2"],
            "export onnx": [*export, "--format", "onnx", "--out", out / "model.onnx"],
            "preview": ["preview", "--data", self.shards, "--out", out / "crops.png"],
            "lr-find": ["lr-find", "--data", self.shards, *sweep, "--picture", out / "rates.png"],
            "profile": ["profile", "--data", self.shards, *SMALL, "--steps", "2", "--picture", out / "steps.png"],
            "compare": ["compare", self.run, self.run, "--out", out / "curves.png"],
            "tune": ["tune", "--data", self.shards, *SMALL[:-2], *search, "--out", out / "tune"],
        }

    def train(self) -> list[str | Path]:
        return ["train", "--data", self.shards, *SMALL, "--epochs", "1"]


SMALL = (
    *("--model", "mobilenetv2_035", "--no-pretrained", "--image-size", "48", "--device", "cpu", "--workers", "0"),
    *("--loader", "torchvision", "--batch-size", "16"),
)


def make(machine: Machine, photographs: Path) -> Made:
    """With `photographs` copied to where any user may read them."""
    base = machine.folder()
    shutil.copytree(photographs, base / "photos")
    made = Made(base / "photos", base / "shards", base / "run")
    commands = made.commands(base)
    for name in ("convert", "train"):
        ended = machine.run(*commands[name])
        assert ended.code == 0, ended
    next((base / "runs").iterdir()).rename(made.run)
    for path in (base, *base.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return made


_libc = ctypes.CDLL(None, use_errno=True)


def _mount(kind: str, path: str, flags: int, options: str | None = None) -> None:
    if _libc.mount(kind.encode(), os.fsencode(path), kind.encode(), flags, options.encode() if options else None):
        raise OSError(ctypes.get_errno(), f"mount {path}: {os.strerror(ctypes.get_errno())}")


def _own_mounts() -> None:
    uid, gid = os.getuid(), os.getgid()
    if _libc.unshare(_NEWNS | (_NEWUSER if uid else 0)):
        raise OSError(ctypes.get_errno(), f"no mount namespace here ({os.strerror(ctypes.get_errno())})")
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    _mount("none", "/", _REC | _PRIVATE)


_IMPORTED = (
    *(
        "matplotlib.backends.backend_agg",
        "mlflow.store.tracking.sqlalchemy_store",
        "mlflow.tracking",
    ),
    # torch's optimizers import the second when they first step.
    *("timm", "torch._dynamo", "torchvision.transforms.v2", "optuna", "torch.utils.data"),
    *("fasttrain.commands.evaluate", "fasttrain.evaluation.predict", "fasttrain.export.export"),
    *("fasttrain.inspection.inspect", "fasttrain.inspection.preview", "fasttrain.commands.profile"),
    *("fasttrain.report.figures", "fasttrain.shards.convert", "fasttrain.shards.merge", "fasttrain.commands.train"),
    *("fasttrain.commands.lr_find", "fasttrain.commands.tune"),
)


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        answers.write(json.dumps({"problem": None, **values}) + "\n")
        answers.flush()

    try:
        _own_mounts()
    except OSError as error:
        answer(problem=f"{error.strerror}: needs root, or user namespaces")
        return
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    answer()
    while line := sys.stdin.readline():
        request = json.loads(line)
        try:
            if request["op"] == "disk":
                _mount("tmpfs", request["path"], 0, request["options"])
            elif request["op"] == "remount":
                _mount("tmpfs", request["path"], request["flags"], request["options"])
            elif request["op"] == "read_only":
                path = request["path"]
                if _libc.mount(os.fsencode(path), os.fsencode(path), None, _BIND, None):
                    raise OSError(ctypes.get_errno(), f"bind {path}")
                _mount("none", path, _REMOUNT | _BIND | _READ_ONLY)
            elif request["op"] == "unmount":
                _libc.umount2(os.fsencode(request["path"]), _DETACH)
            elif request["op"] == "run":
                child = os.fork()
                if not child:
                    answers.close()
                    _become(request)
                code, hung = _wait(child, request["idle"])
                answer(code=code, hung=hung)
                continue
            answer()
        except OSError as error:
            answer(problem=str(error))


def _wait(child: int, idle: float) -> tuple[int, bool]:
    """The exit code, and whether the child was ended because it used no CPU time for `idle` seconds.

    CPU time, and not the clock's: on a busy machine a command takes long, but never stands still.
    """
    used, since, hung = -1, time.monotonic(), False

    def look(*_: object) -> None:
        nonlocal used, since, hung
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            if (now := int(fields[11]) + int(fields[12])) != used:  # the time of all its threads
                used, since = now, time.monotonic()
            elif time.monotonic() - since > idle:
                hung = True
                os.kill(child, signal.SIGABRT)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 1, 1)
    _, status = os.waitpid(child, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return os.waitstatus_to_exitcode(status), hung


def _become(request: Mapping[str, Any]) -> None:
    """Turns this forked process into the command, and ends it."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number, path in enumerate((os.devnull, *request["said"])):
        descriptor = os.open(path, os.O_RDWR if number else os.O_RDONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.update(request["env"])
    os.environ.pop("MPLCONFIGDIR", None)
    tempfile.tempdir = None
    os.chdir(request["cwd"])
    if request["user"] is not None:
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])
    sys.argv = ["fasttrain", *request["line"]]
    exec(request["before"], {})
    for number, name in enumerate(("stdin", "stdout", "stderr")):  # Python opens them like this when it starts
        try:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", 1 if number == 2 else -1))
        except OSError:
            setattr(sys, name, None)
    for name, value in request["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    if request["memory"] is not None:
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + request["memory"],) * 2)
    sys.path.append(str(Path(__file__).parents[1] / "support"))
    from leaving import leave

    leave(fasttrain.cli.main)


if __name__ == "__main__":
    _serve()
