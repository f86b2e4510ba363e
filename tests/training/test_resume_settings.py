"""Every setting, given another value on `--resume`: it is in effect, or it is refused by name."""

from __future__ import annotations

import io
import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from fasttrain import device as device_module
from fasttrain import train
from fasttrain.checkpoint.file import save_checkpoint
from fasttrain.checkpoint.folder import checkpoint_path, checkpoints_of
from fasttrain.commands import final_evaluation
from fasttrain.commands import run as run_module
from fasttrain.commands.run_files import previous_tracking, start_tracker
from fasttrain.commands.train import make_run
from fasttrain.config.load import resolve
from fasttrain.config.resuming import RULES, OnResume, lasting, tables
from fasttrain.config.schema import TrainConfig
from fasttrain.config.values import RandAugment
from fasttrain.errors import UserError
from fasttrain.loaders.registry import LOADERS, loader_class
from fasttrain.ranks import Ranks
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet
from fasttrain.stop import StopRequest
from fasttrain.tracking.record import Record
from fasttrain.tracking.tracker import NullTracker, Tracker
from fasttrain.training.resume import start_of_run
from tests.support.runs import SMALL, killed_after, last_state

BEGUN = {
    **SMALL,
    "optimizer": "adam",
    "scheduler": "plateau",
    "model": "test_convnext",
    "image_size": 32,
    "batch_size": 8,
    "limit_batches": 1,
    "track": False,
}


@pytest.fixture(scope="module")
def begun(shard_folder, tmp_path_factory) -> Path:
    """The folder of a run that was killed after the first of its two epochs, which are a batch each."""
    runs = tmp_path_factory.mktemp("begun")
    with killed_after(lambda state: state["epoch"] == 1):
        train(data=shard_folder, out=runs, **BEGUN)
    return next(runs.iterdir())


class Resumed:
    """A resumed run, its second epoch trained unless `steps` is False, and what it said."""

    def __init__(self, folder: Path, changed: dict[str, Any], steps: bool = True) -> None:
        self.start = start_of_run(None, {"resume": str(folder), **changed})
        said = io.StringIO()
        self.run = make_run(self.start, Console(file=said, width=200), StopRequest(), Ranks())
        try:
            self.run._prepare(NullTracker())
            if steps:
                self.run._one_epoch()
            self.run.saving.wait()
        finally:
            self.run.parts.loaders.close()
        self.said, self.state, self.step = said.getvalue(), self.run.state, self.run.parts.step
        self.loader, self.model, self.config = self.run.state.loader.settings, self.run.parts.model, self.run.config

    @property
    def group(self) -> dict[str, Any]:
        """The head's parameters in the checkpoint."""
        return last_state(self.run.folder.path)["optimizer"]["param_groups"][-1]


def other_loader(shards: Path) -> str:
    others = [name for name in LOADERS if name != SMALL["loader"]]
    return next((each for each in others if not loader_class(each).unavailable(ShardSet.open(shards), "cpu")), "auto")


def trainable(run: Resumed) -> int:
    return sum(each.requires_grad for each in run.model.parameters())


def drop_probabilities(model: torch.nn.Module) -> list[float]:
    return [each.drop_prob for each in model.modules() if hasattr(each, "drop_prob")]


# For each setting: the settings given with `resume`, the value to look up in the resumed run, and its expected value.
EFFECTS: dict[str, tuple[dict[str, Any], Callable[[Resumed], Any], Any]] = {
    "workers": ({"workers": 1}, lambda run: run.loader.workers, 1),
    "on_bad_sample": ({"on_bad_sample": "skip"}, lambda run: run.loader.on_bad_sample, "skip"),
    "crop_scale": ({"crop_scale": (0.5, 0.6)}, lambda run: run.loader.crop.scale, (0.5, 0.6)),
    "hflip": ({"hflip": 0.0}, lambda run: run.loader.crop.flip, 0.0),
    "vflip": ({"vflip": 0.5}, lambda run: run.loader.crop.vflip, 0.5),
    "progressive": ({"progressive": "64:64"}, lambda run: run.state.history[-1]["image_size"], 64),
    "color_jitter": ({"color_jitter": 0.3}, lambda run: run.step.augmentation.pixels._color_jitter, 0.3),
    "rand_augment": (
        {"rand_augment": "n1-m3"},
        lambda run: run.step.augmentation.pixels._rand_augment,
        RandAugment(1, 3),
    ),
    "trivial_augment": (
        {"trivial_augment": True},
        lambda run: run.step.augmentation.pixels._trivial_augment,
        True,
    ),
    "random_erasing": ({"random_erasing": 0.5}, lambda run: run.step.augmentation.pixels._random_erasing, 0.5),
    "mixup": ({"mixup": 0.2}, lambda run: run.step.augmentation.mix._mixup.mixup_alpha, 0.2),
    "cutmix": ({"cutmix": 0.7}, lambda run: run.step.augmentation.mix._mixup.cutmix_alpha, 0.7),
    "freeze_bn": (
        {"freeze_bn": "on"},
        lambda run: any(isinstance(each, torch.nn.BatchNorm2d) and each.training for each in run.model.modules()),
        False,
    ),
    "freeze": ({"freeze": 2}, lambda run: 0 < trainable(run) < len(list(run.model.parameters())), True),
    "drop_rate": ({"drop_rate": 0.4}, lambda run: run.model.drop_rate, 0.4),
    "drop_path": ({"drop_path": 0.3}, lambda run: max(drop_probabilities(run.model)), pytest.approx(0.3)),
    "epochs": ({"epochs": 4}, lambda run: run.state.schedule.state_dict()["epochs"], 4),
    "batch_size": ({"batch_size": 4}, lambda run: (run.loader.batch_size, run.run.parts.batch_size), (4, 4)),
    "grad_accumulation": ({"grad_accumulation": 3}, lambda run: run.step.accumulate, 3),
    "optimizer": ({"optimizer": "sgd"}, lambda run: type(run.state.optimizer).__name__, "SGD"),
    "learning_rate": ({"learning_rate": 1e-4}, lambda run: (run.state.history[-1]["learning_rate"], run.group["lr"]),
                      (1e-4, 1e-4)),
    "weight_decay": ({"weight_decay": 0.5}, lambda run: run.group["weight_decay"], 0.5),
    "layer_decay": (
        {"layer_decay": 0.5},
        lambda run: len({each["lr"] for each in run.state.optimizer.param_groups}) > 2,
        True,
    ),
    "momentum": ({"optimizer": "sgd", "momentum": 0.3}, lambda run: run.group["momentum"], 0.3),
    "scheduler": ({"scheduler": "constant"}, lambda run: run.state.schedule.state_dict()["kind"], "constant"),
    "warmup_epochs": (
        {"scheduler": "cosine", "warmup_epochs": 4.0, "epochs": 4},
        lambda run: run.state.history[-1]["learning_rate"],
        pytest.approx(SMALL["learning_rate"] * (0.01 + 0.99 * 2 / 4)),  # after two of its four steps
    ),
    "patience": ({"patience": 9}, lambda run: run.state.schedule._plateau.patience, 9),
    "factor": ({"factor": 0.7}, lambda run: run.state.schedule._plateau.factor, 0.7),
    "early_stopping": ({"early_stopping": 9}, lambda run: run.state.early_stopping.patience, 9),
    "loss": ({"loss": "focal"}, lambda run: run.step.criterion.gamma, 2.0),
    "focal_gamma": ({"loss": "focal", "focal_gamma": 0.5}, lambda run: run.step.criterion.gamma, 0.5),
    "label_smoothing": ({"label_smoothing": 0.2}, lambda run: run.step.criterion.label_smoothing, 0.2),
    "class_weights": ({"class_weights": "balanced"}, lambda run: run.step.criterion.weight is not None, True),
    "clip_grad": ({"clip_grad": 0.5}, lambda run: run.step.clip_grad, 0.5),
    "sam": ({"sam": 0.05}, lambda run: run.step.sam, 0.05),
    "ema_decay": ({"ema_decay": 0.9}, lambda run: last_state(run.run.folder.path)["ema"] is not None, True),
    "average": ({"average": 3}, lambda run: len(run.state.candidates.best_first), 2),
    "device": ({"device": "auto"}, lambda run: run.run.parts.device, device_module.choose_device("auto")),
    "gpus": ({"gpus": 1}, lambda run: (run.config.gpus, run.run.ranks.size), (1, 1)),  # more: test_gpus.py
    "amp": ({"amp": True}, lambda run: run.run.parts.precision.name, "bf16"),
    "amp_dtype": ({"amp": True, "amp_dtype": "fp16"}, lambda run: run.state.scaler.is_enabled(), True),
    "channels_last": (
        {"channels_last": False},
        lambda run: {
            (each.is_contiguous(), each.stride() == run.state.optimizer.state[each]["exp_avg"].stride())
            for each in run.model.parameters()
        },
        {(True, True)},
    ),
    "sync_bn": ({"sync_bn": True}, lambda run: "sync_bn: ignored: it needs several ranks on CUDA" in run.said, True),
    "compile": ({"compile": "on"}, lambda run: run.run.parts.compiled, True),
    "compile_mode": ({"compile": "on", "compile_mode": "max-autotune"}, lambda run: run.model.mode, "max-autotune"),
    "grad_checkpointing": (
        {"grad_checkpointing": True},
        lambda run: any(getattr(each, "grad_checkpointing", False) for each in run.model.modules()),
        True,
    ),
    "deterministic": ({"deterministic": True}, lambda run: torch.are_deterministic_algorithms_enabled(), True),
    "save_every": ({"save_every": 3}, lambda run: run.run.saving.due(3, False), True),
    "keep": ({"keep": 1}, lambda run: len(checkpoints_of(run.run.folder.path)), 1),
}  # fmt: skip

FIXED: dict[str, Any] = {
    "shuffle": "shards",
    "sampling": "balanced",
    "image_size": 64,
    "interpolation": "bicubic",
    "eval_size": 64,
    "crop_pct": 0.9,
    "resize_mode": "squash",
    "limit_batches": 2,
    "model": "test_resnet",
    "pretrained": True,
    "weights": Path("other.safetensors"),
    "linear_probe": True,
    "teacher": "elsewhere",
    "recipe": "fast",
    "minutes": 5.0,
    "head_epochs": 1,
    "refit": True,
    "monitor": "top1",
    "seed": 7,
    "fold": "2/5",
}

GOES_WITH = {"minutes": {"scheduler": "cosine"}}  # else they are refused beside plateau, with another line

CALL = {"out", "folds", "profile", "resume", "run_name"}

APART = {
    "teacher_temperature",
    "teacher_weight",
    "data",
    "cache_size",
    "loader",
    "tta",
    "explain",
    "log_format",
    "experiment",
    "track",
}
"""Settings that also take effect, and have tests of their own below."""


def test_every_setting_has_a_rule_and_a_test():
    assert list(RULES) == list(TrainConfig.model_fields), "one for each field, in the same order"
    kinds = {kind: {name for name, rule in RULES.items() if rule.kind is kind} for kind in OnResume}
    assert kinds[OnResume.EFFECT] == EFFECTS.keys() | APART
    assert kinds[OnResume.FIXED] == FIXED.keys()
    assert kinds[OnResume.CALL] == CALL


def test_the_documentation_has_the_tables():
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "resume.md").read_text("utf-8")
    for table in tables():
        assert table in page, "python -c 'import fasttrain.config.resuming as r; print(*r.tables(), sep=2 * chr(10))'"


@pytest.fixture
def other_process() -> Iterator[None]:
    """Puts back what a run sets in this process."""
    yield
    torch.use_deterministic_algorithms(False)


def copied(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "runs" / begun.name))


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.slow
def test_it_takes_effect(name, begun, tmp_path, monkeypatch, other_process):
    changed, look, expected = EFFECTS[name]
    monkeypatch.setattr("fasttrain.model.precision._cpu_has_kernels", lambda dtype: True)  # slow ones do here
    monkeypatch.setattr(torch, "compile", lambda call, mode, dynamic: setattr(call.__self__, "mode", mode) or call)
    folder = copied(begun, tmp_path)
    steps = name != "amp_dtype" or bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    resumed = Resumed(folder, changed, steps)
    assert look(resumed) == expected
    assert {line.split(":")[0] for line in resumed.start.changed} == changed.keys()
    assert [each["epoch"] for each in resumed.state.history] == [1, 2][: 1 + steps]
    again = start_of_run(None, {"resume": str(folder)})
    assert again.changed == () and lasting(again.config.plain()) == lasting(resumed.config.plain()), "and stays"


@pytest.mark.parametrize("name", FIXED)
def test_it_is_refused_in_one_line_before_anything_is_written(name, begun, tmp_path):
    folder = copied(begun, tmp_path)
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    with pytest.raises(UserError) as caught:
        train(resume=str(folder), **{name: FIXED[name], **GOES_WITH.get(name, {})})
    old = resolve(BEGUN).plain().get(name)
    assert str(caught.value).startswith(f"{name} = {old} can't become {FIXED[name]} in the run of {folder}")
    assert str(caught.value).endswith(RULES[name].explanation.replace("RUN/", f"{folder}/"))
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()} == before


def test_the_same_value_is_no_change(begun, tmp_path):
    """The line that began a run resumes it."""
    folder = copied(begun, tmp_path)
    toml = tmp_path / "run.toml"
    toml.write_text("".join(f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}\n"
                            for name, value in BEGUN.items()))  # fmt: skip
    for file, given in ((None, BEGUN), (toml, {})):
        start = start_of_run(file, {"resume": "auto", "out": folder.parent, "run_name": "x", "profile": True, **given})
        assert (start.folder, start.changed) == (folder, ())


def test_what_belongs_to_one_call_is_neither_kept_nor_called_a_change(begun, tmp_path):
    folder = copied(begun, tmp_path)
    resumed = Resumed(folder, {"run_name": "x", "profile": True, "out": tmp_path, "keep": 3})
    assert resumed.start.changed == ("keep: 2 -> 3",)
    assert not CALL & last_state(folder)["config"].keys()
    assert not [line for line in (folder / "config.toml").read_text().splitlines() if line.split()[0] in CALL]
    assert (folder / "trace.json.gz").exists()


@pytest.mark.slow
def test_data_may_lie_elsewhere_and_must_be_the_same(begun, tmp_path, shard_folder, photographs, monkeypatch):
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    moved = shutil.copytree(shard_folder, tmp_path / "moved")
    resumed = Resumed(copied(begun, tmp_path), {"data": moved})
    assert resumed.run.parts.shards.folder == moved and len(resumed.state.history) == 2
    remote = Resumed(copied(begun, tmp_path / "b"), {"data": f"file://{moved}", "cache_size": "7GB"})
    assert remote.run.parts.shards.files.limit == 7 * 10**9 and len(remote.state.history) == 2
    with pytest.raises(UserError, match=r"is not the data that .* began with; give --data as then"):
        train(resume=str(copied(begun, tmp_path / "c")), data=photographs)


def test_data_that_was_appended_to_is_refused_with_the_way_out(begun, tmp_path, shard_folder, photographs):
    grown, shards = tmp_path / photographs.name, tmp_path / "shards"
    shutil.copytree(photographs, grown)
    shutil.copytree(shard_folder, shards)
    first = min(path for path in grown.iterdir() if path.is_dir())
    shutil.copy(next(first.glob("*.jpg")), first / "another.jpg")
    convert(grown, shards, format="tar,beton", shard_size=40, append=True, progress=False)
    with pytest.raises(UserError, match=r"has grown since .* began; .*: --weights .*/model\.safetensors$"):
        train(resume=str(copied(begun, tmp_path)), data=shards)


def test_the_teachers_part_of_the_loss(begun, tmp_path, shard_folder, model_folder):
    with killed_after(lambda state: state["epoch"] == 1):
        train(data=shard_folder, out=tmp_path, **BEGUN, teacher=str(model_folder))
    (folder,) = tmp_path.iterdir()
    resumed = Resumed(folder, {"teacher_temperature": 2.0, "teacher_weight": 0.5}, steps=False)
    assert (resumed.step.teacher.temperature, resumed.step.teacher.weight) == (2.0, 0.5)


def test_another_loader(begun, tmp_path, shard_folder):
    name = other_loader(shard_folder)
    assert Resumed(copied(begun, tmp_path), {"loader": name}).run.parts.loader_name in (name, SMALL["loader"])


def test_what_the_end_of_a_run_asks_for(begun, tmp_path, monkeypatch, capsys):
    """tta, and the form of what is printed."""
    averaged = []
    monkeypatch.setattr(final_evaluation, "FlipAveraged", lambda model: averaged.append(model) or model)
    monkeypatch.setattr(run_module, "write_result", lambda *given: None)
    train(resume=str(copied(begun, tmp_path)), tta="flip", log_format="json")
    said = capsys.readouterr().out.splitlines()
    assert len(averaged) == 1 and said and all(line.startswith("{") for line in said)


@pytest.mark.slow
def test_tracking(begun, tmp_path, monkeypatch):
    folder = copied(begun, tmp_path)
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(Tracker, "start", lambda **given: started.append(given) or NullTracker())
    run = Resumed(folder, {"track": True}).run
    start_tracker(run.parts, run.folder.path, run.tracked, run.tags, run._warn)
    assert len(started) == 1 and started[0]["experiment"] == "fasttrain"
    path, start = folder / "tracking.json", start_of_run(None, {"resume": str(folder)})
    start.checkpoint.update(mlflow_run_id="1", journal="2")
    began = Record(path, uuid="2", experiment="a", run_name="b", params={}, tags={})
    began.save()
    assert previous_tracking(start) == {"mlflow_run_id": "1", "journal": "2"} and path.exists()
    replace(began, uuid="3").save()
    assert previous_tracking(start) == {"mlflow_run_id": "1", "journal": "2", "experiment": "a"}
    assert not path.exists(), "of a branch that was killed before it was saved"
    other = replace(start, config=start.config.model_copy(update={"experiment": "other"}))
    back = replace(start, went_back=True)
    for number, (new, tag, own) in enumerate(
        [(other, "continued_in", {}), (back, "abandoned", {"experiment": "a"})], 2
    ):
        began.save()
        assert previous_tracking(new) == {"mlflow_run_id": None, "journal": None, **own} and not path.exists()
        kept = Record.load(folder / f"tracking-{number}.json")
        assert kept is not None and kept.tags.keys() == {tag} and kept.status == "KILLED" and kept.ended
        assert [row["step"] for row in kept.metrics] == [1, 2]


def test_fewer_epochs_than_have_begun_are_refused(begun, tmp_path):
    state = last_state(begun)
    folder = copied(begun, tmp_path)
    save_checkpoint(checkpoints_of(folder)[0], {**state, "loader": {"epoch": 1, "samples": 8}})
    with pytest.raises(UserError, match="epochs = 1 is fewer than the 2 that the checkpoint has begun"):
        start_of_run(None, {"resume": str(folder), "epochs": 1})
    assert start_of_run(None, {"resume": str(begun), "epochs": 1}).changed == ("epochs: 2 -> 1",)


def moments(folder: Path) -> dict[str, torch.Tensor]:
    saved = last_state(folder)["optimizer"]
    return {name: saved["state"][at]["exp_avg"] for at, name in enumerate(saved["names"])}


@pytest.mark.parametrize("changed", [{"freeze": 2}, {"layer_decay": 0.5}, {"weight_decay": 0.0}], ids=str)
def test_other_groups_of_parameters_keep_their_moments(changed, begun, tmp_path):
    folder = copied(begun, tmp_path)
    before = moments(folder)
    Resumed(folder, changed, steps=False)
    after = moments(folder)
    assert after and all(torch.equal(each, before[name]) for name, each in after.items())
    assert (len(after) < len(before)) == ("freeze" in changed)
    if "freeze" in changed:
        Resumed(folder, {"freeze": 0}, steps=False)
        assert moments_known(folder) == after.keys(), "what was frozen begins without"
        Resumed(folder, {"epochs": 3})
        assert moments_known(folder) == before.keys()


def moments_known(folder: Path) -> set[str]:
    saved = last_state(folder)["optimizer"]
    return {saved["names"][at] for at in saved["state"]}


def test_a_checkpoint_that_does_not_name_its_moments(begun, tmp_path):
    """Older versions wrote such checkpoints: they fit the same groups, and no others."""
    folder = copied(begun, tmp_path)
    before, state = moments(folder), last_state(folder)
    for part, added in (("optimizer", ("kind", "names")), ("schedule", ("kind", "learning_rate"))):
        for name in added:
            del state[part][name]
    del state["best"], state["journal"]
    save_checkpoint(checkpoints_of(folder)[0], state)
    old = copied(folder, tmp_path / "b")
    Resumed(folder, {"learning_rate": 1e-4}, steps=False)
    after = moments(folder)
    assert all(torch.equal(each, before[name]) for name, each in after.items())
    Resumed(old, {"layer_decay": 0.5})
    assert last_state(old)["optimizer"]["state"][0]["step"] == 1, "they began anew"


@pytest.mark.parametrize(("scheduler", "given"), itertools.product(("plateau", "cosine", "onecycle"), (True, False)))
@pytest.mark.slow
def test_a_schedule_goes_on_as_if_the_rate_had_always_been_so(scheduler, given, shard_folder, tmp_path):
    """Bit for bit, but for plateau, whose drops are of the rate it had."""
    settings = {**BEGUN, "scheduler": scheduler, "patience": 0, "epochs": 3, "momentum": 0.5, "optimizer": "sgd"}
    rate = {"learning_rate": 0.01, "momentum": 0.7} if given else {}
    with killed_after(lambda state: state["epoch"] == 2):
        train(data=shard_folder, out=tmp_path / "a", **settings)
    with killed_after(lambda state: state["epoch"] == 2):
        train(data=shard_folder, out=tmp_path / "b", **{**settings, **rate})
    (changed,), (always,) = ((tmp_path / each).iterdir() for each in "ab")
    resumed = Resumed(changed, rate, steps=False)
    if scheduler == "plateau" and given:
        assert [(each["lr"], each["momentum"]) for each in resumed.state.optimizer.param_groups] == [(0.01, 0.7)] * 2
        return
    keys = ("lr", "momentum", "initial_lr", "max_lr", "min_lr")
    ours = [{key: each.get(key) for key in keys} for each in resumed.state.optimizer.param_groups]
    theirs = [{key: each.get(key) for key in keys} for each in last_state(always)["optimizer"]["param_groups"]]
    assert ours == theirs


@pytest.mark.slow
def test_a_rate_that_plateau_has_lowered_stays_low(begun, tmp_path):
    folder = copied(begun, tmp_path)
    state = last_state(folder)
    low = SMALL["learning_rate"] / 10
    state["schedule"]["active"]["_last_lr"] = [low for _ in state["schedule"]["active"]["_last_lr"]]
    save_checkpoint(checkpoints_of(folder)[0], state)
    same, other, grouped = (copied(folder, tmp_path / each) for each in "abc")
    assert Resumed(same, {"patience": 7}).state.history[-1]["learning_rate"] == low
    assert Resumed(grouped, {"layer_decay": 0.5}).state.history[-1]["learning_rate"] == pytest.approx(low)
    assert Resumed(other, {"scheduler": "constant"}).state.history[-1]["learning_rate"] == SMALL["learning_rate"]


def test_a_recipe_is_not_applied_once_more(tmp_path):
    """The run began without the values that the recipe sets today."""
    then = resolve({"recipe": "accurate", "linear_probe": True})
    save_checkpoint(checkpoint_path(tmp_path / "run", 1), {"step": 1, "config": then.plain()})
    start = start_of_run(None, {"resume": str(tmp_path / "run"), "linear_probe": False})
    assert start.changed == ("linear_probe: True -> False",) and start.config.recipe == "accurate"
    assert (start.config.layer_decay, start.config.clip_grad, start.config.ema_decay) == (None, None, None)
    toml = tmp_path / "run.toml"
    toml.write_text('recipe = "accurate"\nlinear_probe = true\n')
    assert start_of_run(toml, {"resume": str(tmp_path / "run")}).changed == ()


def test_a_linear_probe_continues_as_fine_tuning(shard_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    with killed_after(lambda state: state["epoch"] == 1):
        train(data=shard_folder, out=tmp_path / "runs", **BEGUN, linear_probe=True)
    (folder,) = (tmp_path / "runs").iterdir()
    before = last_state(folder)["model"]
    resumed = Resumed(folder, {"linear_probe": False, "scheduler": "cosine"})
    schedule = resumed.state.schedule.state_dict()
    assert schedule["position"] == 2 * schedule["steps_per_epoch"], "the schedule counts the probe's epoch"
    after = last_state(folder)["model"]
    assert trainable(resumed) == len(list(resumed.model.parameters()))
    assert all(not torch.equal(after[name], before[name]) for name in ("stem.0.weight", "head.fc.weight"))
