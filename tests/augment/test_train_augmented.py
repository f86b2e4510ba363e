"""Training with every augmentation on: it runs, and a resumed run is the same bit for bit."""

from __future__ import annotations

import json

import pytest
import torch

from fasttrain import train
from fasttrain.augment.batch import BatchAugment
from fasttrain.augment.mix import PlannedMixup
from fasttrain.training.loop import Step
from fasttrain.training.state import Totals
from tests.support.runs import SMALL, last_state

ALL_ON = {
    "color_jitter": 0.4,
    "rand_augment": "n2-m9",
    "random_erasing": 0.25,
    "mixup": 0.2,
    "cutmix": 1.0,
    "sampling": "balanced",
    "loss": "focal",
    "label_smoothing": 0.1,
    "class_weights": "balanced",
}
RUN = {**SMALL, "image_size": 32, "batch_size": 9, "epochs": 2, "deterministic": True, "track": False}
RUN |= {"drop_rate": 0.2, "drop_path": 0.2}


@pytest.fixture(autouse=True)
def _torch_as_it_was():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def alone(shard_folder, tmp_path_factory):
    """A run with all of it on that nobody disturbed; batches of 9, so some are odd."""
    return train(data=shard_folder, out=tmp_path_factory.mktemp("alone"), **RUN, **ALL_ON)


@pytest.mark.slow
def test_a_run_with_everything_on(alone):
    assert [0 <= record["train_top1"] <= 1 for record in alone.history] == [True, True]
    plain = json.loads((alone.folder / "history.json").read_text())
    assert len(plain) == 2 and all(record["train_loss"] > 0 for record in plain)
    assert 'rand_augment = "n2-m9"' in (alone.folder / "config.toml").read_text()


@pytest.mark.slow
def test_stopped_in_mid_epoch_and_resumed_it_ends_with_the_same_weights(alone, shard_folder, tmp_path, monkeypatch):
    whole = Step.__call__

    def stops_at_step_3(self, state, *batch):
        updated = whole(self, state, *batch)
        if state.step == 3:
            raise RuntimeError("pulled the plug")
        return updated

    monkeypatch.setattr(Step, "__call__", stops_at_step_3)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        train(data=shard_folder, out=tmp_path, **RUN, **ALL_ON, save_every=2)
    monkeypatch.setattr(Step, "__call__", whole)
    folder = next(tmp_path.iterdir())
    assert last_state(folder)["step"] == 2
    resumed = train(resume=str(folder))
    expected, state = last_state(alone.folder), last_state(folder)
    assert resumed.folder == folder and state["step"] == expected["step"]
    for name, tensor in expected["model"].items():
        assert torch.equal(state["model"][name], tensor), name
    assert [r["train_loss"] for r in resumed.history] == [r["train_loss"] for r in alone.history]


@pytest.mark.parametrize(
    ("part", "settings"), [(BatchAugment, {"trivial_augment": True}), (PlannedMixup, {"cutmix": 1.0})]
)
@pytest.mark.full
def test_off_it_never_runs_and_on_it_runs_in_training_only(part, settings, shard_folder, tmp_path, monkeypatch):
    epochs = []
    whole = part.__call__

    def counted(self, *given):
        epochs.append(given[-1])
        return whole(self, *given)

    monkeypatch.setattr(part, "__call__", counted)
    few = {**RUN, "limit_batches": 2}
    train(data=shard_folder, out=tmp_path / "off", **{**few, "epochs": 1})
    assert not epochs
    train(data=shard_folder, out=tmp_path / "on", **few, **settings)
    assert epochs == [0, 0, 1, 1, 0], "two training batches an epoch, the one that the report shows, and no others"


def test_top1_of_mixed_labels_counts_the_greater_share():
    totals = Totals(torch.device("cpu"))
    logits = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    totals.update(torch.tensor(1.0), logits, torch.tensor([[0.6, 0.4, 0.0], [0.4, 0.6, 0.0]]), 2)
    assert totals.means() == (1.0, 0.5)
