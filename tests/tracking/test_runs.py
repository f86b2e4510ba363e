"""Runs read back from MLflow and from their folders, side by side."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow_processes import FirstRun, delivered

from fasttrain.errors import UserError
from fasttrain.report.comparison import comparison_dict, differences, metric_rows
from fasttrain.report.comparison_figure import comparison_figure, write_comparison
from fasttrain.report.runs_table import runs_table
from fasttrain.tracking.names import epoch_metrics, final_metrics
from fasttrain.tracking.runs import TrackedRun, find_runs, list_runs, run_of_folder, tracking_uri
from fasttrain.tracking.tracker import Tracker
from tests.support.patience import PATIENCE, wait_until


def track(here: Path, name: str, losses: list[float], error: BaseException | None = None, **params: Any) -> str:
    """A run of an epoch for each loss, whose accuracy is 1 - loss; returns its id."""
    given = {"model": "mobilenetv2_100", "epochs": 5, "learning_rate": 0.1, **params}
    try:
        with Tracker.start(
            "food", name, given, {"run_folder": here / "runs" / name}, folder=here / "runs" / name
        ) as run:
            for epoch, loss in enumerate(losses, 1):
                metrics = {"val_loss": loss, "val_top1": 1 - loss, "img/s": 100 * epoch}
                run.log_metrics(epoch_metrics(metrics), epoch)
            if error:
                raise error
            evaluation = {"split": "test", "top1": 0.9 - min(losses), "training_seconds": 60 * len(losses)}
            run.log_metrics(final_metrics(evaluation), len(losses))
    except (KeyboardInterrupt, ValueError):
        pass
    assert run.run_id
    return run.run_id


@pytest.fixture
def three(here: Path) -> dict[str, str]:
    """Ids of a finished, a killed and a failed run, by name, begun in this order."""
    return {
        "good": track(here, "good", [0.5, 0.2, 0.4]),
        "stopped": track(here, "stopped", [0.6], KeyboardInterrupt(), learning_rate=0.2),
        "broken": track(here, "broken", [], ValueError("the loss\nis NaN"), model="efficientnet_b0"),
    }


def test_a_study_of_tune_is_not_a_run_but_its_trials_are(here: Path) -> None:
    for name, tags in (("tune it", {"study": "s.db"}), ("trial 0", {"study": "s.db", "trial": "0"})):
        with Tracker.start("food", name, {"epochs": 2}, tags, folder=here / "runs" / name) as run:
            run.log_metrics({"val/top1": 0.5, "val/loss": 1.0}, 1)
    assert [run.name for run in list_runs(experiment="food", limit=2)] == ["trial 0"]


def test_runs_are_listed_with_the_metrics_of_their_best_epoch(three: dict[str, str]) -> None:
    runs = list_runs(experiment="food")
    assert [run.name for run in runs] == ["broken", "stopped", "good"], "the newest first"
    assert [run.status for run in runs] == ["failed", "killed", "finished"]
    good = runs[2].to_dict()
    assert good["run_id"] == three["good"] and good["val_best/epoch"] == 2 and good["epochs"] == 3
    assert good["val/top1"] == pytest.approx(0.8) and good["test/top1"] == pytest.approx(0.7)
    assert (
        good["speed/images_per_second"] == pytest.approx(200) and good["duration"] == 180 and good["epochs_asked"] == 5
    )
    assert runs[0].error == "ValueError: the loss\nis NaN" and runs[0].to_dict()["val/top1"] is None
    json.dumps([run.to_dict() for run in runs])
    shown = runs_table(runs, 80).plain
    assert max(map(len, shown.splitlines())) <= 80
    assert "80.00%" in shown and "3/5" in shown and "killed" in shown and "ValueError: the loss is NaN" in shown
    assert "in runs" in shown


def test_runs_are_sorted_and_limited(three: dict[str, str]) -> None:
    def names(**how: Any) -> list[str]:
        return [run.name for run in list_runs(experiment="food", **how)]

    assert names(sort="val/top1") == names(sort="val_top1") == ["good", "stopped", "broken"]
    assert names(sort="name") == ["broken", "good", "stopped"]
    assert names(limit=1) == ["broken"] and names(sort="img/s", limit=2) == ["good", "stopped"]
    assert len(list_runs()) == 4, "the fixture's first run, of another experiment"
    with pytest.raises(UserError, match="did you mean 'val/top1'"):
        names(sort="val/top")
    with pytest.raises(UserError, match="did you mean 'food'"):
        list_runs(experiment="foods")


def test_the_file_is_read_as_mlflow_reads_it(
    three: dict[str, str], here: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    track(here, "odd", [math.nan, math.inf, 0.5])
    client.delete_run(three["broken"])
    monkeypatch.setattr("fasttrain.tracking.runs._PAGE", 2)
    ours = list_runs()
    monkeypatch.setattr("fasttrain.tracking.runs.sqlite_client", lambda uri: None)
    assert repr(ours) == repr(list_runs())
    assert [run.name for run in ours][:3] == ["odd", "stopped", "good"]


def test_the_file_is_read_without_mlflow(three: dict[str, str]) -> None:
    code = "import sys; sys.argv = ['fasttrain', 'runs', '--json']\n"
    code += "import atexit; atexit.register(lambda: print({'mlflow', 'torch', 'sqlalchemy'} & set(sys.modules)))\n"
    code += "from fasttrain.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.endswith("]\nset()\n"), done.stdout + done.stderr


def test_a_run_that_still_runs_is_told_from_one_that_was_killed_without_a_word(here: Path, client: Any) -> None:
    running = Tracker.start("food", "running", {}, {"run_folder": here / "a"}, folder=here / "a")
    assert running.wait_for_run()
    wait_until(lambda: delivered(running))
    long_ago = int((time.time() - 3 * 3600) * 1000)
    experiment = client.get_experiment_by_name("food").experiment_id
    client.create_run(experiment, long_ago, {"run_folder": str(here / "gone")}, "silent")
    runs = {run.name: run for run in list_runs(experiment="food")}
    assert runs["running"].status == runs["silent"].status == "running"
    assert runs["running"].alive and not runs["running"].silent
    assert runs["silent"].silent and not runs["silent"].alive
    lines = runs_table(list(runs.values()), 80).plain.splitlines()
    said = {line[2:].split()[0]: line[0] for line in lines if line[0] != " "}
    assert said["running"] == "▶" and said["silent"] == "?"
    running.finish()


def test_runs_are_found_by_folder_name_and_id(here: Path, three: dict[str, str]) -> None:
    (here / "runs" / "good" / "config.toml").write_text("epochs = 5\n")
    found = find_runs(["runs/good", "stopped", three["broken"], three["broken"][:8], "stop"])
    assert [run.name for run in found] == ["good", "stopped", "broken", "broken", "stopped"]
    assert found[0].run_id is None and found[1].run_id == three["stopped"]
    with Tracker.start("food", "stopped", {}, folder=here / "another"):
        pass
    with pytest.raises(UserError, match=f"'stopped' matches 2 runs.*{three['stopped'][:8]}"):
        find_runs(["stopped"])
    with pytest.raises(UserError, match=r"'goood' is neither a run folder nor a tracked run; the nearest names: good"):
        find_runs(["goood"])


def test_where_nothing_is_tracked_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"mlflow\.db: no runs are tracked here"):
        tracking_uri()
    with pytest.raises(UserError, match="'some' is not a run folder, and"):
        find_runs(["some"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9: .*check that the server runs"):
        list_runs()
    assert not list(tmp_path.iterdir())


def test_runs_side_by_side(here: Path, three: dict[str, str]) -> None:
    runs = find_runs(["good", "stopped"])
    assert differences(runs) == {"learning_rate": ["0.1", "0.2"]}
    rows = {row.name: row for row in metric_rows(runs)}
    assert rows["val/top1"].values == pytest.approx((0.8, 0.4)) and rows["val/top1"].best() == {0}
    assert rows["val/loss"].best() == {0} and rows["epochs"].best() == set()
    assert rows["test/top1"].values == (pytest.approx(0.7), None) and rows["test/top1"].best() == set()
    assert "train/loss" not in rows
    json.dumps(comparison_dict(runs))
    accuracy, loss = comparison_figure(runs).axes
    curve = accuracy.lines[0].get_xydata().tolist()
    assert curve == [[1, pytest.approx(0.5)], [2, pytest.approx(0.8)], [3, pytest.approx(0.6)]]
    assert loss.lines[1].get_xydata().tolist() == [[2, pytest.approx(0.2)]], "the best epoch's ring"
    write_comparison(runs, here / "curves.svg")
    assert "<svg" in (here / "curves.svg").read_text()
    with pytest.raises(UserError, match=r"curves\.doc: give a name that ends in"):
        write_comparison(runs, here / "curves.doc")


@pytest.mark.slow
def test_a_trained_run_is_the_same_from_its_folder_and_from_mlflow(shard_folder: Path, here: Path) -> None:
    from fasttrain import train

    result = train(
        data=shard_folder,
        model="mobilenetv2_035",
        pretrained=False,
        image_size=32,
        batch_size=32,
        epochs=2,
        workers=0,
        device="cpu",
        loader="auto",
        out=here / "runs",
    )
    folder, tracked = run_of_folder(result.folder), find_runs([result.folder.name])[0]
    assert folder.status == tracked.status == "finished"
    assert dict(folder.params) == dict(tracked.params) and folder.params["loader"] != "auto"
    assert folder.curves == tracked.curves
    assert folder.epochs == 2 and folder.best_epoch == tracked.best_epoch == result.best_epoch
    assert folder.seconds == tracked.seconds == pytest.approx(result.seconds)
    assert differences([folder, tracked]) == {}
    for mine, row in ((row.values[0], row) for row in metric_rows([folder, tracked])):
        assert row.values[1] == pytest.approx(mine), row.name
    assert tracked.metrics["val_best/top1"] == folder.metrics["val_best/top1"] == result.evaluation.top1
    assert folder.folder == tracked.folder == result.folder.resolve()


def test_a_run_is_known_by_its_history_alone(tmp_path: Path) -> None:
    (tmp_path / "history.json").write_text(
        json.dumps([{"epoch": 1, "val_loss": 2.0, "val_top1": 0.5, "img/s": 10.0, "epoch_seconds": 3.0}])
    )
    run = run_of_folder(tmp_path)
    assert isinstance(run, TrackedRun) and run.epochs == 1 and run.at_best("val/top1") == 0.5
    (tmp_path / "history.json").write_text("[")
    with pytest.raises(UserError, match=r"history\.json: can't be read"):
        run_of_folder(tmp_path)


def test_the_commands(
    first_run: FirstRun, here: Path, three: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from fasttrain.cli import app

    listed = CliRunner().invoke(app, ["runs", "--json", "--experiment", "food"])
    assert [each["name"] for each in json.loads(listed.stdout)] == ["broken", "stopped", "good"]
    shown = CliRunner().invoke(app, ["runs", "--limit", "2"])
    assert shown.exit_code == 0 and "broken" in shown.stdout and "good" not in shown.stdout
    assert "and more" in shown.stdout
    compared = CliRunner().invoke(app, ["compare", "good", "stopped", "--out", "both.png"])
    assert compared.exit_code == 0 and "learning_rate" in compared.stdout and "80.00%" in compared.stdout
    assert (here / "both.png").read_bytes()[:4] == b"\x89PNG"
