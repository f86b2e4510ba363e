"""`--minutes` in real runs, on a clock that steps alone move, so that a busy machine decides the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fasttrain import train
from fasttrain.checkpoint.trained import load_trained
from fasttrain.commands import run as run_module
from fasttrain.config.load import resolve
from fasttrain.errors import UserError
from fasttrain.ranks import Ranks
from fasttrain.shards.reader import ShardSet
from fasttrain.terminal import make_console
from fasttrain.training.pace import Pace
from fasttrain.training.rates import _sizes as sizes_of
from fasttrain.training.rates import measure_rates
from fasttrain.training.resume import RunStart
from fasttrain.training.setup import make_parts
from fasttrain.training.teacher import Teacher
from fasttrain.training.time_plan import Rates
from tests.support.runs import SMALL, killed_after, last_state

pytestmark = pytest.mark.usefixtures("no_figures")

TIMED = {name: value for name, value in SMALL.items() if name not in ("epochs", "image_size")}
TIMED |= {"image_size": 64, "batch_size": 8, "deterministic": True, "track": False, "save_every": "off", "minutes": 1.0}


class Clock:
    """Seconds that go by as steps are made: `slow` times as many as `RATES` say."""

    def __init__(self) -> None:
        self.now, self.slow, self.measured = 0.0, 1.0, 0


RATES = Rates({32: 0.4, 64: 1.0}, evaluation=0.05, evaluated_side=64)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    after_step = Pace.after_step

    def step(self: Pace, side: int) -> float:
        base, per_pixel = self.plan.line
        made.now += made.slow * (base + per_pixel * side**2)
        return after_step(self, side)

    def rates(parts: Any, sides: Any, late: Any, freezable: int = 0) -> Rates:
        made.measured += 1
        return replace(RATES, early_blocks=freezable, frozen=0.6)

    monkeypatch.setattr(Pace, "after_step", step)
    monkeypatch.setattr("fasttrain.training.rates.measure_rates", rates)
    for module in ("training.pace", "commands.train", "commands.run"):
        monkeypatch.setattr(f"fasttrain.{module}.clock", lambda: made.now)
    yield made


@pytest.fixture(scope="module")
def begin(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that stand for pretrained ones: random ones, normalized by one pass of BatchNorm."""
    from timm import create_model

    torch.manual_seed(3)
    model = create_model(TIMED["model"], num_classes=10)
    model.train()(torch.randn(16, 3, 32, 32))
    path = tmp_path_factory.mktemp("weights") / "begin.pth"
    torch.save(model.state_dict(), path)
    return path


def test_a_run_is_planned_and_a_slow_one_ends_in_time_with_its_schedule(shard_folder, tmp_path, clock, begin, capsys):
    clock.slow = 1.7
    run = train(data=shard_folder, out=tmp_path, **TIMED, weights=begin)
    said = " ".join(capsys.readouterr().out.split())
    assert "minutes: 1; the head is fitted first" in said and "evaluated at 64 px" in said
    assert "were planned" in said
    state = last_state(run.folder)
    plan, decisions = state["pace"]["plan"], state["pace"]["decisions"]
    assert decisions and decisions[-1]["end"] < plan["training"]
    assert clock.now <= 60 - plan["finish"] and clock.now >= 30
    full = state["config"]["epochs"] - 7
    assert state["schedule"]["position"] == pytest.approx(full * plan["steps"], rel=0.1)
    assert [each["phase"] for each in run.history] == ["head"] * 7 + ["full"] * (len(run.history) - 7)
    assert [each for each in range(len(run.history)) if "l2" in run.history[each]] == list(range(7))
    assert run.history[-1]["learning_rate"] < 0.1 * TIMED["learning_rate"]
    assert json.loads((run.folder / "evaluation.json").read_text())
    written = (run.folder / "config.toml").read_text()
    assert "minutes = 1.0" in written and "freeze = 6" in written
    assert "blocks frozen (" in said and frozen_and_trained(run.folder, begin) == (True, True)


def frozen_and_trained(folder: Path, begin: Path) -> tuple[bool, bool]:
    """Return whether the stem of the last epoch's model is as in `begin`, and whether its last convolution is not."""
    after, begun = last_state(folder)["model"], torch.load(begin)
    stem, last = "conv_stem.weight", "conv_head.weight"
    return torch.equal(begun[stem], after[stem]), not torch.equal(begun[last], after[last])


def test_given_frozen_blocks_are_kept(shard_folder, tmp_path, clock, begin):
    run = train(data=shard_folder, out=tmp_path, **TIMED, weights=begin, freeze=0)
    assert "freeze = 0" in (run.folder / "config.toml").read_text()
    assert frozen_and_trained(run.folder, begin) == (False, True)


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(
    "when",
    [
        lambda state: state["epoch"] == 3,
        lambda state: state["epoch"] == 7,
        lambda state: state["epoch"] == 8 and state["loader"]["samples"] > 16,
    ],
    ids=["in the head's epochs", "after them", "in mid-epoch"],
)
@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(
    when, shard_folder, tmp_path, clock, begin, uninterrupted, monkeypatch
):
    """With a head that is solved for on a part of the photographs."""
    monkeypatch.setattr("fasttrain.training.linear_probe._MOST_UNDER_MINUTES", 30)
    clock.slow = 1.7
    if not uninterrupted:
        uninterrupted["run"] = train(data=shard_folder, out=tmp_path / "alone", **TIMED, weights=begin)
    alone = uninterrupted["run"]
    assert last_state(alone.folder)["config"]["freeze"] > 0
    clock.now = 0.0
    with killed_after(when):
        train(data=shard_folder, out=tmp_path / "killed", **{**TIMED, "save_every": 1}, weights=begin)
    measured = clock.measured
    clock.now += 1000.0  # between the two processes
    resumed = train(resume="auto", out=tmp_path / "killed")
    assert clock.measured == measured, "a resumed run follows its plan"
    decisions = [last_state(run.folder)["pace"]["decisions"] for run in (alone, resumed)]
    assert decisions[0] == decisions[1] != []
    ours, theirs = (load_file(run.folder / "model.safetensors") for run in (alone, resumed))
    assert all(torch.equal(each, theirs[name]) for name, each in ours.items())
    assert [each["train_loss"] for each in alone.history] == [each["train_loss"] for each in resumed.history]


@pytest.mark.slow
def test_more_minutes_let_a_planned_run_train_longer(shard_folder, tmp_path, clock, begin):
    clock.slow = 4.0
    short = train(data=shard_folder, out=tmp_path, **TIMED, weights=begin)
    before = last_state(short.folder)["pace"]
    (short.folder / "evaluation.json").unlink()
    longer = train(resume=str(short.folder), minutes=2.0)
    assert last_state(longer.folder)["pace"]["work"] >= before["work"]
    assert last_state(longer.folder)["pace"]["end"] >= before["end"]


@pytest.mark.slow
def test_too_little_time_leaves_a_linear_probe(shard_folder, tmp_path, clock, begin, monkeypatch, capsys):
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    run = train(data=shard_folder, out=tmp_path / "runs", **{**TIMED, "minutes": 0.1}, weights=begin)
    assert "minutes: 0.1; only the head, fitted on frozen features" in " ".join(capsys.readouterr().out.split())
    after, begun = load_file(run.folder / "model.safetensors"), torch.load(begin)
    assert {name for name in begun if not torch.equal(begun[name], after[name])} <= {
        *("classifier.weight", "classifier.bias")
    }
    assert all("l2" in record for record in run.history)
    resumed = train(resume=str(run.folder))
    assert resumed.history == run.history


@pytest.mark.parametrize("minutes", [0.1, 1.0])
@pytest.mark.slow
def test_a_head_that_takes_too_long_is_the_best_so_far(minutes, shard_folder, tmp_path, clock, begin, monkeypatch):
    """Alone, and before everything is trained: each of its epochs takes half of the time."""
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    solve = run_module.solve_epoch

    def slowly(*given: Any, **named: Any) -> bool:
        clock.now += 30 * minutes
        return solve(*given, **named)

    monkeypatch.setattr(run_module, "solve_epoch", slowly)
    run = train(data=shard_folder, out=tmp_path / "runs", **{**TIMED, "minutes": minutes}, weights=begin)
    assert [("l2" in each) for each in run.history] == [True] * (1 if minutes < 1 else 2)
    assert last_state(run.folder)["pace"]["plan"]["head"] == ("alone" if minutes < 1 else "first")
    assert run.monitor == ("val_loss" if minutes < 1 else "top1"), "penalties differ in the loss with less noise"


@pytest.mark.slow
def test_training_that_spoils_the_head_leaves_the_head(shard_folder, tmp_path, clock, begin, monkeypatch):
    """Its epochs, their number chosen here, are among those that the best one is chosen from."""
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    spoiling = {"learning_rate": 0.3, "warmup_epochs": 0, "color_jitter": 0.3, "average": 2, "head_epochs": 2}
    spoiling |= {"freeze_bn": "off", "monitor": "val_loss"}
    run = train(data=shard_folder, out=tmp_path / "runs", **{**TIMED, **spoiling}, weights=begin)
    assert run.best_epoch <= 2 < len(run.history)
    assert [("l2" in each) for each in run.history[:3]] == [True, True, False]
    assert run.evaluation.loss <= run.best["val_loss"] + 1e-6
    assert len(list((tmp_path / "cache" / "features").glob("*-train.safetensors"))) == 1
    plan, sizes = last_state(run.folder)["pace"]["plan"], ShardSet.open(shard_folder).split_sizes()
    seen = 3 * sizes["val"] + 2 * sizes["train"]
    assert plan["finish"] == pytest.approx(5 + 0.02 * 60 + seen * RATES.evaluation), (
        "validation for the temperature and for the result; an average is evaluated, and its statistics taken twice"
    )


CHANGED_STEP = {"sam": 0.05, "drop_path": 0.1, "trivial_augment": True, "loss": "focal", "sampling": "balanced"}


@pytest.mark.parametrize(
    "settings",
    [{"fold": "2/3", "teacher": "MODEL", "monitor": "top1"}, {**CHANGED_STEP, "interpolation": "auto"}],
    ids=["fold and teacher", "step"],
)
@pytest.mark.full
def test_other_settings_have_a_budget_and_resume_in_it(
    settings, shard_folder, model_folder, tmp_path, clock, begin, monkeypatch, capsys
):
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fasttrain.training.linear_probe._MOST_UNDER_MINUTES", 30)
    settings = {**TIMED, **settings, "weights": begin, "data": shard_folder}
    if "teacher" in settings:
        settings["teacher"] = str(model_folder)
    alone = train(out=tmp_path / "alone", **settings)
    said = capsys.readouterr().out
    assert ("interpolation: bicubic, which" in said) == ("interpolation" in settings)
    state = last_state(alone.folder)
    assert clock.now <= 60 - state["pace"]["plan"]["finish"] and alone.history[-1]["phase"] == "full"
    taken = {path.stem.partition("-")[2] for path in (tmp_path / "cache" / "features").iterdir()}
    assert taken == ({"train", "val"} if "fold" in settings else {"train-3", "val"}), "a fold's are of all photographs"
    clock.now = 0.0
    with killed_after(lambda state: state["epoch"] == 8 and state["loader"]["samples"] > 16):
        train(out=tmp_path / "killed", **{**settings, "save_every": 1})
    resumed = train(resume="auto", out=tmp_path / "killed")
    ours, theirs = (load_file(run.folder / "model.safetensors") for run in (alone, resumed))
    assert all(torch.equal(each, theirs[name]) for name, each in ours.items())


def test_a_run_trains_at_sizes_that_its_teacher_takes(model_folder, monkeypatch):
    asked = resolve({"minutes": 1, "teacher": str(model_folder), "image_size": 160, "model": TIMED["model"]})
    _, spec = load_trained(model_folder)
    teacher = Teacher("there", spec, "0" * 64, torch.nn.Identity(), torch.enable_grad, None, None)
    assert sizes_of(asked, asked, teacher) == ([160], {32, 64, 96, 128, 160})
    fixed = replace(teacher, spec=replace(spec, name="vit_tiny_patch16_224", img_size=160))
    assert sizes_of(asked, asked, fixed) == ([160], {160})


def test_head_epochs_without_features_are_refused(shard_folder, tmp_path, clock):
    with pytest.raises(UserError, match=r"head_epochs = 2: .* on cached features, but without pretrained weights"):
        train(data=shard_folder, out=tmp_path, **TIMED, head_epochs=2)


def test_minutes_of_a_linear_probe_are_refused(shard_folder, tmp_path):
    with pytest.raises(UserError, match=r"linear_probe ends within seconds, .*; leave --minutes out"):
        train(data=shard_folder, out=tmp_path, **{**TIMED, "image_size": 48}, linear_probe=True)


@pytest.mark.slow
def test_rates_are_measured_and_nothing_of_it_is_kept(shard_folder, tmp_path, begin):
    """With the machine's own clock: how fast it is decides how much is trained, and never whether the run ends."""
    run = train(data=shard_folder, out=tmp_path, **{**TIMED, "minutes": 0.5}, weights=begin)
    state = last_state(run.folder)
    assert len(list(tmp_path.iterdir())) == 1 and len(run.history) >= 1
    if state["pace"]["plan"]["head"] != "alone":
        assert state["step"] <= state["config"]["epochs"] * state["pace"]["plan"]["steps"]
        assert all(each > 0 for each in (state["pace"]["plan"]["validation"], sum(state["pace"]["plan"]["line"])))


@pytest.mark.parametrize(("head_first", "given"), [(True, {}), (False, {}), (False, {"freeze": 4})])
def test_steps_are_measured_with_the_layers_that_the_run_freezes(
    head_first, given, shard_folder, tmp_path, clock, begin, monkeypatch
):
    """With frozen statistics, BatchNorm is folded into convolutions, and a step takes two thirds of the time."""
    seen: list[set[str]] = []

    def folded(parts: Any) -> set[str]:
        return {name for name, module in parts.model.named_modules() if "forward" in vars(module)}

    def rates(parts: Any, *_: Any) -> Rates:
        assert {id(each) for each in parts.frozen} == {id(each) for each in parts.step.frozen}
        seen.append(folded(parts))
        return RATES

    def note(self: Any, *given: Any) -> None:
        seen.append(folded(self.parts))
        ended(self, *given)

    ended = run_module.Run._after_step
    monkeypatch.setattr("fasttrain.training.rates.measure_rates", rates)
    monkeypatch.setattr(run_module.Run, "_after_step", note)
    train(data=shard_folder, out=tmp_path, **TIMED, **given, **({"weights": begin} if head_first else {}))
    assert all(each == seen[0] for each in seen) and bool(seen[0]) is (head_first or bool(given))


@pytest.mark.parametrize(
    ("late", "freezable", "steps", "sides"),
    [(False, 0, 8, {32, 64}), (True, 0, 1, {32}), (False, 4, 12, {32, 64}), (True, 4, 2, {32})],
)
def test_measuring_ends_where_it_takes_too_much_of_the_time(late, freezable, steps, sides, shard_folder, tmp_path):
    settings = {**{name: each for name, each in TIMED.items() if name != "minutes"}, "data": shard_folder}
    config = resolve({**settings, "out": tmp_path})
    with Ranks() as ranks:
        parts = make_parts(RunStart(config), make_console(quiet=True), ranks)
        with closing(parts.loaders):
            rates = measure_rates(parts, [32, 64], lambda: late, freezable)
    assert parts.state.step == steps and set(rates.steps) == sides and rates.evaluation > 0
    assert rates.early_blocks in (0, freezable) and 0 < rates.frozen <= 1
    assert any(not each.requires_grad for each in parts.model.parameters()) is bool(freezable)


RANK = """
import sys, json
from pathlib import Path
import fasttrain.training.pace as pace
import fasttrain.training.rates as rates
from fasttrain.training.time_plan import Rates
import os, fasttrain
from fasttrain.commands import train as command
rank = int(os.environ["RANK"])
calls = iter(range(10**6))
clock = lambda: next(calls) * (0.7 if rank == 0 else 50.0)
pace.clock = command.clock = clock
rates.measure_rates = lambda *_: Rates({32: 0.4 + rank, 64: 1.0 + rank}, evaluation=0.05, evaluated_side=64)
look = pace.Pace.look
def noted(self, step, elapsed):
    look(self, step, elapsed)
    Path(sys.argv[1], f"rank{rank}.json").write_text(json.dumps([self.decisions, self.progress]))
pace.Pace.look = noted
fasttrain.train(**json.loads(sys.argv[2]))
"""


@pytest.mark.full
def test_two_ranks_take_the_decisions_of_the_first(shard_folder, tmp_path, begin):
    given = {**TIMED, "data": str(shard_folder), "out": str(tmp_path / "runs"), "weights": str(begin)}
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    done = subprocess.run(
        [
            *command,
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            "127.0.0.1:0",
            str(script),
            str(tmp_path),
            json.dumps(given),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first == second and first[0], "each has a clock of its own"
