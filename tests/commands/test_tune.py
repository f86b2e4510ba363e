"""`tune`: real runs, real studies: one that is killed goes on, bad trials are pruned or fail, MLflow has them all."""

from __future__ import annotations

import itertools
import json
import shlex

import mlflow
import optuna
import pytest
from PIL import Image

from fasttrain.commands.tune import tune
from fasttrain.config.load import resolve
from fasttrain.errors import UserError
from fasttrain.tuning.search import Space
from tests.support.runs import SMALL, killed_after

SETTINGS = {name: value for name, value in SMALL.items() if name not in ("batch_size", "learning_rate")}
BATCHES = (16, 24)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """MLflow's own SQLite store for this module."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("store")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.chdir(folder)
        yield mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="module")
def settings(shard_folder):
    return {"data": shard_folder, "experiment": "search", **SETTINGS}


@pytest.fixture(scope="module")
def study(settings, client, tmp_path_factory):
    """Three trials of two epochs; the second one was killed after its first epoch, then the call was made again."""
    out = tmp_path_factory.mktemp("tune")
    call = {"trials": 3, "out": out, "batch_sizes": BATCHES, "learning_rate": 0.003, "batch_size": 16, **settings}
    finished = []

    def second_trials_first_epoch(state):
        finished.append(state["epoch"])
        return len(finished) == 3

    with killed_after(second_trials_first_epoch):
        tune(**call)
    killed = list((out / "trials" / "0001").glob("2*"))
    return tune(**call), killed, call


@pytest.mark.full
def test_the_killed_trial_goes_on_in_its_own_run(study):
    result, killed, _ = study
    assert [trial.state for trial in result.trials] == ["complete"] * 3
    assert [trial.epochs for trial in result.trials] == [2, 2, 2]
    assert [trial.number for trial in result.trials][:2] == [0, 1]
    assert list((result.out / "trials" / "0001").glob("2*")) == killed and len(killed) == 1
    assert [each["epoch"] for each in json.loads((killed[0] / "history.json").read_text())] == [1, 2]
    assert "resuming" in (result.out / "trials" / "0001" / "output.log").read_text()


@pytest.mark.slow
def test_trials_are_runs_of_train_and_the_best_is_the_greatest_val_top1_of_the_weights_kept(study):
    result, _, _ = study
    for trial in result.trials:
        history = json.loads(next(trial.folder.glob("*/history.json")).read_text())
        assert trial.top1 == min(history, key=lambda record: record["val_loss"])["val_top1"]
        config = resolve({**trial.settings})
        assert config.batch_size in BATCHES
    assert result.best.top1 == max(trial.top1 for trial in result.trials)
    plain = result.to_dict()
    assert (plain["split"], plain["photographs"]) == ("val", 18)
    first = result.trials[0].settings
    assert (first["learning_rate"], first["batch_size"], first["weight_decay"]) == (0.003, 16, 1e-4)


@pytest.mark.slow
def test_the_command_trains_with_the_best_settings(study):
    result, _, _ = study
    words = shlex.split(result.command)
    assert words[:2] == ["fasttrain", "train"] and "--no-pretrained" in words
    given = dict(itertools.pairwise(words))
    assert int(given["--batch-size"]) == result.best.settings["batch_size"]
    assert float(given["--learning-rate"]) == pytest.approx(result.best.settings["learning_rate"], rel=1e-3)
    assert given["--image-size"] == "48" and "--out" not in given


@pytest.mark.slow
def test_mlflow_has_the_study_with_its_trials_below_it(study, client):
    result, _, _ = study
    runs = client.search_runs([client.get_experiment_by_name("search").experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run not in parents]
    assert len(parents) == 1 and len(children) == 3
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert {run.data.tags["study"] for run in runs} == {str((result.out / "study.db").resolve())}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.info.run_name for run in children} == {f"trial {trial.number}" for trial in result.trials}
    assert parents[0].data.metrics["val_best/top1"] == result.best.top1
    names = {artifact.path for artifact in client.list_artifacts(parents[0].info.run_id)}
    assert names >= {path.name for path in result.plots} and len(result.plots) >= 4


@pytest.mark.slow
def test_plots_are_pictures(study):
    for path in study[0].plots:
        width, height = Image.open(path).size
        assert width > 600 and height > 300, path


@pytest.mark.slow
def test_the_same_call_has_nothing_left_to_do_and_another_is_refused(study):
    result, _, call = study
    again = tune(**call)
    assert [trial.number for trial in again.trials] == [trial.number for trial in result.trials]
    with pytest.raises(UserError, match="started with image_size = 48, not 64"):
        tune(**{**call, "image_size": 64})
    with pytest.raises(UserError, match=r"started with batch_sizes = \[16, 24\], not \[16\]"):
        tune(**{**call, "batch_sizes": (16,)})


@pytest.mark.slow
def test_a_trial_below_the_median_is_pruned(settings, client, tmp_path):
    space = Space.of("adam", None, None, (16,))
    before = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", study_name="fasttrain", direction="maximize")
    for number in range(4):  # the median pruner waits for such trials: no run can be better
        perfect = {"learning_rate": 0.001 * (number + 1), "weight_decay": 1e-4, "batch_size": 16}
        kinds = optuna.distributions
        ranges = {name: kinds.FloatDistribution(*getattr(space, name), log=True) for name in list(perfect)[:2]}
        ranges["batch_size"] = kinds.CategoricalDistribution((16,))
        before.add_trial(
            optuna.trial.create_trial(
                params=perfect, distributions=ranges, value=1.0, intermediate_values={1: 1.0, 2: 1.0}
            )
        )
    result = tune(trials=5, out=tmp_path, batch_sizes=(16,), **{**settings, "epochs": 4, "track": False})
    assert [trial.state for trial in result.trials] == ["complete"] * 4 + ["pruned"]
    assert result.trials[-1].epochs == 2
    run = next(result.trials[-1].folder.glob("2*"))
    assert len(json.loads((run / "history.json").read_text())) == 2 and (run / "evaluation.json").exists()


@pytest.mark.slow
def test_a_false_start_does_not_bind_the_folder_and_a_trial_that_diverges_is_a_result(settings, client, tmp_path):
    call = {**settings, "batch_sizes": (16,), "track": False, "trials": 1, "out": tmp_path}
    with pytest.raises(UserError, match="mobilenetv9"):
        tune(**{**call, "model": "mobilenetv9"})
    wild = {"learning_rate_range": (90.0, 100.0), "weight_decay_range": (9.0, 10.0), "epochs": 8}
    result = tune(**{**call, "optimizer": "sgd", **wild})
    assert [trial.state for trial in result.trials] == ["diverged"]
    assert result.best is None and result.command is None and result.plots == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pruner": "medium"}, "did you mean 'median'"),
        ({"learning_rate_range": (0.1, 0.01)}, "--learning-rate-range 0.1 0.01"),
        ({"run_name": "x"}, "run_name"),
        ({"linear_probe": True}, "uses none of the settings that tune searches"),
        ({"epochs": 0}, "nearest valid value is 1"),
    ],
)
def test_what_makes_no_sense_is_told_before_a_trial(settings, tmp_path, arguments, words):
    with pytest.raises(UserError, match=words):
        tune(out=tmp_path, trials=1, **{**settings, **arguments})
    assert not (tmp_path / "trials").exists()


def test_a_second_search_stays_out_of_the_folder(settings, tmp_path):
    from fasttrain.tuning.search import locked_folder

    with locked_folder(tmp_path), pytest.raises(UserError, match="another `fasttrain tune`"):
        tune(out=tmp_path, trials=1, **settings)
