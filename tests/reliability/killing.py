"""Kills fasttrain at a chosen write, or at an instant, and tells what was written in which order."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import warm
from tests.support.patience import PATIENCE
from tests.support.runs import program

HERE = Path(__file__).parent
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
STOPPED = 75
SEED = int(os.environ.get("FASTTRAIN_KILL_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)


@dataclass(frozen=True)
class Act:
    """One line of the log: what was done to which file; `rest` is the old name, or bytes."""

    op: str
    path: str
    rest: str


@dataclass(frozen=True)
class Point:
    """The `nth` (from 1) act of `op` on files whose path below the folder is `path`, with each run of digits as #."""

    op: str
    path: str
    nth: int

    def __str__(self) -> str:
        return f"{self.op} {self.path.lstrip('/')} {self.nth}"


@dataclass(frozen=True)
class Blow:
    """A kill: its place in the log, its moment and its signal."""

    point: Point
    how: str
    number: signal.Signals

    def environment(self, under: Path) -> dict[str, str]:
        key = f"{self.point.op}\t{self.point.path}"
        return {
            "KILL_UNDER": str(under),
            "KILL_KEY": key,
            "KILL_AT": str(self.point.nth),
            "KILL_HOW": self.how,
            "KILL_SIGNAL": str(int(self.number)),
        }

    def __str__(self) -> str:
        return f"{self.number.name} {self.how} {self.point}"


@dataclass(frozen=True)
class Ended:
    """How a process ended, what it printed and did; whether it met the point where it was to be struck."""

    code: int
    said: str
    orphans: int = 0
    acts: tuple[Act, ...] = field(default=(), repr=False)
    struck: bool = False


def build_shim(folder: Path) -> Path:
    """The preloaded library; skips the test where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler, for the library that kills at a write")
    library = folder / "kill_at.so"
    command = [compiler, "-O1", "-Wall", "-shared", "-fPIC", "-o", library, HERE / "kill_at.c", "-ldl"]
    subprocess.run(command, check=True)
    return library


def read_log(path: Path) -> list[Act]:
    """All acts, those of a forked child too, in their order."""
    lines = path.read_text("utf-8", "surrogateescape").splitlines() if path.exists() else []
    return [Act(*line.split("\t")) for line in lines]


def points_of(acts: Sequence[Act], under: Path) -> list[Point]:
    """Every act that changes the folder, by a name that is the same in another run."""
    seen: Counter[tuple[str, str]] = Counter()
    points = []
    for act in acts:
        if not (act.path + "/").startswith(f"{under}/"):
            continue
        key = act.op, re.sub(r"\d+", "#", act.path[len(str(under)) :])
        seen[key] += 1
        points.append(Point(*key, seen[key]))
    return points


def blows_at(points: Sequence[Point], signals: Sequence[signal.Signals] = SIGNALS) -> list[Blow]:
    """Before and after each point, and in the middle of each write."""
    return [
        Blow(point, how, number)
        for number in signals
        for point in points
        for how in ("before", "middle", "after")
        if how != "middle" or point.op == "write"
    ]


def assert_safe_order(acts: Sequence[Act], in_place: Sequence[str] = ()) -> set[str]:
    """Assert that a power cut tears nothing: contents are fsynced before a file gets its name, its folder after.

    `in_place`: patterns of names that are not ours, or may be written as they stand. Returns the names put into place.
    """
    dirty: dict[str, str] = {}  # a file that was changed since its fsync, and how
    unsynced: dict[str, set[str]] = {}  # names that are new in a folder since the folder's fsync
    placed: set[str] = set()
    written: set[str] = set()
    for act in acts:
        if any(re.search(each, act.path) for each in in_place):
            continue
        folder = act.path.rpartition("/")[0]
        if act.op in ("write", "truncate"):
            dirty[act.path] = act.op
            written.add(act.path)
        elif act.op == "create":
            written.add(act.path)
        elif act.op == "fsync":
            dirty.pop(act.path, None)
            unsynced.pop(act.path, None)
        elif act.op == "rename" and re.search(r"\.\d+\.tmp$", act.path):  # a library's own, of one temporary
            if act.rest in dirty:
                dirty[act.path] = dirty.pop(act.rest)
            written.discard(act.rest)
            written.add(act.path)
        elif act.op in ("rename", "link"):
            assert act.rest not in dirty, f"{act.path} got its name after a {dirty[act.rest]} and before the fsync"
            if act.op == "rename":
                written -= {each for each in written if (each + "/").startswith(act.rest + "/")}
            written.discard(act.path)
            placed.add(act.path)
            unsynced.setdefault(folder, set()).add(act.path)
        elif act.op == "mkdir":
            unsynced.setdefault(folder, set()).add(act.path)
        elif act.op == "unlink":
            for path in {each for each in dirty if (each + "/").startswith(act.path + "/")}:
                dirty.pop(path)
            written.discard(act.path)
            for names in unsynced.values():
                names.discard(act.path)
    assert not written, f"written in place, so that a kill tears them: {sorted(written)}"
    loose = {name for names in unsynced.values() for name in names}
    assert not loose, f"whose folder was not fsynced after they got their names: {sorted(loose)}"
    return placed


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, hidden ones too, by its path in it; folders that are empty as such."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
        elif not any(path.iterdir()):
            found[f"{path.relative_to(folder)}/"] = b""
    return found


def assert_same(found: Mapping[str, bytes], expected: Mapping[str, bytes], why: object) -> None:
    """The same files with the same bytes."""
    assert sorted(found) == sorted(expected), why
    differ = [name for name, data in expected.items() if found[name] != data]
    assert not differ, f"{why}: {differ} differ"


class Server:
    """Forks a `fasttrain` for each command from a process that has imported `modules`; the shim is in all of them."""

    def __init__(self, warmed: warm.Server, environment: Mapping[str, str], scratch: Path) -> None:
        self._warmed, self._environment, self._scratch = warmed, environment, scratch

    def run(
        self,
        *arguments: object,
        environment: Mapping[str, str] | None = None,
        after: float | None = None,
        number: signal.Signals = signal.SIGKILL,
        group: bool = False,
    ) -> Ended:
        """Run `fasttrain …` to its end, and send `number` to it, or to its group, `after` so many seconds."""
        said, log = self._scratch / "said.txt", self._scratch / "log.tsv"
        log.unlink(missing_ok=True)
        environment = {**self._environment, "KILL_LOG": str(log), **(environment or {})}
        without_figures = environment.pop("KILL_WITHOUT_FIGURES", "")
        with said.open("wb") as stream:
            process = warm.Popen(
                [*program(figures=not without_figures), *map(str, arguments)],
                server=self._warmed,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        try:
            process.wait(PATIENCE if after is None else after)
        except subprocess.TimeoutExpired:
            if after is not None:
                (os.killpg if group else os.kill)(process.pid, number)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = -999
        acts = read_log(log)
        struck = any(act.op == "killed" for act in acts)
        return Ended(code, said.read_text("utf-8", "replace"), _orphans(process.pid), tuple(acts), struck)

    def logged(self, under: Path, *arguments: object, environment: Mapping[str, str] | None = None) -> list[Act]:
        """Return the log of an undisturbed `fasttrain …` on the folder."""
        ended = self.run(*arguments, environment={**(environment or {}), "KILL_UNDER": str(under)})
        assert ended.code == 0, ended.said
        return list(ended.acts)


def _orphans(session: int) -> int:
    """Return how many of the session outlived its first process by two minutes. They are ended then."""
    deadline = time.monotonic() + 120
    while left := [each for each in map(_alive_in, Path("/proc").glob("[0-9]*")) if each[1] == session]:
        if time.monotonic() > deadline:
            for pid, _ in left:
                os.kill(pid, signal.SIGKILL)
            return len(left)
        time.sleep(0.01)
    return 0


def _alive_in(process: Path) -> tuple[int, int]:
    """Return the process ID and the session of one that is alive, zeros for one that has ended."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0
    return (0, 0) if fields[0] in "ZX" else (int(process.name), int(fields[3]))


@contextmanager
def serving(scratch: Path, *modules: str) -> Iterator[Server]:
    """A server that has imported `modules`."""
    environment = {**os.environ, "LD_PRELOAD": str(build_shim(scratch)), "OMP_NUM_THREADS": "1"}
    server = warm.Server(environment, modules)
    try:
        yield Server(server, environment, scratch)
    finally:
        server.close()
