"""`convert` and `merge`, killed at every write and at random moments: resumed, they end with the same bytes."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.reliability.killing import (
    SEED,
    SIGNALS,
    STOPPED,
    Blow,
    Server,
    assert_safe_order,
    assert_same,
    blows_at,
    contents,
    points_of,
    serving,
)
from tests.support.patience import PATIENCE

SHARDS = ("--shard-size", 5, "--workers", 1)


@dataclass(frozen=True)
class Case:
    """A command that writes into `out`, which is a copy of `before` (None: absent), and what it leaves there."""

    command: tuple[object, ...]
    before: Path | None
    after: dict[str, bytes]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kills").resolve()


@pytest.fixture(scope="module")
def server(scratch: Path) -> Iterator[Server]:
    with serving(scratch, "fasttrain.shards.convert") as server:
        yield server


@pytest.fixture(scope="module")
def source(scratch: Path) -> Path:
    """Two classes of 8, of which a fourth validates; the two photographs of `test` are broken, so it gets no shard."""
    root = scratch / "source"
    for label, name in enumerate(("cat", "dog")):
        for split, count in (("train", 6), ("val", 2)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                coarse = np.random.default_rng(100 * label + 10 * len(split) + number).integers(0, 256, (6, 8, 3))
                photo = Image.fromarray(coarse.astype(np.uint8)).resize((64, 48), Image.Resampling.BICUBIC)
                photo.save(folder / f"{number:02d}.jpg", quality=90, progressive=number == 1)
        (root / "test" / name).mkdir(parents=True)
        (root / "test" / name / "00.jpg").write_bytes(b"\xff\xd8\xff no photograph")
    (root / "train" / "cat" / "notes.txt").write_text("not a photograph")
    return root


@pytest.fixture(scope="module")
def grown(scratch: Path, source: Path) -> Path:
    """The same with three photographs more in each class, and a class more."""
    root = scratch / "grown" / source.name
    shutil.copytree(source, root)
    for label, name in enumerate(("ant", "cat", "dog")):
        (root / "train" / name).mkdir(exist_ok=True)
        for number in range(3):
            coarse = np.random.default_rng(900 + 10 * label + number).integers(0, 256, (6, 8, 3)).astype(np.uint8)
            Image.fromarray(coarse).resize((48, 64)).save(root / "train" / name / f"new-{number}.jpg", quality=90)
    return root


@pytest.fixture(scope="module")
def cases(scratch: Path, server: Server, source: Path, grown: Path) -> dict[str, Case]:
    """Each way to write shards; `out` stands for the folder."""

    def made(name: str, *commands: tuple[object, ...]) -> Path:
        for command in commands:
            ended = server.run(*placed(command, scratch / name))
            assert ended.code == 0, ended.said
        return scratch / name

    convert = ("convert", "--source", source, "--out", "out", *SHARDS)
    betons = (*convert, "--format", "tar,beton")
    overwrite = (*convert, "--overwrite")
    other = (*betons, "--seed", 1, "--shard-size", 3)
    append = ("convert", "--source", grown, "--out", "out", *SHARDS, "--append")
    parts = tuple((*convert, "--part", f"{number}/2") for number in (1, 2))
    alone = made("alone", convert)
    return {
        "convert": Case(convert, None, contents(alone)),
        "betons": Case(betons, alone, contents(made("betons", betons))),
        "overwrite": Case(overwrite, made("other", other), contents(alone)),
        "append": Case(append, alone, contents(made("appended", convert, append))),
        "part": Case(parts[0], None, contents(made("part", parts[0]))),
        "merge": Case(("merge", "out"), made("parts", *parts), contents(alone)),
    }


def placed(command: tuple[object, ...], out: Path) -> tuple[object, ...]:
    return tuple(out if each == "out" else each for each in command)


def started(case: Case, out: Path) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    if case.before is not None:
        shutil.copytree(case.before, out)
    return out


def assert_none_torn(out: Path, case: Case, why: object) -> None:
    """Every file that has its own name is whole: as it was before, or as it is to be."""
    before = contents(case.before) if case.before else {}
    for name, data in contents(out).items() if out.exists() else ():
        hidden = any(part[0] == "." and part != ".parts" for part in Path(name).parts)
        moved = (each for key, each in before.items() if Path(key).name == Path(name).name)  # `merge` moves them
        if name == "beton.json":  # one split after the other
            assert json.loads(data)["files"].items() <= json.loads(case.after.get(name, data))["files"].items(), why
        elif not hidden and Path(name).name != "run.json" and not name.endswith("/"):
            kept = [case.after[name]] if name in case.after else []
            assert data in [*kept, *moved] or ".parts" in name, f"{why}: {name} is torn"


@pytest.mark.parametrize("name", ["convert", "betons", "overwrite", "append", "part", "merge"])
@pytest.mark.full
def test_at_every_write(name: str, cases, server: Server, scratch: Path, fault) -> None:
    case, out = cases[name], scratch / "out"
    command = placed(case.command, out)
    acts = server.logged(started(case, out).parent, *command)
    assert_same(contents(out), case.after, "undisturbed")
    assert_safe_order(acts, in_place=[r"\.partial$"])
    points = points_of(acts, out)
    blows = blows_at(points)
    print(f"{len(points)} points, {len(blows)} blows, seed {SEED}")
    some = blows if fault.full else random.Random(SEED).sample(blows, 4)
    # There is work left to stop until the last of the large files is begun; a merge stops at once, always.
    last = max((at for at, each in enumerate(points) if re.search(r"\.(tar|partial)", each.path)), default=0)
    last = points.index(next(each for each in points if each.path == points[last].path))
    late = 0
    for blow in some:
        was_late = struck(server, started(case, out), case, command, blow)
        assert not was_late or points.index(blow.point) >= last, f"{blow} stopped nothing, seed {SEED}"
        late += was_late
    if fault.full:
        fault.seen(
            f"`{case.command[0]}` killed at a write ({name})",
            f"a preloaded library strikes at each of its {len(points)} points (create, write, fsync, rename, link, "
            "unlink, mkdir, truncate): SIGKILL and SIGTERM before and after it, and half-way through a write; then the "
            "same command again",
            len(some),
            measured=f"same bytes, no temporary left; {late} SIGTERMs came too late to stop anything",
        )


def struck(server: Server, out: Path, case: Case, command: tuple[object, ...], blow: Blow) -> bool:
    """Kills and goes on; whether the signal came so late that all was done."""
    why = f"{blow}, seed {SEED}"
    ended = server.run(*command, environment=blow.environment(out))
    assert ended.struck, f"{why}: it never came there: {ended}"
    finished = ended.code == 0 and blow.number == signal.SIGTERM
    if finished:
        assert_same(contents(out), case.after, why)
    elif blow.number == signal.SIGTERM:
        assert ended.code == STOPPED and "Traceback" not in ended.said, f"{why}: {ended}"
        assert not list(out.rglob("*.tmp")), why
    else:
        assert ended.code == -signal.SIGKILL, f"{why}: {ended}"
    assert_none_torn(out, case, why)
    ended = server.run(*command)
    assert ended.code == 0, f"{why}: {ended}"
    assert_same(contents(out), case.after, why)
    return finished


@pytest.mark.parametrize("name", ["convert", "betons", "overwrite", "append", "part", "merge"])
def test_again_and_again_until_it_is_done(name: str, cases, server: Server, scratch: Path, fault) -> None:
    case, out = cases[name], scratch / "chained"
    drawn = random.Random(f"{SEED} {name}")
    command = placed(case.command, out)
    kills = 0
    for _ in range(fault.times(1, 20)):
        started(case, out)
        for step in range(1000):
            number = drawn.choice(SIGNALS)
            how = drawn.choice(("before", "middle", "after"))
            blow = {"KILL_UNDER": str(out), "KILL_AT": str(drawn.randint(1, 40)), "KILL_HOW": how}
            ended = server.run(*command, environment={**blow, "KILL_SIGNAL": str(int(number))})
            why = f"seed {SEED}, kill {step}: {blow} {number.name}: {ended}"
            if ended.code == 0:
                break
            kills += 1
            assert ended.code in (STOPPED, -signal.SIGKILL), why
            assert_none_torn(out, case, why)
        else:
            pytest.fail(f"no end, seed {SEED}")
        assert server.run(*command).code == 0
        assert_same(contents(out), case.after, f"seed {SEED}")
    fault.seen(
        f"`{case.command[0]}` killed and resumed again and again until it was done ({name})",
        "at a random write of each process, SIGKILL or SIGTERM; seeded",
        kills,
        measured="same bytes, no temporary left",
    )


def test_at_random_instants(photographs: Path, scratch: Path, fault) -> None:
    """Whole processes, that import and all."""
    drawn = random.Random(SEED)
    out, alone = scratch / "killed", scratch / "undisturbed"

    def start(out: Path, workers: int) -> subprocess.Popen[str]:
        command = ["convert", "--source", photographs, "--out", out, "--shard-size", 8, "--workers", workers]
        return subprocess.Popen(
            [sys.executable, "-m", "fasttrain", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def begun(out: Path) -> int:
        """When a conversion last began there; 0: never."""
        run = out / ".parts" / "run.json"
        return run.stat().st_mtime_ns if run.exists() else 0

    def until_begun(process: subprocess.Popen[str], out: Path, before: int) -> float:
        while begun(out) in (before, 0) and process.poll() is None:
            time.sleep(0.0005)
        return time.monotonic()

    process = start(alone, 1)
    began = until_begun(process, alone, 0)
    process.communicate()
    seconds = time.monotonic() - began
    expected = contents(alone)
    kills = stopped = runs = 0
    while kills < fault.times(4, 100):
        shutil.rmtree(out, ignore_errors=True)
        runs += 1
        while True:
            number, instant = drawn.choice(SIGNALS), drawn.uniform(0, seconds)
            before = begun(out)
            process = start(out, drawn.choice((1, 2)))
            early = drawn.random() < 0.1
            if early:  # before or while it imports, often
                time.sleep(instant)
            else:
                time.sleep(max(0.0, until_begun(process, out, before) + instant - time.monotonic()))
            process.send_signal(number)
            said, _ = process.communicate(timeout=PATIENCE)
            why = f"seed {SEED}, run {runs}, kill {kills}, {number.name} after {instant:.3f} s: {said}"
            if process.returncode == 0:
                break
            kills += 1
            stopped += process.returncode == STOPPED
            young = early and process.returncode == -signal.SIGTERM  # Python itself was not yet up
            assert process.returncode in ({STOPPED} if number == signal.SIGTERM else {-signal.SIGKILL}) or young, why
            if kills >= fault.times(4, 100):
                break
        process = start(out, 2)
        assert not process.communicate(timeout=PATIENCE)[0].count("Traceback") and process.returncode == 0, (
            f"seed {SEED}"
        )
        assert_same(contents(out), expected, f"seed {SEED}")
    fault.seen(
        "`convert` killed at random instants",
        "whole processes with 1 or 2 workers, SIGKILL or SIGTERM, until each conversion was done; seeded",
        kills,
        measured=f"{runs} conversions, same bytes each; exit code {STOPPED} {stopped} times",
    )
