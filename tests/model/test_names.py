"""Names of models and devices: each one that fails later fails here, in one line with the nearest valid one."""

from __future__ import annotations

import re

import pytest
import torch

from fasttrain import evaluate, predict, train
from fasttrain.commands.lr_find import lr_find
from fasttrain.commands.profile import profile
from fasttrain.config.load import resolve
from fasttrain.device import choose_device
from fasttrain.errors import UserError
from fasttrain.inspection.preview import preview
from fasttrain.model.factory import create_model
from fasttrain.model.names import pretrained_config, require_model
from tests.support.runs import SMALL


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k", "test_resnet", "tv_resnet50"])
def test_names_that_timm_takes(name):
    require_model(name)
    assert pretrained_config(name).input_size[0] == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet18.a1_in1", "timm has no weights 'a1_in1' of resnet18; did you mean 'a1_in1k'?"),
        ("resnet18.A1_IN1K", "timm has no weights 'A1_IN1K' of resnet18; did you mean 'a1_in1k'?"),
        ("resnet18.zzz", "timm has no weights 'zzz' of resnet18; its weights are a1_in1k, "),
        ("resnet18.", "timm has no weights '' of resnet18; its weights are a1_in1k, "),
        ("tv_resnet50.x", "timm has no weights 'x' of tv_resnet50; use 'tv_resnet50'"),
        ("ResNet18", "is not known to timm; did you mean 'resnet18'?"),
        ("resnet18 ", "is not known to timm; did you mean 'resnet18'?"),
        ("", "is not known to timm"),
        ("timm/resnet18", "did you mean 'hf-hub:timm/resnet18'?"),
        ("hf-hub:resnet18", "is neither a timm name nor hf-hub:OWNER/NAME; give timm's name of the architecture"),
        ("local-dir:/tmp/resnet18", "is neither a timm name nor hf-hub:OWNER/NAME; give timm's name"),
        (r"C:\models", "is not known to timm"),
    ],
)
def test_names_that_timm_does_not_take(name, said):
    for use in (require_model, lambda each: create_model(each, 3)):
        with pytest.raises(UserError, match=f"^model = '{re.escape(name)}'.*{re.escape(said)}"):
            use(name)


@pytest.mark.parametrize("given", ["resnet18.a1_in1", "timm/test_resnet"])
def test_every_command_with_a_model_refuses_the_name_before_it_reads_anything(given, tmp_path):
    settings = {**SMALL, "model": given, "data": tmp_path / "none"}
    for use in (train, profile, lr_find, lambda **settings: preview(resolve(settings))):
        with pytest.raises(UserError, match=f"^model = '{given}'"):
            use(**settings)
    assert not list(tmp_path.iterdir())


def test_a_model_under_its_old_name_is_previewed_with_its_mean(shard_folder):
    config = resolve({**SMALL, "model": "tv_resnet50", "data": shard_folder})
    assert len(preview(config, count=2).captions) == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("xpu", "is not one of auto, cpu, cuda, cuda:N, mps"),
        ("meta", "is not one of auto, cpu, cuda, cuda:N, mps"),
        ("hpu", "is not one of auto, cpu, cuda, cuda:N, mps"),
        ("vulkan", "is not one of auto, cpu, cuda, cuda:N, mps"),
        ("privateuseone", "is not one of auto, cpu, cuda, cuda:N, mps"),
        ("", "is not one of auto, cpu, cuda, cuda:N, mps"),
        ("CUDA", "is not one of auto, cpu, cuda, cuda:N, mps; did you mean 'cuda'?"),
        ("cuda:", "is not one of auto, cpu, cuda, cuda:N, mps; did you mean 'cuda'?"),
        ("cpu:1", "this machine has 1 CPU device; use --device cpu"),
        ("cuda:99", f"this machine has {torch.cuda.device_count()} CUDA device"),
        ("mps:3", f"this machine has {int(torch.backends.mps.is_available())} MPS device"),
    ],
)
def test_devices_that_this_machine_lacks(name, said):
    with pytest.raises(UserError, match=f"^device = '{name}'.*{re.escape(said)}"):
        choose_device(name)


def test_the_cpu_is_one_device():
    assert choose_device("cpu") == choose_device("cpu:0") == torch.device("cpu")


def test_every_command_with_a_device_refuses_one_that_torch_only_knows_the_name_of(model_folder, shard_folder):
    settings = {**SMALL, "model": "test_resnet", "data": shard_folder, "device": "xpu"}
    uses = (
        lambda: train(**settings),
        lambda: profile(**settings),
        lambda: lr_find(**settings),
        lambda: preview(resolve(settings)),
        lambda: evaluate(model_folder, shard_folder, device="xpu"),
        lambda: predict(model_folder, ["none.jpg"], device="xpu"),
    )
    for use in uses:
        with pytest.raises(UserError, match=r"^device = 'xpu' is not one of auto, cpu"):
            use()
