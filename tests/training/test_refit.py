"""`--refit`: once the best epoch is known, everything trains once more on train and val; test alone evaluates it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fasttrain import evaluate, train
from fasttrain.config.load import resolve
from fasttrain.data.crops import RandomResizedCrop
from fasttrain.errors import UserError
from fasttrain.loaders.registry import LOADERS, loader_class
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet
from fasttrain.training.data import make_refit_loader
from fasttrain.training.early_stopping import EarlyStopping
from tests.support.runs import SMALL, killed_after, last_state

RUN = {
    **SMALL,
    "model": "test_convnext",
    "image_size": 32,
    "epochs": 3,
    "refit": True,
    "track": False,
    "deterministic": True,
    "drop_rate": 0.2,
}
RUN |= {"scheduler": "plateau", "patience": 0, "early_stopping": 2, "limit_batches": 2, "ema_decay": 0.9}


@pytest.fixture(scope="module")
def shards(photographs, tmp_path_factory) -> Path:
    """The small data set with a test split."""
    out = tmp_path_factory.mktemp("with_test") / "shards"
    convert(str(photographs), out, workers=1, progress=False, test_fraction=0.2, format="tar,beton")
    return out


def make_second_best(patch: pytest.MonkeyPatch) -> None:
    update = EarlyStopping.update
    patch.setattr(EarlyStopping, "update", lambda self, epoch, _: update(self, epoch, abs(epoch - 1.0)))


@pytest.fixture
def second_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the second epoch be the best one, whatever the validation says."""
    make_second_best(monkeypatch)


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory) -> Any:
    """A run that nobody disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        make_second_best(patch)
        return train(data=shards, out=tmp_path_factory.mktemp("alone"), **RUN)


@pytest.mark.slow
def test_it_trains_for_the_best_epochs_count_at_the_rates_found(alone, shards):
    search, refit = alone.history[:3], alone.history[3:]
    assert [each["phase"] for each in alone.history] == ["full"] * 3 + ["refit"] * 2
    assert [each["epoch"] for each in alone.history] == list(range(1, 6))
    assert alone.best_epoch == 2 and alone.refit_epochs == 2
    assert [each["learning_rate"] for each in refit] == [each["learning_rate"] for each in search[:2]]
    assert all("val_loss" in each for each in search) and not any("val_loss" in each for each in refit)
    assert refit[0]["train_loss"] == pytest.approx(search[0]["train_loss"], rel=0.2), "from the first weights again"
    state, left = last_state(alone.folder), load_file(alone.folder / "model.safetensors")
    assert state["phase"] == "refit" and all(torch.equal(left[name], state["ema"][name]) for name in left)
    found = evaluate(alone.folder, shards, split="test", loader="torchvision", workers=0, device="cpu")
    assert found.loss == pytest.approx(alone.evaluation.loss, rel=1e-3), "of the test split"


@pytest.mark.slow
def test_the_report_says_that_there_is_no_validation_figure(alone):
    written = json.loads((alone.folder / "evaluation.json").read_text())
    assert (written["split"], written["refit_epochs"], written["best_epoch"]) == ("test", 2, 2)
    page = (alone.folder / "report.html").read_text()
    assert "these weights have no validation metrics and are evaluated on the test split only" in page
    assert "weights refitted on train and val for 2 epochs, without validation" in page


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures", "second_is_best")
def test_killed_and_resumed_bit_for_bit(alone, shards, tmp_path):
    """At the border, and in the middle of the refit's first epoch."""
    for step in (6, 7):
        out = tmp_path / str(step)
        with killed_after(lambda state, step=step: state["step"] == step):
            train(data=shards, out=out, save_every=1, **RUN)
        resumed = train(resume="auto", out=out)
        ours, theirs = (load_file(run.folder / "model.safetensors") for run in (resumed, alone))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), step
        assert [each["train_loss"] for each in resumed.history] == [each["train_loss"] for each in alone.history]
        assert resumed.evaluation == alone.evaluation


@pytest.mark.slow
def test_the_epochs_can_not_change_any_more(alone):
    for epochs, said in (
        (2, "epochs = 2 is fewer than the 3 that the checkpoint has begun"),
        (9, "epochs = 3 can't become 9 .*: the refit has begun"),
    ):
        with pytest.raises(UserError, match=said):
            train(resume=str(alone.folder), epochs=epochs)


@pytest.mark.parametrize("loader", list(LOADERS))
def test_every_loader_gives_both_splits_each_photograph_once(loader, shards):
    opened = ShardSet.open(shards)
    if reason := loader_class(loader).unavailable(opened, "cpu"):
        pytest.skip(reason)
    options = {"batch_size": 16, "workers": 1, "device": "cpu", "seed": 1}
    made = make_refit_loader(opened, RandomResizedCrop(32), shuffle=True, loader=loader, **options)
    assert made.name == ("native" if loader == "ffcv" else loader), "FFCV reads one split at a time"
    with made:
        seen = np.concatenate([ids.numpy() for _, _, ids in made])
    both = np.concatenate([opened.ids("train"), opened.ids("val")])
    assert sorted(seen) == sorted(both) and not set(seen) & set(opened.ids("test"))


def test_without_a_test_split_it_says_how_to_get_one(shard_folder, tmp_path):
    with pytest.raises(UserError, match=r"^refit: .* has no test split, .*; convert again with --test-fraction 0.1"):
        train(data=shard_folder, out=tmp_path, **RUN)
    assert not list(tmp_path.iterdir()), "before anything is made"


def test_settings_that_do_not_go_together():
    for name, value in (("head_epochs", 1), ("average", 2)):
        with pytest.raises(UserError, match=f"{name} = {value} can't be combined with refit"):
            resolve({"refit": True, name: value})
    with pytest.raises(UserError, match="refit = True can't be combined with linear_probe"):
        resolve({"refit": True, "linear_probe": True})
