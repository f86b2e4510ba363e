"""One's own `torch.nn.Module` and callbacks: trained, resumed, tracked and used as timm's models are."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient
from torch import nn

import fasttrain
from fasttrain import evaluate, predict, train
from fasttrain.checkpoint.trained import load_trained
from fasttrain.config.model_name import import_path, is_own, model_name
from fasttrain.errors import UserError
from fasttrain.model.factory import create_model
from fasttrain.model.own import require_logits
from fasttrain.report.charts import learning_charts
from fasttrain.training.result import RECORDED
from tests.support.patience import PATIENCE
from tests.support.runs import SMALL, killed_after, last_state, start_run

CLASSES = 6
OWN = {**SMALL, "batch_size": 8, "limit_batches": 3, "deterministic": True}
del OWN["model"], OWN["pretrained"]


class SmallNet(nn.Module):
    """A small network with BatchNorm and dropout, which draws from the run's generator."""

    def __init__(self, num_classes: int = CLASSES, width: int = 8, drop_rate: float = 0.1) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, stride=4), nn.BatchNorm2d(width), nn.ReLU())
        self.drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.body(images).mean((2, 3))))


def make_net(num_classes: int) -> nn.Module:
    return SmallNet(num_classes)


def seeded() -> SmallNet:
    torch.manual_seed(0)
    return SmallNet()


class Counter(fasttrain.Callback):
    """Notes its calls, counts steps, draws from every run's generator, and logs what it counts."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.calls: list[str] = []
        self.steps, self.noise, self.stop_after = 0, torch.zeros(3), stop_after

    def on_train_start(self, run: fasttrain.RunView) -> None:
        torch.rand(1)  # the run's generators don't notice
        self.calls.append(f"start {run.step}")

    def on_step_end(self, run: fasttrain.RunView) -> None:
        self.steps += 1
        self.noise += torch.rand(3)
        self.calls.append(f"step {run.epoch}.{run.step}")
        run.log({"steps": self.steps, "noise": self.noise.sum()})
        if run.step == self.stop_after:
            run.stop("enough")

    def on_epoch_end(self, run: fasttrain.RunView) -> None:
        assert run.metrics["val_top1"] >= 0 and run.metrics["steps"] == self.steps
        self.calls.append(f"epoch {run.epoch}")

    def on_checkpoint(self, run: fasttrain.RunView, path: Path) -> None:
        assert path.is_file() and path.parent.parent == run.folder
        torch.rand(1)
        self.calls.append(f"checkpoint {run.epoch}.{run.step}")

    def on_train_end(self, run: fasttrain.RunView, result: Any) -> None:
        assert (run.folder / "evaluation.json").is_file() and run.metrics["epoch"] == len(result.history)
        self.calls.append(f"end {run.epoch}")

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "noise": self.noise}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.noise = state["steps"], state["noise"].clone()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    path = tmp_path_factory.mktemp("store")
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}/mlflow.db")
    patch.chdir(path)
    yield f"sqlite:///{path}/mlflow.db"
    patch.undo()


@pytest.fixture(scope="module")
def counter() -> Counter:
    return Counter()


@pytest.fixture(scope="module")
def net() -> SmallNet:
    return seeded()


@pytest.fixture(scope="module")
def result(shard_folder, tmp_path_factory, store, counter, net):
    """A tracked run of a module and a callback, two epochs of three steps."""
    return train(data=shard_folder, out=tmp_path_factory.mktemp("runs"), model=net, callbacks=[counter], **OWN)


def test_a_module_is_trained_tracked_and_reported(result, store, net):
    names = {path.name for path in result.folder.iterdir()}
    assert {"model.safetensors", "evaluation.json", "report.html", "confusion_matrix.png", "history.json"} <= names
    assert result.folder.name.endswith("-SmallNet")
    spec = json.loads((result.folder / "model.json").read_text())
    assert spec["model"] == "SmallNet()" and spec["mean"] == [0.485, 0.456, 0.406]
    run = MlflowClient(store).get_run(result.mlflow_run_id)
    assert run.info.status == "FINISHED" and run.data.params["model"] == "SmallNet()"
    report = re.sub(r"<[^>]*>", "", (result.folder / "report.html").read_text())
    assert "SmallNet()" in report and "--model PACKAGE.MODULE:FUNCTION" in report


def test_the_module_that_was_given_holds_the_best_epochs_weights(result, net):
    best, _ = load_trained(result.folder, SmallNet)
    assert all(torch.equal(each, best.state_dict()[name]) for name, each in net.state_dict().items())


def test_callbacks_are_called_in_order(result, counter):
    epochs = [[*(f"step {n}.{step}" for step in steps), f"epoch {n}", f"checkpoint {n}.{steps[-1]}"]
              for n, steps in ((1, (1, 2, 3)), (2, (4, 5, 6)))]  # fmt: skip
    assert counter.calls == ["start 0", *epochs[0], *epochs[1], "end 2"]


def test_what_callbacks_log_is_in_the_history_and_in_mlflow(result, store):
    assert [record["steps"] for record in json.loads((result.folder / "history.json").read_text())] == [3, 6]
    points = MlflowClient(store).get_metric_history(result.mlflow_run_id, "steps")
    assert [(point.step, point.value) for point in points] == [(1, 3), (2, 6)]


def test_the_report_draws_what_callbacks_log(result):
    own = learning_charts([{**record, "drift": -1.0, "gap": float("nan")} for record in result.history], 1)[3:]
    assert [chart.title for chart in own] == ["steps", "noise", "drift"]
    assert ">noise<" in (result.folder / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 3], ids=["in an epoch", "at its end"])
def test_a_resumed_run_ends_as_one_left_alone(step, result, counter, shard_folder, tmp_path):
    settings = {"data": shard_folder, "out": tmp_path, "track": False, "save_every": 1, **OWN}
    before = Counter()
    with killed_after(lambda state: state["step"] == step and (step == 2 or state["epoch"] == 1)):
        train(model=seeded(), callbacks=[before], **settings)
    (folder,) = tmp_path.iterdir()
    after = Counter()
    resumed = train(resume=str(folder), model=SmallNet(), callbacks=[after])
    mine, other = last_state(resumed.folder), last_state(result.folder)
    for name, tensor in other["model"].items():
        assert torch.equal(mine["model"][name], tensor), name
    assert torch.equal(mine["rng"]["torch"], other["rng"]["torch"])
    assert after.calls[0] == f"start {step}" and after.steps == counter.steps
    assert torch.equal(after.noise, counter.noise)
    for ours, theirs in zip(resumed.history, result.history, strict=True):
        for name in ("train_loss", "val_loss", "steps", "noise"):
            assert ours[name] == theirs[name]


def test_evaluate_predict_and_export_take_the_model(result, shard_folder, photographs):
    settings = {"split": "val", "loader": "torchvision", "workers": 0, "device": "cpu"}
    untouched = SmallNet()
    before = {name: each.clone() for name, each in untouched.state_dict().items()}
    assert evaluate(result.folder, shard_folder, model=untouched, **settings).samples > 0
    assert all(torch.equal(each, before[name]) for name, each in untouched.state_dict().items()), "a copy is loaded"
    image = next(photographs.glob("*/*.jpg"))
    by_class = predict(result.folder, image, model=SmallNet, device="cpu", workers=1)
    by_path = predict(result.folder, image, model=f"{__name__}:make_net", device="cpu", workers=1)
    assert by_class == by_path
    for use in (lambda: evaluate(result.folder, shard_folder), lambda: predict(result.folder, image)):
        with pytest.raises(
            UserError,
            match=r"model = SmallNet\(\) was passed to train\(\) as an object.* pass the object as model= again",
        ):
            use()
    with pytest.raises(UserError, match="its tensors do not fit the model that was given"):
        predict(result.folder, image, model=SmallNet(width=4))


@pytest.mark.slow
def test_a_model_is_exported_to_onnx(result, photographs):
    pytest.importorskip("onnxruntime")
    from fasttrain.export.export import export

    exported = export(result.folder, "onnx", model=SmallNet, data=photographs, photographs=6, speed=False)
    assert exported.same_top1 == exported.photographs and exported.metadata["model"] == "SmallNet()"


@pytest.mark.slow
def test_an_import_path_needs_nothing_else(shard_folder, photographs, tmp_path):
    one = {**OWN, "epochs": 1, "limit_batches": 1, "track": False}
    made = train(data=shard_folder, out=tmp_path, model=make_net, ema_decay=0.9, drop_rate=0.0, **one)
    assert json.loads((made.folder / "model.json").read_text())["model"] == f"{__name__}:make_net"
    assert predict(made.folder, next(photographs.glob("*/*.jpg")), device="cpu", workers=1)
    more = train(resume=str(made.folder), epochs=2)
    assert len(more.history) == 2


@pytest.mark.slow
def test_the_command_line_finds_a_module_in_the_working_folder(shard_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # the script `fasttrain` has its own folder on the path instead
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\n\n\ndef make(num_classes):\n    return nn.Sequential(nn.AdaptiveAvgPool2d(4), "
        "nn.Flatten(), nn.Linear(48, num_classes))\n"
    )
    settings = {**OWN, "data": shard_folder, "out": tmp_path / "runs", "limit_batches": 1, "epochs": 1, "track": False}
    process = start_run(shard_folder, tmp_path, bare=True, cold=True, model="my_models:make", **settings)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert "model: my_models:make, 294 trainable parameters" in said


@pytest.mark.slow
def test_a_stop_in_an_epoch_ends_the_run_with_a_report(shard_folder, tmp_path):
    settings = {**OWN, "data": shard_folder, "out": tmp_path, "track": False}
    counter = Counter(stop_after=2)
    ended = train(model=SmallNet(), callbacks=[counter], **settings)
    assert len(ended.history) == 1 and counter.calls[-4:] == ["step 1.2", "epoch 1", "checkpoint 1.2", "end 1"]
    assert (ended.folder / "report.html").is_file() and (ended.folder / "evaluation.json").is_file()
    again = Counter()
    assert len(train(resume=str(ended.folder), model=SmallNet(), callbacks=[again]).history) == 1, "it stays stopped"
    more = train(resume=str(ended.folder), model=SmallNet(), callbacks=[Counter()], epochs=3)
    assert len(more.history) == 3, "unless more epochs are asked for"


def test_callbacks_are_not_forgotten_at_resume(result):
    with pytest.raises(
        UserError, match=r"the run began with callbacks \(Counter\), and none are given now; .*callbacks=\[\]"
    ):
        train(resume=str(result.folder), model=SmallNet(), epochs=3)


def test_the_model_of_a_resumed_run_is_the_one_it_began_with(result):
    again = {"resume": str(result.folder), "callbacks": [Counter()], "epochs": 3}
    for model, said in (
        (
            SmallNet(width=4),
            r"SmallNet\(\) is not the one that the run began with: 'body.0.weight' is \[8, 3, 3, 3\]",
        ),
        (nn.Sequential(nn.Linear(1, 1)), r"model = SmallNet\(\) can't become Sequential\(\)"),
        ("resnet18", r"model = SmallNet\(\) can't become resnet18"),
        (None, r"model = SmallNet\(\) was passed to train\(\) as an object"),
    ):
        with pytest.raises(UserError, match=said):
            train(model=model, **again)


class Flat(nn.Module):
    """Something between `Flatten` and a mistake."""

    def __init__(self, wrong: Any) -> None:
        super().__init__()
        self.layer, self.wrong = nn.Conv2d(3, CLASSES, 48), wrong

    def forward(self, images: torch.Tensor) -> Any:
        return self.wrong(self.layer(images))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Flat(lambda maps: maps), "returns [2, 6, 1, 1] for 2 pictures of 48 px, but the data has 6 classes"),
        (SmallNet(5), "returns [2, 5] for 2 pictures of 48 px, but the data has 6 classes; return logits"),
        (Flat(lambda maps: maps.flatten(1).softmax(1)), "returns probabilities, which add up to 1; remove"),
        (Flat(lambda maps: (maps.flatten(1),)), "returns a tuple; return logits"),
        (Flat(lambda maps: maps.argmax(1)), "returns torch.int64; return logits"),
        (nn.Linear(4, 6), "fails on pictures of 48 px, float32 [n, 3, 48, 48] in channels_last memory (RuntimeError: "),
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.Unflatten(1, (6, 1))), "returns [2, 6, 1, 46, 46]"),
        (SmallNet().requires_grad_(False), "has no trainable parameter"),
        (lambda num_classes: "net", "model = lambda() returns a str, not a torch.nn.Module"),
        (lambda: SmallNet(), "can't be called with the number of classes (too many positional arguments)"),
        (lambda num_classes: SmallNet(num_classes, width="8"), "failed for 6 classes (TypeError: "),
        (42, "model = int() is neither a torch.nn.Module nor a function"),
        ("tests.nowhere:make", "there is no module tests.nowhere on Python's path; run the command"),
        ("json:dumps_", "dumps_ is not defined; give a function"),
        ("os:abort", "abort is a builtin_function_or_method, not a function or a class of modules"),
        ("pathlib:Path", "Path is a type, not a function or a class of modules"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line_before_training(model, said, shard_folder, tmp_path):
    with pytest.raises(UserError, match=re.escape(said)) as raised:
        train(data=shard_folder, out=tmp_path / "runs", model=model, **OWN)
    assert str(raised.value).startswith("model = ") and "\n" not in str(raised.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"freeze": 1}, r"freeze = 1: SmallNet has no group_matcher\(\) to find its blocks"),
        ({"linear_probe": True}, "linear_probe works with timm's models only"),
        ({"drop_rate": 0.5}, r"drop_rate = 0.5: model = SmallNet\(\) takes no argument drop_rate; add it"),
        ({"drop_path": 0.5}, r"drop_path = 0.5: model = SmallNet\(\) takes no argument drop_path; add it"),
        ({"grad_checkpointing": True}, "grad_checkpointing: SmallNet does not support it"),
        ({"callbacks": [Counter]}, "callbacks contains the class Counter; give objects"),
        ({"callbacks": [print]}, "callbacks contains a builtin_function_or_method; give objects"),
    ],
)
def test_what_does_not_go_with_a_model_of_ones_own_is_refused(settings, said, shard_folder, tmp_path):
    with pytest.raises(UserError, match=said):
        train(data=shard_folder, out=tmp_path, model=SmallNet(), **{**OWN, **settings})


def test_a_functions_own_parameters_get_settings_of_their_names():
    def make(number: int, pretrained: bool = True, drop_rate: float = 0.0, drop_path: float = 0.0) -> nn.Module:
        seen.update(number=number, pretrained=pretrained, drop_rate=drop_rate, drop_path=drop_path)
        return SmallNet(number)

    seen: dict[str, Any] = {}
    create_model(make, 4, pretrained=False, drop_rate=0.5, drop_path=0.2)
    assert seen == {"number": 4, "pretrained": False, "drop_rate": 0.5, "drop_path": 0.2}
    torchvision = create_model("torchvision.models:squeezenet1_1", 4)
    assert isinstance(torchvision, nn.Module)


def test_lazy_layers_are_made_by_the_check():
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES))
    require_logits(lazy, "lazy", CLASSES, [16])
    assert lazy[1].weight.shape == (CLASSES, 3 * 16 * 16) and lazy.training


def test_names_of_models():
    assert model_name(SmallNet) == f"{__name__}:SmallNet" and model_name(SmallNet()) == "SmallNet()"
    assert model_name(lambda classes: None) == "lambda()" and model_name("resnet18") == "resnet18"
    assert import_path("a.b:c.d") == ("a.b", "c.d")
    for name in ("resnet18", "resnet18.a1_in1k", "hf-hub:timm/resnet18", r"C:\models", "a:", ":b", "local-dir:x"):
        assert not is_own(name)


class Wrong(fasttrain.Callback):
    """Does what the parameter says."""

    def __init__(self, metrics: dict[str, Any] | None = None, state: Any = None) -> None:
        self.metrics, self.state = metrics or {}, state

    def on_step_end(self, run: fasttrain.RunView) -> None:
        run.log(self.metrics)

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state}


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        (Wrong({"val_loss": 1}), "Wrong: 'val_loss' is already a metric of the run; log it under another name"),
        (Wrong({"f1 (macro)": 1}), "Wrong: 'f1 (macro)' is not a metric name; use letters"),
        (Wrong({"note": "good"}), "Wrong: 'note' is a str, not a number"),
        (Wrong(state=Path()), "Wrong.state_dict: a checkpoint can't hold a PosixPath"),
    ],
)
def test_mistakes_of_callbacks_are_one_line(callback, said, shard_folder, tmp_path):
    settings = {**OWN, "data": shard_folder, "out": tmp_path, "track": False, "limit_batches": 1, "epochs": 1}
    with pytest.raises(UserError, match=re.escape(said)):
        train(model=SmallNet(), callbacks=[callback], **settings)


def test_the_records_names_are_all_reserved(result):
    assert result.history[0].keys() - {"steps", "noise"} <= RECORDED


STOPPED_BY_RANK_1 = """
import sys
from pathlib import Path

from torch import nn

import fasttrain


class Stop(fasttrain.Callback):
    def __init__(self):
        self.steps = 0

    def on_step_end(self, run):
        self.steps += 1
        run.log({"rank": run.rank})
        if run.rank == 1 and run.step == 2:
            run.stop("rank 1 has seen enough")

    def on_train_end(self, run, result):
        Path(f"rank-{run.rank}").write_text(f"{self.steps} {run.stopped_by} {result.history[-1]['rank']}")


def make(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, num_classes))


fasttrain.train(
    data=sys.argv[1], model=make, callbacks=[Stop()], epochs=3, image_size=32, batch_size=2, workers=0, device="cpu",
    loader="torchvision", track=False,
)
"""


@pytest.mark.slow
def test_any_rank_can_stop_the_run_and_rank_0s_metrics_count(shard_folder, tmp_path):
    (tmp_path / "script.py").write_text(STOPPED_BY_RANK_1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "script.py", str(shard_folder)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    for rank in range(2):
        text = (tmp_path / f"rank-{rank}").read_text()
        assert text == f"2 Stop: rank 1 has seen enough {float(rank)}"
    (run,) = (tmp_path / "runs").iterdir()
    assert [record["rank"] for record in json.loads((run / "history.json").read_text())] == [0.0]
