"""W&B and TensorBoard, the real ones, without a network: read back after kills, resumes and outages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from fasttrain.cli.train import with_current_track_option
from fasttrain.config.load import resolve
from fasttrain.config.schema import TrainConfig
from fasttrain.config.trackers import Trackers
from fasttrain.errors import UserError
from fasttrain.tracking import mirror
from fasttrain.tracking.lock import is_locked
from fasttrain.tracking.mirrored import require_trackers, start_trackers
from fasttrain.tracking.record import Record
from fasttrain.tracking.sync import waiting_records
from fasttrain.tracking.tracker import NullTracker
from tests.support import wandb_file
from tests.support.patience import PATIENCE, wait_until
from tests.support.runs import paused, start_run


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("OPEN_TIMEOUT", "FINISH_TIMEOUT", "_KILLED_S", "_FAILING_S"):
        monkeypatch.setattr(mirror, name, PATIENCE)
    yield tmp_path
    if (wandb := sys.modules.get("wandb")) is not None:
        wandb.teardown()  # it reads the environment once a process


def write_history(folder: Path, epochs: int) -> None:
    folder.mkdir(exist_ok=True)
    rows = [
        {"epoch": at, "train_loss": 1 / at, "val_top1": 0.1 * at, "epoch_seconds": 1.0} for at in range(1, epochs + 1)
    ]
    (folder / "history.json").write_text(json.dumps(rows))


def started(folder, trackers, said=None):
    given = {"experiment": "food", "run_name": "first", "params": {"learning_rate": 0.1, "model": "m"}}
    report = print if said is None else said.append
    return start_trackers(Trackers.parse(trackers), **given, tags={"host": "a"}, folder=folder, report=report)


def events(folder: Path):
    """The scalars of a run by name, as step and value, and TensorBoard's own reader."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    files = list(folder.glob("events.out.tfevents.*"))
    assert len(files) == 1, files
    reader = accumulator.EventAccumulator(str(folder))
    reader.Reload()
    scalars = {name: [(each.step, each.value) for each in reader.Scalars(name)] for name in reader.Tags()["scalars"]}
    return scalars, reader


def offline_run(folder: Path) -> Path:
    found = list(folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(found) == 1, found
    return found[0]


def rows_of(run: Path, steps: list[int]):
    """The rows of these steps and no others, once W&B's own process has written them."""
    wait_until(lambda: [row["_step"] for row in wandb_file.history(run)] == steps)
    return wandb_file.history(run)


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("mlflow", ("mlflow",)),
        ("none", ()),
        (True, ("mlflow",)),
        (False, ()),
        ("wandb, TensorBoard,wandb", ("wandb", "tensorboard")),
    ],
)
def test_trackers_are_named_in_several_ways(written, names):
    config = TrainConfig(track=written)
    assert config.track.names == names and bool(config.track) == bool(names)
    assert TrainConfig(track=config.plain()["track"]).track == config.track


@pytest.mark.parametrize(
    ("written", "said"),
    [("wandbb", "did you mean 'wandb'"), ("none,wandb", "'none' can't be combined"), ("", "mlflow")],
)
def test_other_names_are_refused_in_one_line(written, said):
    with pytest.raises(UserError, match=said):
        resolve({"track": written})


def test_the_forms_of_older_versions_still_work():
    assert with_current_track_option(["train", "--no-track"]) == ["train", "--track", "none"]
    assert with_current_track_option(["train", "--track", "--amp"]) == ["train", "--track", "mlflow", "--amp"]
    assert with_current_track_option([]) == []
    assert with_current_track_option(["train", "--track"]) == ["train", "--track", "mlflow"]
    assert with_current_track_option(["train", "--track", "wandb"]) == ["train", "--track", "wandb"]


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr("fasttrain.tracking.wandb.Wandb.needs", ("no_such_module",))
    with pytest.raises(UserError, match=r"--track wandb needs no_such_module.*\[wandb\]"):
        require_trackers(Trackers.parse("mlflow,wandb"))
    require_trackers(Trackers.parse("mlflow"))


def test_none_is_nothing(here):
    assert type(started(here / "run", "none")) is NullTracker and not (here / "run").exists()


@pytest.mark.slow
def test_a_run_is_in_both_and_nothing_waits_for_mlflow(here):
    pytest.importorskip("wandb")
    folder = here / "run"
    write_history(folder, 2)
    Image.new("RGB", (8, 6), "red").save(folder / "curves.png")
    with started(folder, "tensorboard,wandb") as tracker:
        tracker.sync()
        assert is_locked(folder)
        (folder / "evaluation.json").write_text(
            json.dumps({"split": "test", "top1": 0.5, "loss": 1.0, "best_epoch": 2})
        )
        tracker.log_artifacts([folder / "curves.png"])
        tracker.sync()
    assert not is_locked(folder) and not (here / "mlflow.db").exists()
    assert list(waiting_records([folder / "tracking.json"])) == []
    assert tracker.places["TensorBoard"].endswith("run") and "wandb sync" in tracker.places["W&B"]

    scalars, reader = events(folder)
    assert scalars["val/top1"] == [(1, pytest.approx(0.1)), (2, pytest.approx(0.2))]
    assert scalars["test/top1"] == [(2, 0.5)]
    assert {"params/text_summary", "tags/text_summary"} <= set(reader.Tags()["tensors"])
    assert [(each.step, each.width) for each in reader.Images("curves")] == [(2, 8)]

    run = offline_run(folder)
    rows = rows_of(run, [1, 2])
    assert [row["val/top1"] for row in rows] == [0.1, 0.2]
    assert wandb_file.summary(run)["test/top1"] == 0.5 and wandb_file.summary(run)["val/top1"] == 0.2
    assert wandb_file.config(run)["learning_rate"] == 0.1
    assert (run.parent / "files" / "curves.png").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.support.patience import wait_until
from tests.support.wandb_file import history
from tests.tracking.test_mirrors import started

folder = Path("run")
started(folder, "tensorboard,wandb").sync()
steps = lambda: [row["_step"] for path in folder.glob("wandb/offline-run-*/*.wandb") for row in history(path)]
wait_until(lambda: steps() == [1, 2] and any(folder.glob("events.out.tfevents.*")))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_its_epochs_and_is_continued_with_each_once(here):
    pytest.importorskip("wandb")
    folder = here / "run"
    write_history(folder, 2)
    root = str(Path(__file__).parents[2])
    killed = subprocess.run([sys.executable, "-c", KILLED], env={**os.environ, "PYTHONPATH": root}, timeout=PATIENCE)
    assert killed.returncode == -signal.SIGKILL
    torn = next(folder.glob("events.out.tfevents.*"))
    torn.write_bytes(torn.read_bytes()[:-3])
    before, uuid = offline_run(folder), json.loads((folder / "tracking.json").read_text())["uuid"]

    write_history(folder, 3)
    with started(folder, "tensorboard,wandb") as again:
        again.sync()
    assert again.uuid == uuid
    scalars, _ = events(folder)
    assert [step for step, _ in scalars["val/top1"]] == [1, 2, 3]
    after = offline_run(folder)
    assert after != before and after.name == before.name, "the same run"
    rows_of(after, [1, 2, 3])


def test_a_tracker_that_fails_is_one_line_and_training_goes_on(here, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(mirror, "_FAILING_S", 0.5)
    monkeypatch.setattr(mirror, "_FIRST_RETRY_S", 0.05)
    folder = here / "run"
    write_history(folder, 1)

    def open(self):
        raise OSError("no space left")

    monkeypatch.setattr("fasttrain.tracking.tensorboard.TensorBoard.open", open)
    said: list[str] = []
    with started(folder, "tensorboard", said) as tracker:
        began = time.monotonic()
        for epochs in (2, 3):
            write_history(folder, epochs)
            tracker.sync()
        assert time.monotonic() - began < 5
        wait_until(lambda: len(said) == 1)
    assert "TensorBoard fails (no space left); the run continues" in said[0]
    assert "TensorBoard lacks the end of the run" in said[1] and len(said) == 2


@pytest.mark.slow
def test_wandb_without_its_server_or_a_key_is_offline(here, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(here / "none"))
    monkeypatch.setenv("HOME", str(here))
    folder = here / "run"
    write_history(folder, 1)
    said: list[str] = []
    with started(folder, "wandb", said) as tracker:
        tracker.sync()
    assert "W&B is offline (no API key: run wandb login" in said[0] and "wandb sync" in said[0] and len(said) == 1
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    write_history(folder, 2)
    with started(folder, "wandb", said) as tracker:
        tracker.sync()
    assert "W&B is offline (http://127.0.0.1:9 does not answer)" in said[1] and len(said) == 2
    rows_of(offline_run(folder), [1, 2])


def test_mlflow_gets_what_it_lacks_of_a_run_that_went_on_without_it(here):
    pytest.importorskip("tensorboard")
    folder = here / "run"
    write_history(folder, 1)
    Record(folder / "tracking.json", uuid="1", experiment="food", run_name="r", params={}, tags={}).save()
    with started(folder, "tensorboard") as tracker:
        tracker.sync()
    assert tracker.uuid == "1"
    assert [record.uuid for record, _ in waiting_records([folder / "tracking.json"])] == ["1"]


@pytest.mark.full
@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed(shard_folder, here):
    """SIGKILL in the second epoch, then resumed: one run in each tracker, each epoch once."""
    pytest.importorskip("wandb")
    small = {"track": "tensorboard,wandb", "epochs": 2, "limit_batches": 2, "save_every": 1, "figures": False}
    process = start_run(shard_folder, here, pause_at=3, **small)
    with paused(process, here):
        folder = next((here / "runs").iterdir())
        process.kill()
    process.wait(PATIENCE)
    process = start_run(shard_folder, here, resume="auto", bare=True, figures=False)
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, output
    assert "TensorBoard" in output and "wandb sync" in output, output
    scalars, _ = events(folder)
    assert [step for step, _ in scalars["val/loss"]] == [1, 2]
    history = json.loads((folder / "history.json").read_text())
    rows = rows_of(offline_run(folder), [1, 2])
    assert [row["val/loss"] for row in rows] == [each["val_loss"] for each in history]
    assert not (here / "mlflow.db").exists()
