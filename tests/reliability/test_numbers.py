"""Losses, gradients and weights that are not finite: the run stops at the very step, keeps it, and loses nothing."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from fasttrain import train
from fasttrain.checkpoint.file import load_checkpoint, save_checkpoint
from fasttrain.commands.replay import replay
from fasttrain.errors import Diverged
from fasttrain.model.factory import create_model
from fasttrain.training.diverged import NAME, DivergedStep
from fasttrain.training.finite import non_finite
from tests.support.breaking import broken_at
from tests.support.runs import SMALL, last_state
from tests.training.test_distributed import finish, start_ranks, train_line

BATCHES = 10  # 78 photographs, 16 at a time, two epochs
RUN: dict[str, Any] = {**SMALL, "image_size": 32, "track": False, "deterministic": True, "save_every": "1", "keep": 99}


def settings_of(place: random.Random) -> dict[str, Any]:
    return {
        "model": place.choice(["test_convnext", "mobilenetv2_035"]),
        "optimizer": place.choice(["adam", "sgd", "adamw", "lamb"]),
        "grad_accumulation": place.choice([1, 1, 2]),
        "ema_decay": place.choice([None, 0.9]),
        "mixup": place.choice([0.0, 0.4]),
        "clip_grad": place.choice([None, 1.0]),
        "drop_rate": place.choice([0.0, 0.3]),
        "color_jitter": place.choice([0.0, 0.4]),
        "scheduler": place.choice(["plateau", "cosine"]),
        "seed": place.randrange(100),
    }


def diverges(data: Path, out: Path, match: str, **settings: Any) -> Path:
    with pytest.raises(Diverged, match=match):
        train(data=data, out=out, **{**RUN, **settings})
    (folder,) = out.iterdir()
    return folder


def states_of(folder: Path) -> dict[int, dict[str, Any]]:
    """Return the content of each checkpoint of a run, by its step."""
    states = [load_checkpoint(path) for path in sorted((folder / "checkpoints").glob("step-*"))]
    return {state["step"]: state for state in states}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.full
def test_nan_and_infinity_at_seeded_places(shard_folder, tmp_path, fault):
    times = fault.times(short=1, full=20)
    for number in range(times):
        place = random.Random(number)
        settings, batch = settings_of(place), place.randint(2, BATCHES)
        what, value = place.choice(["loss", "gradient"]), place.choice([math.nan, math.inf, -math.inf])
        folder = tmp_path / str(number)
        alone = train(data=shard_folder, out=folder / "alone", **{**RUN, **settings})
        with broken_at(batch, what, value):
            broken = diverges(shard_folder, folder / "broken", f"in epoch {1 + (batch > 5)} at step", **settings)
        kept = DivergedStep.load(broken / NAME)
        done, states = kept.facts["step"], states_of(alone.folder)
        # An epoch's five batches are five steps, or three of accumulated ones.
        in_epoch = (batch - 1) % 5 // settings["grad_accumulation"]
        assert done == (batch > 5) * (5 if settings["grad_accumulation"] == 1 else 3) + in_epoch, settings
        assert kept.facts["kind"] == what and not kept.facts["broken_weights"]
        if done:
            learned = [name for name, _ in create_model(settings["model"], 6).named_parameters()]
            assert all(torch.equal(kept.weights[name], states[done]["model"][name]) for name in learned), settings
            assert last_state(broken)["step"] == done and same(last_state(broken)["model"], states[done]["model"])
        assert all(tried.finite for tried in replay(broken, device="cpu").tried)
        if done:
            train(resume=str(broken))
            ends = [states_of(each)[max(states)] for each in (alone.folder, broken)]
            assert same(ends[0]["model"], ends[1]["model"]), settings
    fault.seen(
        "NaN or infinity in a loss or a gradient",
        "a hook in the model's forward or backward pass at a seeded batch, with seeded optimizer, accumulation, EMA, "
        "Mixup, clipping",
        times,
        measured="the very step and batch are kept; the weights, each checkpoint and the resumed run are, bit for bit, "
        "those of an undisturbed run",
    )


def test_a_weight_poisoned_in_a_checkpoint(shard_folder, tmp_path, fault):
    times = fault.times(short=1, full=20)
    alone = train(data=shard_folder, out=tmp_path / "alone", **{**RUN, "model": "test_convnext", "epochs": 1})
    (tmp_path / "alone").rename(tmp_path / "kept")
    for number in range(times):
        place = random.Random(number)
        folder = tmp_path / str(number) / "run"
        (folder / "checkpoints").mkdir(parents=True)
        step = place.randint(1, 4)
        source = tmp_path / "kept" / alone.folder.name / "checkpoints" / f"step-{step:08}.safetensors"
        state = load_checkpoint(source)
        name = place.choice([each for each, _ in create_model("test_convnext", 6).named_parameters()])
        weight = state["model"][name]
        weight[tuple(place.randrange(side) for side in weight.shape)] = place.choice([math.nan, math.inf])
        state.pop("schema")
        save_checkpoint(folder / "checkpoints" / source.name, state)
        with pytest.raises(Diverged, match=f"in epoch 1 at step {step + 1}, "):
            train(resume=str(folder), out=tmp_path / "out")
        found = replay(folder, device="cpu")
        assert name in found.facts["broken_weights"] and f"before this step ({name})" in found.why
    fault.seen(
        "a weight that is NaN or infinite in the checkpoint a run resumes from",
        "one value of a seeded tensor changed, the file written anew",
        times,
        measured="stops at the first step; `replay` names the tensor",
    )


def test_absurd_learning_rates(shard_folder, tmp_path, fault):
    times, diverged, number = fault.times(short=2, full=12), 0, 0
    while diverged < times:
        place = random.Random(number)
        settings = {
            "model": place.choice(["test_convnext", "test_vit"]),
            "optimizer": place.choice(["sgd", "adam", "lamb"]),
            "learning_rate": 100.0,
            "scheduler": "constant",
            "momentum": 0.99,
            "batch_size": 8,
            "epochs": 9,
            "early_stopping": 0,
            "seed": number,
        }
        out = tmp_path / str(number)
        number += 1
        assert number < 3 * times, "most settings stay finite: the test shows little"
        try:
            result = train(data=shard_folder, out=out, **{**RUN, **settings})
        except Diverged as error:
            assert "at learning_rate = 100" in str(error)
        else:  # an optimizer that scales its steps may go astray and stay finite: then it is to end as any run
            assert all(math.isfinite(epoch["train_loss"]) for epoch in result.history)
            continue
        diverged += 1
        (folder,) = out.iterdir()
        (tried,) = replay(folder, device="cpu").tried
        assert not tried.finite
        for state in states_of(folder).values():
            assert not non_finite(state["model"]), "a checkpoint holds what is no number"
    fault.seen(
        "a learning rate of 100",
        "SGD, Adam and LAMB on a ConvNeXt and a ViT until they diverge by themselves",
        times,
        measured="`replay` is not finite at the same step; no checkpoint holds a value that is not; "
        f"{number - diverged} other runs stayed finite",
    )


def test_fp16_that_overflows_at_any_scale(shard_folder, tmp_path, fault, monkeypatch):
    monkeypatch.setattr("fasttrain.model.precision._cpu_has_kernels", lambda dtype: True)
    times = fault.times(short=1, full=5)
    for number in range(times):
        first = random.Random(number).randint(1, 8)
        with broken_at(first, "gradient", math.inf, until=10_000):
            folder = diverges(
                shard_folder,
                tmp_path / str(number),
                "fp16's loss scale fell to .*--amp-dtype bf16",
                amp=True,
                amp_dtype="fp16",
                model="test_convnext",
                batch_size=2,
                save_every="99",
            )
        kept = DivergedStep.load(folder / NAME).facts
        assert kept["step"] - first < 41 and 1e-4 / 2**10 <= kept["scale"] < 1e-4
        assert kept["step"] + 1 >= 30, "halvings from 65,536: a batch before the first may overflow by itself"
    fault.seen(
        "fp16 gradients that overflow at any scale",
        "a hook in the backward pass from a seeded step on",
        times,
        measured="stops within 10 steps of a loss scale below 1e-4; single overflows are skipped and counted",
    )


def test_one_rank_of_two(shard_folder, tmp_path, fault):
    """The guilty rank's own loss is broken; the gradient, which they share, is so on both."""
    times = fault.times(short=1, full=6)
    program = Path(__file__).parents[1] / "support" / "broken_rank.py"
    for number in range(times):
        guilty, batch = (number + 1) % 2, random.Random(number).randint(2, 5)
        line = train_line(shard_folder, tmp_path / str(number) / "runs", epochs=1, batch_size=8)
        line[:2] = [str(program), str(guilty), str(batch)]
        outputs = [finish(process, 2) for process in start_ranks(line)]
        (folder,) = (tmp_path / str(number) / "runs").iterdir()
        said = [text for text in outputs if "fasttrain: " in text]
        assert len(said) == 1 and f"the loss became nan in epoch 1 at step {batch}" in said[0]
        (kept,) = folder.glob("diverged*.safetensors")
        step = DivergedStep.load(kept)
        assert (step.facts["rank"], step.facts["step"]) == (guilty, batch - 1)
        assert last_state(folder)["step"] == batch - 1 and not non_finite(last_state(folder)["model"])
        assert replay(folder, device="cpu").tried[0].finite
    fault.seen(
        "NaN on one rank of two",
        "a hook in one rank's forward pass",
        times,
        measured="both end with code 2 and one line; the guilty rank's own batch is kept",
    )
