"""A loss or a gradient that is not finite: the very step is named and kept, the weights are those before it, and
`replay` finds the cause."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from fasttrain import train
from fasttrain.checkpoint.file import load_checkpoint
from fasttrain.commands.replay import replay
from fasttrain.errors import Diverged, UserError
from fasttrain.shards.reader import ShardSet
from fasttrain.training.diverged import NAME, DivergedStep, find_diverged
from fasttrain.training.finite import FiniteCheck
from fasttrain.training.replay import run_again
from fasttrain.training.state import Totals
from tests.support.breaking import broken_at
from tests.support.runs import SMALL, last_state

TINY: dict[str, Any] = {
    **SMALL,
    "model": "test_convnext",
    "image_size": 32,
    "track": False,
    "deterministic": True,
    "optimizer": "adam",
    "scheduler": "constant",
}
# Dropout, Mixup and jitter: what a replay has to draw again. 16 px more or less matter to nobody here.
RANDOM = {
    "drop_rate": 0.3,
    "drop_path": 0.3,
    "mixup": 0.4,
    "color_jitter": 0.3,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
}


def run_until_diverged(shards: Path, out: Path, match: str, **settings: Any) -> tuple[Path, str]:
    """The folder of a run that diverges, and what it said."""
    with pytest.raises(Diverged, match=match) as raised:
        train(data=shards, out=out, **{**TINY, **settings})
    (folder,) = out.iterdir()
    return folder, str(raised.value)


def order_of(folder: Path, shards: Path, batch: int, size: int = 16) -> list[int]:
    """The ids of the `batch`-th batch, counted from 1, of the first epoch, by the plan."""
    from fasttrain.loaders.plan import epoch_order

    order = epoch_order(ShardSet.open(shards).ids("train"), 42, 0)
    return [int(each) for each in order[(batch - 1) * size : batch * size]]


@pytest.fixture(scope="module")
def steps(shard_folder, tmp_path_factory) -> list[dict[str, torch.Tensor]]:
    """The weights of an undisturbed run before its first step, after its first, second, … fifth (an epoch has 5)."""
    settings = {**TINY, **RANDOM, "epochs": 1, "save_every": "1", "keep": 9}
    run = train(data=shard_folder, out=tmp_path_factory.mktemp("alone"), **settings)
    states = [load_checkpoint(path)["model"] for path in sorted((run.folder / "checkpoints").glob("step-*"))]
    assert len(states) == 5
    return [{}, *states]


@pytest.mark.parametrize(
    ("batch", "what", "value", "settings"),
    [
        (2, "loss", math.nan, {}),
        (5, "loss", math.inf, {"save_every": "1"}),
        (3, "gradient", math.inf, {"ema_decay": 0.9}),
        (4, "gradient", math.nan, {"clip_grad": 1e9}),
    ],
)
def test_the_guilty_step_is_kept_with_the_weights_before_it(
    shard_folder, tmp_path, steps, batch, what, value, settings
):
    said = "the loss became" if what == "loss" else "the gradient's norm became"
    with broken_at(batch, what, value):
        folder, line = run_until_diverged(
            shard_folder, tmp_path, f"{said} (nan|inf|-inf) in epoch 1 at step {batch}\\b", **RANDOM, **settings
        )
    assert "lower --learning-rate" in line and f"`fasttrain replay {folder}`" in line and "\n" not in line
    kept = DivergedStep.load(folder / NAME)
    assert kept.facts["step"] == batch - 1 and kept.facts["broken_weights"] == []
    images, labels, ids = kept.batches[-1]
    assert ids.tolist() == order_of(folder, shard_folder, batch) and images.shape == (len(ids), 32, 32, 3)
    shards = ShardSet.open(shard_folder)
    assert labels.tolist() == shards.labels()[ids.numpy()].tolist()
    assert kept.facts["keys"] == [shards.index[each]["key"].decode() for each in ids.tolist()]
    for name, tensor in steps[batch - 1].items():
        assert torch.equal(kept.weights[name], tensor), name
    if "save_every" in settings:  # no checkpoint is one of after the step
        state = last_state(folder)
        assert state["step"] == batch - 1
        assert all(torch.equal(state["model"][name], tensor) for name, tensor in steps[batch - 1].items())


@pytest.mark.slow
def test_other_optimizers_leave_the_weights_alone_too(shard_folder, tmp_path):
    """lamb has no fused kernel, so it can't look at the flag on the device."""
    settings = {"optimizer": "lamb", "epochs": 1, "keep": 9}
    alone = train(data=shard_folder, out=tmp_path / "alone", **{**TINY, **settings, "save_every": "1"})
    with broken_at(3):
        folder, _ = run_until_diverged(shard_folder, tmp_path / "broken", "at step 3", **settings)
    before = load_checkpoint(alone.folder / "checkpoints" / "step-00000002.safetensors")["model"]
    kept = DivergedStep.load(folder / NAME).weights
    assert all(torch.equal(kept[name], each) for name, each in before.items())


@pytest.mark.slow
def test_a_run_resumed_from_before_goes_on_as_if_nothing_had_been(shard_folder, tmp_path, steps):
    with broken_at(4):
        folder, _ = run_until_diverged(shard_folder, tmp_path, "at step 4", **RANDOM, save_every="1", epochs=1)
    resumed = train(resume=str(folder))
    assert resumed.folder == folder
    assert all(torch.equal(last_state(folder)["model"][name], each) for name, each in steps[-1].items())


@pytest.mark.slow
def test_of_accumulated_batches_the_one_with_the_loss_or_all_with_the_gradient(shard_folder, tmp_path):
    settings = {"batch_size": 8, "grad_accumulation": 3}
    with broken_at(5, "loss"):
        folder, _ = run_until_diverged(shard_folder, tmp_path / "loss", "at step 2", **settings)
    kept = DivergedStep.load(folder / NAME)
    assert [ids.tolist() for _, _, ids in kept.batches] == [order_of(folder, shard_folder, 5, 8)]
    with broken_at(5, "gradient"):
        folder, _ = run_until_diverged(shard_folder, tmp_path / "gradient", "at step 2", **settings)
    kept = DivergedStep.load(folder / NAME)
    assert [ids.tolist() for _, _, ids in kept.batches] == [
        order_of(folder, shard_folder, number, 8) for number in (4, 5, 6)
    ]


@pytest.mark.slow
def test_the_step_is_found_wherever_it_lies_between_two_looks(shard_folder, tmp_path):
    """Batches of 2 make 39 steps an epoch, of which the host looks at each tenth."""
    for number in (1, 10, 11, 12, 39, 40):
        with broken_at(number):
            folder, _ = run_until_diverged(
                shard_folder, tmp_path / str(number), f"in epoch {1 + (number > 39)} at step {number}", batch_size=2
            )
        assert DivergedStep.load(folder / NAME).facts["step"] == number - 1


def test_replay_repeats_the_step_exactly_and_names_the_place(shard_folder, tmp_path):
    """A learning rate that no one would choose: at step 2 the loss is a number, and the gradient is none."""
    settings = {**RANDOM, "model": "test_vit", "optimizer": "adam", "learning_rate": 100.0, "mixup": 0.0}
    folder, _ = run_until_diverged(shard_folder, tmp_path, "the (loss|gradient's norm) became", **settings)
    sheet = tmp_path / "sheet.png"
    found = replay(folder, device="cpu", sheet=sheet)
    (tried,) = found.tried
    facts = DivergedStep.load(folder / NAME).facts
    assert tried.precision == "fp32" and not tried.finite
    assert tried.loss == pytest.approx(float(facts["loss"]), rel=1e-6, nan_ok=True)
    assert "--learning-rate (100) to 10" in found.fix
    assert sheet.read_bytes().startswith(b"\x89PNG") and found.sheet == sheet
    json.loads(json.dumps(found.to_dict(), allow_nan=False))


@pytest.mark.slow
def test_replay_draws_dropout_and_mixup_again(shard_folder, model_folder, tmp_path):
    """A step that a hook broke is finite when run again; its loss is then that of the undisturbed run."""
    settings = {**RANDOM, "teacher": str(model_folder), "teacher_weight": 0.5}
    losses: list[float] = []
    noted = FiniteCheck.loss

    def note(self: FiniteCheck, loss: torch.Tensor) -> None:
        losses.append(float(loss.detach()))
        noted(self, loss)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FiniteCheck, "loss", note)
        train(data=shard_folder, out=tmp_path / "alone", **{**TINY, **settings, "epochs": 1})
    with broken_at(4):
        folder, _ = run_until_diverged(shard_folder, tmp_path / "broken", "at step 4", **settings)
    found = replay(folder, device="cpu")
    assert found.tried[0].loss == pytest.approx(losses[3], rel=1e-6)
    assert found.tried[0].finite and "finite when the step is replayed" in found.why and "--deterministic" in found.fix
    kept = DivergedStep.load(folder / NAME)  # the sample's classes are of one size: their balanced weights are 1
    other = tmp_path / "other.safetensors"
    replace(kept, class_weights=torch.tensor([1.0, 9.0, 1.0, 9.0, 1.0, 9.0])).save(other)
    assert abs(replay(other, device="cpu").tried[0].loss - losses[3]) > 0.01


def test_weights_that_were_broken_before_are_told_from_a_rate_that_broke_them(shard_folder, tmp_path):
    from fasttrain.model.factory import create_model

    weights = create_model("test_convnext", 6).state_dict()
    weights["head.fc.bias"][0] = math.nan
    save_file(weights, tmp_path / "poisoned.safetensors")
    folder, _ = run_until_diverged(
        shard_folder, tmp_path / "runs", "nan in epoch 1 at step 1", weights=tmp_path / "poisoned.safetensors"
    )
    found = replay(folder, device="cpu")
    assert found.why == "the weights that the run began with are not finite (head.fc.bias)"
    assert found.fix == "give other --weights" and found.tried[0].module == "head.fc"


@pytest.mark.slow
def test_a_validation_loss_that_is_not_finite_is_kept_with_its_batch(shard_folder, tmp_path):
    """BatchNorm's running statistics matter to nothing but evaluation: training goes on with broken ones."""

    def poison(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, torch.nn.BatchNorm2d) and module.training:
            module.running_mean.data.fill_(math.inf)

    handle = torch.nn.modules.module.register_module_forward_hook(poison)
    try:
        folder, _ = run_until_diverged(
            shard_folder, tmp_path, "the validation loss became nan in epoch 1", model="mobilenetv2_035"
        )
    finally:
        handle.remove()
    found = replay(folder, device="cpu")
    assert found.facts["kind"] == "validation" and found.tried[0].gradient is None
    assert found.why.startswith("BatchNorm's running statistics are not finite (bn1.running_mean")
    assert not (folder / "model.safetensors").exists(), "weights that can't be evaluated were kept as the best"


def test_progressive_keeps_what_it_trained_on(shard_folder, tmp_path):
    with broken_at(3):
        folder, _ = run_until_diverged(
            shard_folder, tmp_path / "a", "at step 3", progressive="32:64", image_size=64, epochs=2
        )
    assert DivergedStep.load(folder / NAME).batches[0][0].shape == (16, 32, 32, 3)


@pytest.fixture
def fp16(monkeypatch) -> dict[str, Any]:
    """fp16 with its GradScaler, on whatever CPU this is: slow without kernels of its own, but real."""
    monkeypatch.setattr("fasttrain.model.precision._cpu_has_kernels", lambda dtype: True)
    return {"amp": True, "amp_dtype": "fp16"}


@pytest.mark.slow
def test_fp16_skips_steps_whose_gradient_overflows_and_counts_them(shard_folder, tmp_path, fp16):
    settings = {**TINY, **fp16, "epochs": 1, "learning_rate": 1e-4, "save_every": "1", "keep": 9}
    alone = train(data=shard_folder, out=tmp_path / "alone", **settings)
    with broken_at(2, "gradient", math.inf, until=4):
        made = train(data=shard_folder, out=tmp_path / "broken", **settings)
    before, after = ([record["skipped_steps"] for record in run.history] for run in (alone, made))
    assert after == [before[0] + 3]
    assert last_state(made.folder)["scaler"]["scale"] == 2.0 ** (16 - sum(after))
    assert "skipped_steps" in json.loads((made.folder / "history.json").read_text())[0]
    # A loss is not fixed by a scale: the run stops, and the scaler skips what comes before the host has seen it.
    with broken_at(2):
        folder, _ = run_until_diverged(
            shard_folder, tmp_path / "loss", "nan in epoch 1 at step 2", **{**settings, "save_every": "99"}
        )
    before = load_checkpoint(alone.folder / "checkpoints" / "step-00000001.safetensors")["model"]
    kept = DivergedStep.load(folder / NAME).weights
    assert all(torch.equal(kept[name], each) for name, each in before.items())


@pytest.mark.slow
def test_fp16_that_overflows_at_any_scale_stops(shard_folder, tmp_path, fp16):
    with broken_at(1, "gradient", math.inf, until=10_000):
        folder, said = run_until_diverged(
            shard_folder, tmp_path, "fp16's loss scale fell to", **fp16, batch_size=2, epochs=2
        )
    assert "--amp-dtype bf16" in said
    step = DivergedStep.load(folder / NAME).facts["step"]
    assert 30 <= step <= 40, "2^16 halved 30 times is below 1e-4, and the host looks at each tenth step"


@pytest.mark.slow
def test_what_only_fp16_can_not_hold_is_told_from_what_nothing_can(shard_folder, tmp_path, fp16):
    torch.manual_seed(42)
    begun = timm.create_model("test_vit", num_classes=6, img_size=32)  # its classifier is not zero, so LAMB blows it up
    save_file(begun.state_dict(), tmp_path / "begun.safetensors")
    settings = {"optimizer": "lamb", "model": "test_vit", "weights": tmp_path / "begun.safetensors"}
    folder, _ = run_until_diverged(
        shard_folder, tmp_path / "runs", "the loss became nan", **fp16, **settings, learning_rate=100.0
    )
    found = replay(folder, device="cpu")
    full, half = found.tried
    assert full.finite and not half.finite and half.module and half.precision == "fp16"
    assert "fp16 overflows at blocks" in found.why and "--amp-dtype bf16" in found.fix
    saved = DivergedStep.load(folder / NAME)
    saved.facts["config"]["amp_dtype"] = "bf16"  # on a GPU without it, where fp16 stood in
    assert "--no-amp" in run_again(saved, folder / NAME, "cpu").fix


def test_a_file_that_can_not_be_written_does_not_hide_the_news(shard_folder, tmp_path):
    from fasttrain.training import diverged

    with pytest.MonkeyPatch.context() as patch, broken_at(2):
        patch.setattr(diverged, "NAME", "no/such/folder.safetensors")
        _, said = run_until_diverged(shard_folder, tmp_path, "the loss became nan in epoch 1 at step 2")
    assert "its batch could not be saved" in said and "replay" not in said


def test_replay_refuses_what_is_no_diverged_step(tmp_path):
    with pytest.raises(UserError, match=r"no diverged\.safetensors in it; only a run that diverged"):
        find_diverged(tmp_path)
    for name, content in {"torn": b"\x08\0\0", "other": None}.items():
        path = tmp_path / f"{name}.safetensors"
        save_file({"a": torch.zeros(2)}, path) if content is None else path.write_bytes(content)
        with pytest.raises(UserError, match=r"not the file of a diverged step"):
            replay(path)
    with pytest.raises(UserError, match="no such file; give a run's folder"):
        replay(tmp_path / "none.safetensors")


def test_sums_of_older_checkpoints_are_taken():
    totals = Totals(torch.device("cpu"))
    totals.skipped(torch.tensor(math.inf), ranks=2)
    totals.load_state_dict(torch.tensor([6.0, 2.0, 4.0], dtype=torch.float64))
    assert totals.means() == (1.5, 0.5)


def test_the_weights_stay_whoever_looks_at_the_flag():
    """Fused optimizers look at the flag, others have the host look: the same weights."""
    for name in ("adam", "sgd", "nadam"):
        from fasttrain.training.optim import create_optimizer

        model = torch.nn.Linear(2, 2)
        optimizer, check = create_optimizer(model, name, 0.1, 0.0, 0.9), FiniteCheck(torch.device("cpu"))
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        before = model.weight.detach().clone()
        for number, value in enumerate((1.0, math.nan, 1.0)):
            check.begin(0, number, number + 1, 1, number, 0.1)
            check.loss(torch.tensor(value))
            for each in model.parameters():
                each.grad = torch.ones_like(each)
            check.update(optimizer, scaler)
            if number == 0:
                assert not torch.equal(model.weight, before)
                before = model.weight.detach().clone()
        assert torch.equal(model.weight, before), name
        cause = check.look(scaler)
        assert cause is not None and cause.note is not None and cause.note.step == 1 and math.isnan(cause.loss)
        assert cause.kind == "loss"
