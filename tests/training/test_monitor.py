"""`--monitor`: which metric of the validation decides the best epoch, early stopping and plateau's drops."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from fasttrain import train
from fasttrain.commands import run as run_module
from fasttrain.config.monitor import MONITORS
from fasttrain.errors import UserError
from fasttrain.tracking.runs import run_of_folder
from fasttrain.training.early_stopping import EarlyStopping
from fasttrain.training.optim import Schedule
from tests.support.runs import SMALL, killed_after, last_state

# The loss is best in the first epoch, top-1 in the second, macro F1 in the third.
LOSSES, TOP1, MACRO_F1 = (1.0, 1.1, 1.2, 1.3), (0.5, 0.7, 0.7, 0.6), (0.3, 0.4, 0.6, 0.6)
RUN = {**SMALL, "model": "test_convnext", "image_size": 32, "limit_batches": 1, "epochs": 4, "deterministic": True}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the n-th validation of the run give the n-th of the metrics above; the last evaluation stays real."""
    evaluate = run_module.Run._evaluate

    def scripted_evaluate(self: Any, model: Any, loader: Any, *, stoppable: bool = False, **options: Any) -> Any:
        evaluation, predictions = evaluate(self, model, loader, stoppable=stoppable, **options)
        if stoppable:
            at = self.state.epoch
            evaluation = replace(evaluation, loss=LOSSES[at], top1=TOP1[at], macro_f1=MACRO_F1[at])
        return evaluation, predictions

    monkeypatch.setattr(run_module.Run, "_evaluate", scripted_evaluate)


def test_ties_and_nan_are_no_improvement():
    for name, values, best in (("val_loss", LOSSES, 0), ("top1", TOP1, 1), ("macro_f1", MACRO_F1, 2)):
        stopping = EarlyStopping(patience=9, monitor=name)
        for epoch, value in enumerate(values):
            stopping.update(epoch, value)
        assert (stopping.best_epoch, stopping.best) == (best, values[best])
        assert not stopping.update(9, math.nan)
    worst = EarlyStopping(patience=1, monitor="top1")
    assert worst.update(0, 0.0), "also an accuracy of 0 is the best so far"
    assert not worst.update(1, 0.0) and worst.should_stop


def test_checkpoints_of_before_name_the_loss():
    stopping = EarlyStopping(patience=2)
    stopping.load_state_dict({"patience": 5, "best_loss": 0.5, "best_epoch": 3, "waited": 1})
    assert (stopping.patience, stopping.best, stopping.best_epoch, stopping.waited) == (2, 0.5, 3, 1)
    stopping.load_state_dict({"patience": 5, "best_loss": math.inf, "best_epoch": -1, "waited": 0})
    assert stopping.update(0, 3.0)


def test_plateau_waits_for_a_greater_accuracy():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    settings = {"learning_rate": 1.0, "epochs": 9, "steps_per_epoch": 1, "patience": 1, "factor": 0.1}
    schedule = Schedule(optimizer, "plateau", warmup_epochs=0, greater_is_better=True, **settings)
    rates = []
    for top1 in (0.1, 0.2, 0.3, 0.3, 0.2, 0.4):
        schedule.after_epoch(top1)
        rates.append(schedule.learning_rate)
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1])


@pytest.mark.parametrize(("monitor", "best"), [("val_loss", 1), ("top1", 2), ("macro_f1", 3)])
@pytest.mark.slow
def test_it_chooses_the_epoch_and_everything_says_so(monitor, best, shard_folder, tmp_path, scripted, capsys):
    run = train(data=shard_folder, out=tmp_path, track=False, early_stopping=0, monitor=monitor, **RUN)
    assert (run.best_epoch, run.monitor) == (best, monitor)
    field = MONITORS[monitor].field
    written = json.loads((run.folder / "evaluation.json").read_text())
    assert (written["best_epoch"], written["monitor"]) == (best, monitor)
    assert written[f"best_epoch_{field}"] == run.history[best - 1][field]
    title = MONITORS[monitor].title
    assert title in " ".join(capsys.readouterr().out.split()) and title in (run.folder / "report.html").read_text()
    found = run_of_folder(run.folder)
    assert found.best_epoch == found.metrics["val_best/epoch"] == best
    kept = last_state(run.folder)["early_stopping"]
    assert (kept["monitor"], kept["best_epoch"]) == (monitor, best - 1)
    assert kept["best"] == run.history[best - 1][field]


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_it_stops_early_and_resumes(shard_folder, tmp_path, scripted):
    settings = {**RUN, "early_stopping": 1, "track": False, "scheduler": "plateau", "patience": 0}
    assert len(train(data=shard_folder, out=tmp_path / "loss", **settings).history) == 2
    settings["monitor"] = "top1"
    alone = train(data=shard_folder, out=tmp_path / "alone", **settings)
    assert (len(alone.history), alone.best_epoch) == (3, 2)
    with killed_after(lambda state: state["epoch"] == 2):
        train(data=shard_folder, out=tmp_path / "killed", **settings)
    resumed = train(resume="auto", out=tmp_path / "killed")
    assert (len(resumed.history), resumed.best_epoch) == (3, 2)
    assert [each["learning_rate"] for each in resumed.history] == [each["learning_rate"] for each in alone.history]
    ours, theirs = (last_state(run.folder)["best"] for run in (resumed, alone))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(UserError, match="monitor = top1 can't become val_loss"):
        train(resume=str(resumed.folder), monitor="val_loss")


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_mlflow_has_the_metric(shard_folder, tmp_path, monkeypatch, scripted):
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = train(data=shard_folder, out=tmp_path / "runs", **{**RUN, "epochs": 2, "monitor": "top1"})
    found = MlflowClient(uri).get_run(run.mlflow_run_id).data
    assert found.params["monitor"] == "top1"
    assert (found.metrics["val_best/epoch"], found.metrics["val/top1"]) == (2, 0.7)
    assert found.metrics["val/macro_f1"] == 0.4
