"""`--average`: the best epochs' weights are averaged where that is better on validation."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fasttrain import evaluate, train
from fasttrain.commands import averaging
from fasttrain.model.batch_norm import estimate_statistics, trained_norms
from fasttrain.model.factory import create_model
from fasttrain.training.soup import Candidate, Candidates, averaged, greedy_soup
from tests.support.runs import SMALL, killed_after, last_state

# BatchNorm, a frozen block, and epochs alike enough for their average to be worth something.
RUN = {**SMALL, "image_size": 32, "epochs": 4, "average": 3, "track": False, "deterministic": True}
RUN |= {"early_stopping": 0, "freeze": 2, "scheduler": "constant", "limit_batches": 3}


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3,), float(value)), "steps": torch.tensor(int(value))}


@pytest.mark.parametrize(("monitor", "best"), [("val_loss", [1, 0, 3]), ("top1", [2, 0, 3])])
def test_the_best_epochs_are_kept_and_no_more(monitor, best):
    kept = Candidates(3, monitor)
    for epoch, value in enumerate([0.5, 0.1, 0.9, 0.5, math.nan]):
        kept.offer(epoch, value, lambda value=value: weights(value))
    assert [each.epoch for each in kept.best_first] == best
    saved = kept.state_dict()
    assert [each["weights"] is None for each in saved] == [True, False, False], "the best one's are in the checkpoint"
    first = kept.best_first[0]
    for count in (3, 2):
        again = Candidates(count, monitor)
        again.load_state_dict(saved, first)
        assert again.best_first == kept.best_first[:count]
    begun = Candidates(2, monitor)
    begun.load_state_dict([], first)  # switched on in a resumed run
    assert begun.best_first == [first]


def test_a_mean_is_that_of_the_tensors():
    mean = averaged([weights(1), weights(2), weights(6)])
    assert torch.equal(mean["w"], torch.full((3,), 3.0)) and mean["steps"] == 1
    same = {"w": torch.tensor([0.1, 1e-30, 3e38])}
    assert torch.equal(averaged([same, same, same])["w"], same["w"]), "frozen weights stay, bit for bit"
    assert averaged([None, None]) is None


def test_only_what_makes_it_better_is_added():
    candidates = [Candidate(epoch, 1.0, weights(epoch)) for epoch in range(4)]
    losses = iter([0.9, 0.95, 0.8])  # with the second, the third, and the fourth in its place
    tried = []

    def loss(mean: Any) -> float:
        tried.append(float(mean["w"][0]))
        return next(losses)

    assert greedy_soup(candidates, "val_loss", loss) == ([0, 1, 3], 0.8)
    assert tried == pytest.approx([1 / 2, 3 / 3, 4 / 3])
    assert greedy_soup(candidates[:2], "top1", lambda mean: 1.0) == ([0], 1.0), "as good is not better"


def test_statistics_are_those_of_the_inputs():
    torch.manual_seed(0)
    model = create_model("mobilenetv2_035", 3).train()
    frozen = [model.bn1]
    names = trained_norms(model, frozen)
    assert "bn1" not in names and "bn2" in names
    batches = [torch.randn(8, 3, 32, 32) for _ in range(3)]
    before = {name: each.clone() for name, each in model.state_dict().items()}
    estimate_statistics(model, names, [batches[0][:1]], torch.no_grad)
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items()), "one has no variance"
    estimate_statistics(model, names, [*batches, batches[0][:1]], torch.no_grad)
    assert torch.equal(model.bn1.running_mean, before["bn1.running_mean"])
    first = model.blocks[0][0].bn1
    inputs: list[torch.Tensor] = []
    handle = first.register_forward_hook(lambda _, given, __: inputs.append(given[0]))
    for batch in batches:
        model(batch)
    handle.remove()
    means = torch.stack([each.mean((0, 2, 3)) for each in inputs])
    torch.testing.assert_close(first.running_mean, means.mean(0), rtol=1e-4, atol=1e-5)
    assert first.momentum == 0.1 and not first.training


@pytest.fixture(scope="module")
def alone(shard_folder, tmp_path_factory) -> Any:
    """A run whose average counts as better, whatever it is."""
    with pytest.MonkeyPatch.context() as patch:
        always_better(patch)
        return train(data=shard_folder, out=tmp_path_factory.mktemp("alone"), **RUN)


def always_better(patch: pytest.MonkeyPatch) -> None:
    def all_of_them(candidates: Any, monitor: str, evaluate: Any) -> Any:
        return list(range(len(candidates))), greedy_soup(candidates, monitor, evaluate)[1]

    patch.setattr(averaging, "greedy_soup", all_of_them)


@pytest.mark.slow
def test_the_average_is_what_the_run_leaves(alone, shard_folder):
    ranked = sorted(alone.history, key=lambda each: each["val_loss"])[:3]
    assert alone.averaged.epochs == tuple(sorted(each["epoch"] for each in ranked))
    state, left = last_state(alone.folder), load_file(alone.folder / "model.safetensors")
    assert len(state["average"]) == 3, "no more than asked for, however long the run is"
    first = state["model"] if state["best"] is None else state["best"]
    mean = averaged([first, *(each["weights"] for each in state["average"][1:])])
    learned = [name for name in left if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert all(torch.equal(left[name], mean[name]) for name in learned)
    assert not torch.equal(left["bn2.running_var"], mean["bn2.running_var"]), "BatchNorm's statistics are taken anew"
    assert torch.equal(left["bn1.running_var"], mean["bn1.running_var"]), "but not of a frozen one"
    found = evaluate(alone.folder, shard_folder, split="val", loader="torchvision", workers=0, device="cpu")
    assert found.loss == pytest.approx(alone.evaluation.loss, rel=1e-3) or alone.evaluation.samples < found.samples
    written = json.loads((alone.folder / "evaluation.json").read_text())
    assert tuple(written["averaged_epochs"]) == alone.averaged.epochs
    assert alone.averaged.description in (alone.folder / "report.html").read_text()


@pytest.mark.parametrize("after", [2, 4], ids=["in the run", "before the average"])
@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_killed_and_resumed_bit_for_bit(after, alone, shard_folder, tmp_path, monkeypatch):
    always_better(monkeypatch)
    with killed_after(lambda state: state["epoch"] == after):
        train(data=shard_folder, out=tmp_path, **RUN)
    resumed = train(resume="auto", out=tmp_path)
    assert resumed.averaged == alone.averaged
    ours, theirs = (load_file(run.folder / "model.safetensors") for run in (resumed, alone))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_more_epochs_go_on_from_the_last_epoch_and_not_from_the_average(alone, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(alone.folder, tmp_path / alone.folder.name))
    before = last_state(folder)
    more = train(resume=str(folder), epochs=5)
    assert [each["val_loss"] for each in more.history[:4]] == [each["val_loss"] for each in before["history"]]
    assert len(more.history) == 5


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_where_none_is_better_the_best_epoch_stays(shard_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(averaging, "greedy_soup", lambda candidates, *_: ([0], candidates[0].value))
    run = train(data=shard_folder, out=tmp_path, **{**RUN, "epochs": 2, "average": 2})
    assert run.averaged is None
    assert "weights: those of the best epoch, because no average is better on validation" in " ".join(
        capsys.readouterr().out.split()
    )
    left, state = load_file(run.folder / "model.safetensors"), last_state(run.folder)
    best = state["model"] if state["best"] is None else state["best"]
    assert all(torch.equal(left[name], best[name]) for name in best)
