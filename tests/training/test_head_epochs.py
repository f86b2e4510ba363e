"""`--head-epochs`: the classifier trains first, on cached features or on pictures, and then everything."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from fasttrain import train
from fasttrain.commands.replay import replay
from fasttrain.config.load import resolve
from fasttrain.errors import Diverged, Stopped, UserError
from fasttrain.model.factory import create_model
from fasttrain.model.freeze import freeze_all_but_classifier
from fasttrain.training import linear_probe
from fasttrain.training.early_stopping import EarlyStopping
from fasttrain.training.linear_probe import classifier_alone_follows
from tests.support.breaking import broken_at
from tests.support.runs import SMALL, killed_after, last_state

RUN = {
    **SMALL,
    "image_size": 32,
    "epochs": 3,
    "head_epochs": 2,
    "track": False,
    "deterministic": True,
    "drop_rate": 0.2,
    "early_stopping": 1,
    "ema_decay": 0.9,
    "limit_batches": 3,
}
ON_PICTURES = {"color_jitter": 0.3}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


class States(list):
    """Collect a copy of each checkpoint's content of the runs inside it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from fasttrain.checkpoint.packing import snapshot
        from fasttrain.checkpoint.writer import CheckpointWriter

        super().__init__()
        save = CheckpointWriter.save

        def noted(writer: CheckpointWriter, state: dict[str, Any]) -> None:
            self.append(snapshot(state))
            save(writer, state)

        monkeypatch.setattr(CheckpointWriter, "save", noted)


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def assert_same(ours: Path, theirs: Path) -> None:
    a, b = last_state(ours), last_state(theirs)
    assert (a["phase"], a["step"], a["phase_step"]) == (b["phase"], b["step"], b["phase_step"])
    for part in ("model", "ema"):
        assert not changed(a[part], b[part]), part
    for name in ("train_loss", "val_loss", "phase"):
        assert [each[name] for each in a["history"]] == [each[name] for each in b["history"]]


@pytest.mark.parametrize("pictures", [{}, ON_PICTURES], ids=["features", "pictures"])
@pytest.mark.slow
def test_the_classifier_first_then_everything(pictures, shard_folder, tmp_path, monkeypatch, cache, capsys):
    states = States(monkeypatch)
    run = train(data=shard_folder, out=tmp_path / "runs", **RUN, **pictures)
    first, second, third = states
    assert changed(first["model"], second["model"]) == {"classifier.weight", "classifier.bias"}
    assert len(changed(second["model"], third["model"])) > 50
    assert [each["phase"] for each in run.history] == ["head", "head", "full"]
    assert [("l2" in each) for each in run.history] == [not pictures, not pictures, False]
    assert bool(list(cache.glob("*"))) == (not pictures)
    assert (first["ema"], second["ema"]) == (None, None) and changed(third["ema"], third["model"])
    # The optimizer and the schedule begin with the third epoch, whose three steps are all of theirs.
    assert third["schedule"]["position"] == third["step"] - third["phase_step"] == 3
    assert (second["schedule"]["kind"], third["schedule"]["kind"]) == ("constant", "cosine")
    assert {int(each["step"]) for each in third["optimizer"]["state"].values()} == {3}
    said = " ".join(capsys.readouterr().out.split())
    how = "on photographs, because color_jitter = 0.3 needs pixels" if pictures else "on cached features"
    assert f"phases: 2 epochs of the classifier alone, {how}; then everything" in said and "epoch 1/3 head" in said
    page = (run.folder / "report.html").read_text()
    assert "epochs 1 to 2: only the classifier" in page


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"head_epochs": 0}, False),
        ({"head_epochs": 0, "freeze_bn": "on"}, True),
        ({}, True),
        ({"freeze_bn": "off"}, False),
    ],
    ids=str,
)
@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_behind_a_head_batch_norm_keeps_the_statistics_that_the_head_was_trained_on(
    settings, kept, shard_folder, tmp_path, monkeypatch
):
    states = States(monkeypatch)
    train(data=shard_folder, out=tmp_path / "runs", **{**RUN, "epochs": 3, **settings})
    moved = changed(states[1]["model"], states[2]["model"])
    assert any("running" in name for name in moved) != kept
    assert "bn1.weight" in moved, "its weights train all the same"


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_everything_begins_with_the_best_classifier_and_patience_begins_anew(shard_folder, tmp_path, monkeypatch):
    from fasttrain.commands import run as run_module

    began = []
    enter = run_module.train_everything

    def noted(parts: Any) -> None:
        best = {name: each.clone() for name, each in parts.state.best.items()}
        last = {name: each.clone() for name, each in parts.model.state_dict().items()}
        enter(parts)
        began.append((best, last, {name: each.clone() for name, each in parts.model.state_dict().items()}))

    monkeypatch.setattr(run_module, "train_everything", noted)
    values = iter([0.5, 0.9, 0.8, 0.7])  # the first epoch is the best, and patience is 1
    update = EarlyStopping.update
    monkeypatch.setattr(EarlyStopping, "update", lambda self, epoch, _: update(self, epoch, next(values)))
    run = train(data=shard_folder, out=tmp_path / "runs", **{**RUN, "epochs": 4})
    assert [each["improved"] for each in run.history] == [True, False, False]
    ((best, last, after),) = began
    assert changed(best, last) and not changed(best, after)


@pytest.mark.parametrize("kill_after", [1, 2], ids=["in the head's phase", "at the border"])
@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_killed_on_features_and_resumed_bit_for_bit(kill_after, shard_folder, tmp_path):
    alone = train(data=shard_folder, out=tmp_path / "alone", **RUN)
    with killed_after(lambda state: state["epoch"] == kill_after):
        train(data=shard_folder, out=tmp_path / "killed", **RUN)
    assert_same(train(resume="auto", out=tmp_path / "killed").folder, alone.folder)


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_killed_on_pictures_and_resumed_bit_for_bit(shard_folder, tmp_path):
    """In the middle of an epoch of each phase, and at the border."""
    settings = {**RUN, **ON_PICTURES, "save_every": 1, "freeze": 2}
    alone = train(data=shard_folder, out=tmp_path / "alone", **settings)
    for step in (2, 6, 7):
        with killed_after(lambda state, step=step: state["step"] == step):
            train(data=shard_folder, out=tmp_path / str(step), **settings)
        assert_same(train(resume="auto", out=tmp_path / str(step)).folder, alone.folder)


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_stopped_while_it_solves(shard_folder, tmp_path, monkeypatch):
    solve = linear_probe.solve_head

    def stopped(*arguments: Any, **named: Any) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return solve(*arguments, **named)

    alone = train(data=shard_folder, out=tmp_path / "alone", **RUN)
    with monkeypatch.context() as patch:
        patch.setattr(linear_probe, "solve_head", stopped)
        with pytest.raises(Stopped):
            train(data=shard_folder, out=tmp_path / "stopped", **RUN)
    assert_same(train(resume="auto", out=tmp_path / "stopped").folder, alone.folder)


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_a_step_that_diverged_in_the_head_is_replayed_with_the_body_frozen(shard_folder, tmp_path):
    with broken_at(2), pytest.raises(Diverged):
        train(data=shard_folder, out=tmp_path / "runs", **RUN, **ON_PICTURES)
    found = replay(next((tmp_path / "runs").iterdir()), device="cpu")
    assert found.facts["phase"] == "head"
    names = {each.name for each in found.tried[-1].gradients}
    assert names == {"classifier.weight", "classifier.bias"}


def test_settings_that_do_not_go_together():
    for settings, said in (
        ({"epochs": 3, "head_epochs": 3}, "leaves none of epochs = 3 to train the entire model; give at most 2"),
        (
            {"epochs": 3, "head_epochs": 2, "warmup_epochs": 2},
            "more than epochs after head_epochs; the nearest .* is 1",
        ),
        ({"head_epochs": 2, "linear_probe": True}, "head_epochs = 2 can't be combined with linear_probe"),
    ):
        with pytest.raises(UserError, match=said):
            resolve(settings)


def test_which_models_have_features_and_which_a_classifier():
    assert classifier_alone_follows(create_model("mobilenetv2_035", 6), 32)
    assert not classifier_alone_follows(create_model("test_byobnet", 0), 32)
    assert not classifier_alone_follows(torch.nn.Linear(3, 2), 32)
    model = create_model("mobilenetv2_035", 6)
    waiting, modules = freeze_all_but_classifier(model)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert trained == {"classifier.weight", "classifier.bias"} and model.bn1 in modules
    assert len(waiting) == len(list(model.parameters())) - 2
    with pytest.raises(UserError, match="Linear does not name its classifier"):
        freeze_all_but_classifier(torch.nn.Linear(3, 2))
