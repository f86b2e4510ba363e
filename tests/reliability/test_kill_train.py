"""`train`, killed at every write and at random moments and then resumed, ends with the same weights and history."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fasttrain.loaders.registry import LOADERS, loader_class
from fasttrain.shards.reader import ShardSet
from tests.reliability.killing import (
    SEED,
    SIGNALS,
    STOPPED,
    Act,
    Ended,
    Server,
    assert_safe_order,
    blows_at,
    points_of,
    serving,
)
from tests.support.patience import PATIENCE
from tests.support.runs import SMALL, arguments, paused, start_run

# Dropout, so that a lost generator state shows; an odd save_every, so that a kill falls in mid-epoch.
# The last epoch is the best, so that `model.safetensors` holds the final weights.
EXACT = {**SMALL, "model": "test_resnet", "image_size": 32, "batch_size": 24, "epochs": 2, "workers": 1, "track": False}
EXACT |= {"deterministic": True, "drop_rate": 0.2, "ema_decay": 0.5, "save_every": 2}
TIMINGS = {"epoch_seconds", "img/s", "wait_share", "training_seconds", "images_per_second"}
IMPORTED = (
    "fasttrain.commands.train",
    "fasttrain.loaders.native",
    "fasttrain.report.charts",
    "fasttrain.report.figures",
    "scipy.stats",
    "matplotlib.font_manager",
    "matplotlib.backends.backend_svg",
    "timm.optim",
    "timm.scheduler",
)
PLAIN = {"KILL_WITHOUT_FIGURES": "1"}
# Logs and stores, to which things are added: a torn end is theirs to deal with.
IN_PLACE = [r"/train\.log$", r"/output\.log$", r"/(mlflow|study)\.db(-journal|-wal|-shm)?$"]
IN_PLACE += [r"/\.(tracking\.)?lock$", r"/mlruns(/|$)", r"/mlflow-artifacts(/|$)", r"/mlartifacts(/|$)"]


@dataclass(frozen=True)
class Undisturbed:
    """The results of an undisturbed run, and its duration."""

    files: dict[str, Any]
    seconds: float
    acts: list[Act]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kills").resolve()


@pytest.fixture(scope="module")
def server(scratch: Path) -> Iterator[Server]:
    with serving(scratch, *IMPORTED) as server:
        yield server


@pytest.fixture(scope="module")
def undisturbed(server: Server, scratch: Path, shard_folder: Path) -> dict[str, Undisturbed]:
    """Return undisturbed runs by loader, each made when it is first needed."""
    return {}


def alone(loader: str, undisturbed, server: Server, scratch: Path, shard_folder: Path) -> Undisturbed:
    if loader not in undisturbed:
        runs = scratch / f"alone-{loader}"
        began = time.monotonic()
        acts = server.logged(scratch, *command(shard_folder, runs, loader))
        seconds = time.monotonic() - began
        ours = [act for act in acts if f"{act.path}/".startswith(f"{runs}/") or act.path == str(scratch)]
        undisturbed[loader] = Undisturbed(left(runs), seconds, ours)
        assert undisturbed[loader].files["evaluation"]["best_epoch"] == EXACT["epochs"]
    return undisturbed[loader]


def command(shards: Path, runs: Path, loader: str) -> list[str]:
    return ["train", *arguments(**{**EXACT, "data": shards, "out": runs, "loader": loader, "resume": "auto"})]


def left(runs: Path) -> dict[str, Any]:
    """Return the results of the only finished run: its weights, its numbers but timings, the names of its files.

    A run that was killed before its first checkpoint has left nothing but its settings.
    """
    (run,) = ends_of(runs)
    for other in runs.iterdir():
        assert other == run or not list(other.glob("checkpoints/*.safetensors")), "two runs have begun to train"
    names = {str(path.relative_to(run)) for path in run.rglob("*")}
    assert not [name for name in names if "/." in f"/{name}"], f"left behind: {sorted(names)}"
    numbers = {name: without_timings(json.loads((run / name).read_text())) for name in ("history.json", "model.json")}
    return {
        "weights": (run / "model.safetensors").read_bytes(),
        "evaluation": without_timings(json.loads((run / "evaluation.json").read_text())),
        **numbers,
        "names": {name for name in names if not name.startswith(("checkpoints/", "train.log"))},
    }


def ends_of(runs: Path) -> list[Path]:
    """The runs that are finished."""
    return [path.parent for path in runs.glob("*/evaluation.json")]


def without_timings(value: Any) -> Any:
    if isinstance(value, list):
        return [without_timings(each) for each in value]
    if isinstance(value, dict):
        return {key: without_timings(each) for key, each in value.items() if key not in TIMINGS}
    return value


def assert_same_end(
    runs: Path, expected: Undisturbed, why: object, environment: Mapping[str, str] | None = None
) -> None:
    found, wanted = left(runs), expected.files
    if environment:
        wanted = {**wanted, "names": {name for name in wanted["names"] if not name.endswith((".png", ".html", ".csv"))}}
    assert [key for key in wanted if found[key] != wanted[key]] == [], f"{why}: {found['names'] ^ wanted['names']}"


def assert_died_as_asked(ended: Ended, number: signal.Signals, why: object) -> None:
    assert not ended.orphans, f"{why}: {ended.orphans} processes were left behind"
    assert ended.code == (STOPPED if number == signal.SIGTERM else -signal.SIGKILL), f"{why}: {ended}"
    # A worker may say that the process which SIGKILL took from it is gone.
    assert number == signal.SIGKILL or "Traceback" not in ended.said, f"{why}: {ended}"


def usable(loader: str, shards: Path) -> None:
    if reason := loader_class(loader).unavailable(ShardSet.open(shards), "cpu"):
        pytest.skip(reason)


def finish(server: Server, runs: Path, line: list[str], why: object, environment: Mapping[str, str]) -> None:
    if ends_of(runs):  # it was killed while it took leave: `auto` would begin another
        return
    ended = server.run(*line, environment=environment)
    assert ended.code == 0 and not ended.orphans, f"{why}: {ended}"


@pytest.mark.full
def test_at_every_write(undisturbed, server: Server, scratch: Path, shard_folder: Path, fault) -> None:
    expected = alone("native", undisturbed, server, scratch, shard_folder)
    runs = scratch / "killed"
    line = command(shard_folder, runs, "native")
    assert_safe_order(expected.acts, IN_PLACE)
    points = points_of(expected.acts, scratch / "alone-native")
    blows = blows_at(points)
    share, of = map(int, os.environ.get("FASTTRAIN_KILL_SHARE", "1/1").split("/"))  # to do them in several goes
    some = blows[share - 1 :: of] if fault.full else random.Random(SEED).sample(blows, 2)
    print(f"{len(points)} points, {len(blows)} blows, {len(some)} done, seed {SEED}")
    # A checkpoint is written while training goes on: its last writes may come when all is trained.
    last = next(at for at, each in enumerate(points) if "history.json" in each.path)
    late = 0
    for blow in some:
        shutil.rmtree(runs, ignore_errors=True)
        why = f"{blow}, seed {SEED}"
        # The run's folder is fsynced for each figure, too: without them its later fsyncs never come.
        for_a_figure = re.search(r"\.(png|html)\b", blow.point.path) or blow.point.path.count("/") < 2
        plain = {} if for_a_figure else PLAIN
        ended = server.run(*line, environment={**plain, **blow.environment(runs)})
        assert ended.struck, f"{why}: it never came there: {ended}"
        if blow.number == signal.SIGTERM and ended.code == 0:  # only the report was left
            assert points.index(blow.point) >= last, f"{why}: stopped nothing"
            late += 1
        else:
            assert_died_as_asked(ended, blow.number, why)
            finish(server, runs, line, why, plain)
        assert_same_end(runs, expected, why, plain)
    fault.seen(
        "`train` killed at a write",
        f"a preloaded library strikes at the run folder's {len(points)} points (create, write, fsync, rename, unlink, "
        "mkdir): SIGKILL and SIGTERM before and after each, and half-way through a write; then `--resume auto`; in "
        "children forked from a process that has imported torch, without figures but for the blows at one",
        len(some),
        measured=f"same weights and history; {late} SIGTERMs came when only the report was left, which they let end",
    )


@pytest.mark.parametrize("loader", list(LOADERS))
def test_again_and_again_until_it_is_done(
    loader: str, undisturbed, server: Server, scratch: Path, shard_folder: Path, fault
) -> None:
    """At random instants of one run after the other."""
    usable(loader, shard_folder)
    if loader != "native" and not fault.full:
        pytest.skip("only at full length")
    expected = alone(loader, undisturbed, server, scratch, shard_folder)
    drawn, plain = random.Random(f"{SEED} {loader}"), {} if fault.full else PLAIN
    runs = scratch / f"chain-{loader}"
    line = command(shard_folder, runs, loader)
    wanted = fault.times(2, 20 if loader == "native" else 5)
    kills = finished = 0
    while kills < wanted:
        shutil.rmtree(runs, ignore_errors=True)
        for _ in range(100):
            number, group = drawn.choice(SIGNALS), drawn.random() < 0.5
            instant = drawn.uniform(0, expected.seconds * (0.4 if plain else 1))
            ended = server.run(*line, environment=plain, after=instant, number=number, group=group)
            why = f"seed {SEED}, kill {kills}, {number.name} after {instant:.2f} s"
            if ended.code == 0:
                break
            if ended.code == -signal.SIGTERM and not runs.exists():  # before it was Python's to handle
                continue
            assert_died_as_asked(ended, number, why)
            kills += 1
            if kills == wanted:
                finish(server, runs, line, why, plain)
            if ends_of(runs):
                break
        finished += 1
        assert_same_end(runs, expected, f"seed {SEED}", plain)
    fault.seen(
        f"`train --loader {loader}` killed at random instants",
        "SIGKILL or SIGTERM, to the process or to its group, then `--resume auto`, again and again until the run was "
        "done; seeded; forked as above",
        kills,
        measured=f"{finished} runs, same weights and history each; no process was left behind",
    )


def test_whole_processes(undisturbed, server: Server, scratch: Path, shard_folder: Path, tmp_path: Path, fault) -> None:
    """Not forked: `python -m fasttrain train`, its imports and all."""
    if not fault.full:
        pytest.skip("only at full length: each imports torch")
    expected = alone("native", undisturbed, server, scratch, shard_folder)
    drawn = random.Random(f"{SEED} whole")
    runs = tmp_path / "runs"
    kills = 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-m", "fasttrain", *command(shard_folder, runs, "native")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        number = SIGNALS[kills % 2]
        instant = drawn.uniform(0.3, 1.5 * expected.seconds + 8)
        if kills < 4:
            try:
                said, _ = process.communicate(timeout=instant)
            except subprocess.TimeoutExpired:
                process.send_signal(number)
        said, _ = process.communicate(timeout=PATIENCE)
        if process.returncode == 0:
            break
        if process.returncode == -signal.SIGTERM and not runs.exists():  # before it was Python's to handle
            continue
        kills += 1
        assert_died_as_asked(Ended(process.returncode, said), number, f"seed {SEED}, kill {kills}: {said}")
        if ends_of(runs):
            break
    assert_same_end(runs, expected, f"seed {SEED}")
    fault.seen(
        "`train` killed at random instants, as whole processes",
        "`python -m fasttrain train --resume auto`, SIGKILL and SIGTERM in turn, from its imports on",
        kills,
        measured="same weights and history",
    )


def test_a_worker_that_is_killed(undisturbed, server: Server, scratch: Path, shard_folder: Path, fault) -> None:
    """torchvision's workers are processes: the run ends with one line, and goes on from its checkpoint."""
    if not fault.full:
        pytest.skip("only at full length: it imports torch")
    expected = alone("torchvision", undisturbed, server, scratch, shard_folder)
    times = fault.times(1, 3)
    for number in range(times):
        folder = scratch / f"worker-{number}"
        folder.mkdir()
        settings = {**EXACT, "loader": "torchvision", "out": folder / "runs", "resume": "auto"}
        process = start_run(shard_folder, folder, pause_at=2, **settings)
        with paused(process, folder):
            (worker,) = children_of(process.pid)
            os.kill(worker, signal.SIGKILL)
        said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 2 and "worker process was killed" in said and "Traceback" not in said, said
        finish(server, folder / "runs", command(shard_folder, folder / "runs", "torchvision"), said, {})
        assert_same_end(folder / "runs", expected, said)
    fault.seen(
        "a worker of `--loader torchvision` killed",
        "SIGKILL to the worker process after the second step",
        times,
        measured="one line, exit code 2; resumed: same weights and history",
    )


def children_of(pid: int) -> list[int]:
    """Processes that `pid` has started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(process.name))
    return found


def test_what_every_command_writes(
    server: Server, tmp_path: Path, shard_folder: Path, photographs: Path, fault
) -> None:
    """A power cut tears nothing: final files are fsynced before they get their names, and their folders after."""
    folder = tmp_path.resolve() / "all"
    folder.mkdir()
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "FASTTRAIN_CACHE": str(folder / "cache")}
    small = {**SMALL, "model": "test_resnet", "image_size": 32, "epochs": 1, "limit_batches": 2, "data": shard_folder}
    tracked = fault.full
    written: dict[str, set[str]] = {}

    def run(*line: object) -> None:
        acts = [act for act in server.logged(folder, *line, environment=store) if "/matplotlib/" not in act.path]
        new = assert_safe_order(acts, IN_PLACE)
        written[str(line[0])] = written.get(str(line[0]), set()) | {Path(each).name for each in new}

    runs = folder / "runs"
    train = ["train", *arguments(**small, out=runs, track=tracked, profile=True)]
    run(*train)
    checkpoint = next(runs.iterdir())
    run(
        "evaluate",
        "--checkpoint",
        checkpoint,
        "--data",
        shard_folder,
        "--out",
        folder / "e" / "e.json",
        "--report",
        folder / "e" / "e.html",
    )
    run("export", "--checkpoint", checkpoint, "--format", "torchscript", "--out", folder / "x" / "m.torchscript")
    run("preview", "--data", shard_folder, "--out", folder / "p" / "preview.png")
    if fault.full:
        for format in ("onnx", "exported-program"):
            run("export", "--checkpoint", checkpoint, "--format", format)
        run("inspect", shard_folder, "--sheet", folder / "sheet.png")
        run("train", *arguments(**small, out=folder / "probe", linear_probe=True, track=False))
        run(*train)
        run("compare", *runs.iterdir(), "--out", folder / "compare.svg")
        probing = arguments(**{**small, "epochs": 2})
        run(
            "lr-find",
            *arguments(data=shard_folder, model="test_resnet", pretrained=False, image_size=32, device="cpu"),
            "--picture",
            folder / "lr" / "lr.png",
        )
        run("tune", *probing, "--out", folder / "tuned", "--trials", 2)
        run("convert", "--source", photographs, "--out", folder / "shards", "--format", "tar,beton")
    whole = {"model.safetensors", "history.json", "evaluation.json", "report.html", "config.toml", "curves.png"}
    assert whole <= written["train"]
    assert {"e.json", "e.html"} <= written["evaluate"] and "m.torchscript" in written["export"]
    assert "preview.png" in written["preview"]
    count = sum(map(len, written.values()))
    fault.seen(
        "power cut at any time",
        f"a preloaded library lists every write of {', '.join(sorted(written))}: each final file's content is fsynced "
        "before its rename, the folder after it; only logs and stores are added to in place",
        count,
        measured=f"{count} files",
    )


def test_that_it_would_be_seen() -> None:
    def acts(*given: tuple[str, str] | tuple[str, str, str]) -> list[Act]:
        return [Act(each[0], f"/w/{each[1]}", f"/w/{each[2]}" if len(each) > 2 else "") for each in given]

    begin = [("create", ".a.1.tmp"), ("write", ".a.1.tmp")]
    whole = [*begin, ("fsync", ".a.1.tmp"), ("rename", "a", ".a.1.tmp")]
    good = acts(*whole)
    assert assert_safe_order([*good, Act("fsync", "/w", "")]) == {"/w/a"}
    with pytest.raises(AssertionError, match="folder was not fsynced"):
        assert_safe_order(good)
    with pytest.raises(AssertionError, match="before the fsync"):
        assert_safe_order(acts(*begin, ("rename", "a", ".a.1.tmp")))
    with pytest.raises(AssertionError, match="before the fsync"):
        assert_safe_order(acts(*begin, ("fsync", ".a.1.tmp"), ("write", ".a.1.tmp"), ("rename", "a", ".a.1.tmp")))
    with pytest.raises(AssertionError, match="in place"):
        assert_safe_order(acts(("create", "a"), ("write", "a"), ("fsync", "a")))
    assert assert_safe_order(acts(("create", "a"), ("write", "a")), in_place=["/a$"]) == set()
