"""`--weights`: which files a run can start from, what is taken of them, and what is said of the others."""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import save_file
from timm.utils import ModelEmaV3

from fasttrain import train
from fasttrain.checkpoint.folder import checkpoints_of
from fasttrain.checkpoint.initial_weights import load_initial_weights
from fasttrain.checkpoint.trained import load_trained
from fasttrain.errors import UserError
from fasttrain.model.factory import create_model
from tests.support.runs import SMALL

NAME = "test_resnet"
CLASSES = ("a", "b", "c")


def made(outputs: int = 3, name: str = NAME, **arguments: Any) -> torch.nn.Module:
    """A model with other weights than those of the model that is filled."""
    torch.manual_seed(7)
    model = timm.create_model(name, num_classes=outputs, **arguments)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.normal_()
    return model


def filled(path: Path, name: str = NAME, classes: tuple[str, ...] = CLASSES, **arguments: Any) -> tuple[Any, str]:
    model = create_model(name, len(classes), **arguments)
    return model, load_initial_weights(model, name, path, classes)


def assert_same(model: torch.nn.Module, source: torch.nn.Module, but: tuple[str, ...] = ("\0",)) -> None:
    ours, theirs = model.state_dict(), source.state_dict()
    for key, value in ours.items():
        same = key in theirs and torch.equal(value, theirs[key])
        assert same != key.startswith(but) or key.endswith("num_batches_tracked"), key


def _prefixed(prefix: str, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in model.state_dict().items()}


def _wrapped(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Name parameters as FSDP, activation checkpointing and torch.compile do for layers that they wrap."""
    state = model.state_dict()
    inside = {
        key.replace("layer1.0.", "layer1._fsdp_wrapped_module.0._checkpoint_wrapped_module."): state[key]
        for key in state
    }
    return {f"_fsdp_wrapped_module._orig_mod.{key}": value for key, value in inside.items()}


LAYOUTS = {
    "bare": lambda m: m.state_dict(),
    "DDP": lambda m: _prefixed("module.", m),
    "torch.compile": lambda m: _prefixed("_orig_mod.", m),
    "compiled, then DDP": lambda m: _prefixed("module._orig_mod.", m),
    "Lightning": lambda m: {"state_dict": _prefixed("model.", m), "epoch": 3, "global_step": 9, "callbacks": {}},
    "Lightning, compiled": lambda m: {"state_dict": _prefixed("net._orig_mod.", m)},
    "torchvision's reference": lambda m: {"model": m.state_dict(), "args": argparse.Namespace(lr=0.1), "epoch": 3},
    "timm's train.py": lambda m: {
        "arch": NAME,
        "state_dict": m.state_dict(),
        "args": argparse.Namespace(),
        "metric": 1.0,
    },
    "deep": lambda m: {"state": {"app": {"model": _prefixed("module.backbone.", m)}}, "step": torch.tensor(3)},
    "FSDP": _wrapped,
    "averaged by torch": lambda m: torch.optim.swa_utils.AveragedModel(m).state_dict(),
    "half precision": lambda m: {
        key: each.half() if each.is_floating_point() else each for key, each in m.state_dict().items()
    },
    "beside an optimizer": lambda m: {
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "network": m.state_dict(),
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_state_dict_is_found_at_any_depth_and_with_any_prefix(layout, tmp_path):
    source = made()
    if layout == "half precision":
        source = source.half().float()
    torch.save(LAYOUTS[layout](source), tmp_path / "weights.pth")
    model, said = filled(tmp_path / "weights.pth")
    assert_same(model, source)
    total = len(model.state_dict())
    assert said.startswith(f"weights: {total} of {total} tensors from {tmp_path / 'weights.pth'}")
    assert said.endswith("; the classifier is kept")


@pytest.mark.parametrize("keys", [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("state_dict", "ema")])
def test_of_two_state_dicts_the_averaged_one_is_taken(keys, tmp_path):
    source = made()
    plain = create_model(NAME, 3).state_dict()
    averaged = ModelEmaV3(source).state_dict() if keys[1] == "state_dict_ema" else source.state_dict()
    torch.save({keys[0]: plain, keys[1]: averaged}, tmp_path / "weights.pth")
    model, said = filled(tmp_path / "weights.pth")
    assert_same(model, source)
    assert f"where their names begin with '{keys[1]}." in said
    assert f" (the EMA's weights; those with '{keys[0]}.' would fit as well); the classifier" in said


def test_counters_of_batches_may_be_absent(tmp_path):
    source = made()
    old = {key: value for key, value in source.state_dict().items() if "num_batches" not in key}
    save_file(old, tmp_path / "old.safetensors")
    model, said = filled(tmp_path / "old.safetensors")
    assert_same(model, source)
    assert f"{len(old)} of {len(source.state_dict())} tensors" in said


HEADS = {
    "test_resnet": ("fc.",),
    "test_convnext": ("head.fc.",),
    "levit_128s": ("head.linear.", "head_dist.linear."),
    "deit_tiny_distilled_patch16_224": ("head.", "head_dist."),
    "crossvit_9_240": ("head.",),
    "repvit_m0_9": ("head.head.l.", "head.head_dist.l."),
    "dla46x_c": ("fc.",),  # a convolution
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.slow
def test_only_the_classifiers_of_another_number_of_classes_are_new(name, tmp_path):
    source = made(7, name)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model, said = filled(tmp_path / "weights.pth", name)
    assert_same(model, source, but=HEADS[name])
    assert said.endswith("; the classifier is new (3 classes; in the file it has 7 outputs)")
    kept, said = filled(tmp_path / "weights.pth", name, tuple("abcdefg"))
    assert_same(kept, source)
    assert said.endswith("; the classifier is kept")


def test_a_file_without_a_classifier_gives_a_new_one(tmp_path):
    source = made(0)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model, said = filled(tmp_path / "weights.pth")
    assert_same(model, source, but=("fc.",))
    assert said.endswith("; the classifier is new (3 classes; in the file there is none)")


def test_position_embeddings_of_another_image_size_are_resampled(tmp_path):
    source = made(name="test_vit", img_size=160)
    torch.save({"state_dict": _prefixed("model.", source)}, tmp_path / "weights.ckpt")
    model, said = filled(tmp_path / "weights.ckpt", "test_vit", img_size=64)
    assert_same(model, source, but=("pos_embed",))
    assert model.pos_embed.shape[1] == 1 + 4 * 4 and model.pos_embed.std() > 0.1, "resampled, not new"
    assert ", 1 of them resampled; the classifier is kept" in said


@pytest.fixture(scope="module")
def run(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with an EMA."""
    out = tmp_path_factory.mktemp("runs")
    settings = {**SMALL, "model": NAME, "epochs": 1, "limit_batches": 1, "track": False, "ema_decay": 0.5}
    return train(**settings, data=shard_folder, out=out).folder


@pytest.mark.slow
def test_a_run_and_its_checkpoint_start_another_run(run, shard_folder, tmp_path):
    best, spec = load_trained(run)
    for path in (run, run / "model.safetensors", checkpoints_of(run)[0]):
        model, said = filled(path, NAME, spec.classes)
        assert_same(model, best)
        assert said.endswith("; the classifier is kept")
    said = io.StringIO()
    settings = {**SMALL, "model": NAME, "epochs": 1, "limit_batches": 1, "track": False, "weights": run}
    train(**settings, data=shard_folder, out=tmp_path, console=Console(file=said, width=300, markup=False))
    total = len(best.state_dict())
    assert (
        f"weights: {total} of {total} tensors from {run}/model.safetensors; the classifier is kept" in said.getvalue()
    )


def test_the_classifier_of_a_run_with_other_classes_is_new(run):
    best, spec = load_trained(run)
    others = tuple(f"other {each}" for each in spec.classes)
    model, said = filled(run, NAME, others)
    assert_same(model, best, but=("fc.",))
    assert said.endswith("; the classifier is new (6 classes; in the file it is for other classes)")


@pytest.mark.slow
def test_another_models_weights_are_refused_with_what_to_give(run, tmp_path):
    for path in (run, checkpoints_of(run)[0]):
        with pytest.raises(UserError, match=rf"because it is for {NAME}; give --model {NAME}$"):
            filled(path, "test_convnext")
    torch.save({"arch": "resnet34", "state_dict": made(name="resnet34").state_dict()}, tmp_path / "timm.pth.tar")
    with pytest.raises(UserError, match=r"because it is for resnet34; give --model resnet34$"):
        filled(tmp_path / "timm.pth.tar", "mobilenetv2_035")
    torch.save({"features.0.0.weight": torch.ones(3, 3)}, tmp_path / "odd.pth")
    said = r"\('.*' is absent\); its names are like 'features\.0\.0\.weight'; give --model the name of the model"
    with pytest.raises(
        UserError, match=rf"it has only 0 of the \d+ tensors of {NAME} {said} that the file was made for$"
    ):
        filled(tmp_path / "odd.pth")
    wide = {
        key: value.repeat(2, *[1] * (value.ndim - 1)) if value.ndim else value
        for key, value in made().state_dict().items()
    }
    torch.save(wide, tmp_path / "wide.pth")
    with pytest.raises(UserError, match=r"\('.*' is \[\d+, 3, 3, 3\], not \[\d+, 3, 3, 3\]\)"):
        filled(tmp_path / "wide.pth")


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run!",))


def test_what_holds_no_tensors_or_code_is_refused(run, tmp_path, capsys):
    torch.save({"epoch": 3, "list": [1]}, tmp_path / "none.pth")
    torch.save({"state_dict": made().state_dict(), "hyper": _Code()}, tmp_path / "code.pth")
    torch.save(made(), tmp_path / "module.pth")
    (tmp_path / "text.pth").write_text("<html>")
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "folder").mkdir()
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(50_000_000))
    flipped = tmp_path / "checkpoints" / "step-00000001.safetensors"
    flipped.parent.mkdir()
    damaged = bytearray(checkpoints_of(run)[0].read_bytes())
    damaged[-100] ^= 1
    flipped.write_bytes(damaged)
    for name, said in (
        ("none.pth", "no tensors in it; give --weights a state_dict, a checkpoint or a run folder"),
        ("code.pth", "refused, because it names code to run"),
        ("module.pth", "refused, because it names code to run"),
        ("text.pth", "neither safetensors nor a file of torch.save"),
        ("empty.safetensors", "neither safetensors nor a file of torch.save"),
        ("folder", "no model.safetensors in it; give --weights"),
        ("bomb.pth", "refused, because it would unpack to"),
        ("absent.pth", "no such file; give --weights"),
        ("checkpoints/step-00000001.safetensors", "not an intact fasttrain checkpoint"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path / name))}: {said}"):
            filled(tmp_path / name)
    assert "run!" not in capsys.readouterr().out


def test_a_model_json_that_is_no_runs_says_nothing(run, tmp_path):
    shutil.copy(run / "model.safetensors", tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(["of", "something", "else"]))
    assert filled(tmp_path, NAME, tuple("abcdef"))[1].endswith("; the classifier is kept")
