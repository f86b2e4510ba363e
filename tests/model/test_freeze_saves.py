"""Frozen blocks run as inference does: no activations kept, BatchNorm folded away, the same results and weights."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from fasttrain import evaluate, train
from fasttrain.model.fold import fold_frozen
from fasttrain.model.freeze import freeze_blocks, freeze_statistics, keep_frozen
from tests.support.runs import SMALL
from tests.support.tf32 import EmulatedTF32

FROZEN = 12


@pytest.fixture
def model() -> torch.nn.Module:
    """With BatchNorm statistics as of real training, so that a fold that leaves them out shows."""
    torch.manual_seed(0)
    made = timm.create_model("mobilenetv2_035", num_classes=6)  # its classifier is not zero
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return made


def gradients(model: torch.nn.Module, frozen: list[torch.nn.Module]) -> tuple[dict[str, torch.Tensor], int]:
    """The gradients of one step, and how many numbers autograd kept for them."""
    model.eval() if frozen else model.train()  # all norms alike: on 16 values a norm's own statistics amplify rounding
    keep_frozen(frozen)
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    inputs = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = torch.nn.functional.cross_entropy(model(inputs), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}, sum(kept)


def test_folding_changes_neither_gradients_nor_tensors(model):
    other = copy.deepcopy(model)
    plain, _ = gradients(other, freeze_blocks(other, FROZEN))
    before = {name: each.clone() for name, each in model.state_dict().items()}
    frozen = freeze_blocks(model, FROZEN)
    assert fold_frozen(model, frozen) == 1 + 2 + 10 * 3, "the stem, a separable block, ten inverted residuals"
    ours, _ = gradients(model, frozen)
    assert ours.keys() == plain.keys() and "conv_stem.weight" not in ours and "classifier.weight" in ours
    for name, each in ours.items():
        torch.testing.assert_close(each, plain[name], atol=1e-5, rtol=1e-3)
    for name, each in model.state_dict().items():
        if name.startswith(("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2", "blocks.3")):
            assert torch.equal(each, before[name]), name


@pytest.mark.parametrize("name", ["mobilenetv2_035", "tf_mobilenetv3_small_minimal_100"])  # the other pads by itself
def test_layers_that_train_under_frozen_statistics_are_folded_and_get_the_same_gradients(model, name):
    if name != "mobilenetv2_035":
        model = timm.create_model(name, num_classes=6)
    other = copy.deepcopy(model)
    plain, _ = gradients(other, freeze_statistics(other))
    before = {key: each.clone() for key, each in model.state_dict().items()}
    norms = freeze_statistics(model)
    assert fold_frozen(model, norms) == len(norms)
    ours, _ = gradients(model, norms)
    assert ours.keys() == plain.keys() == dict(model.named_parameters()).keys()
    for key, each in ours.items():
        torch.testing.assert_close(each, plain[key], atol=1e-4, rtol=1e-3)
    assert all(torch.equal(each, before[key]) for key, each in model.state_dict().items())
    with torch.no_grad():
        model.bn1.weight.mul_(2)
        other.bn1.weight.mul_(2)
    inputs = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.eval()(inputs), other.eval()(inputs), atol=1e-4, rtol=1e-3)


def test_frozen_norms_are_not_computed_and_their_activations_are_not_kept(model):
    _, everything = gradients(copy.deepcopy(model), [])
    frozen = freeze_blocks(model, 17)
    fold_frozen(model, frozen)
    _, little = gradients(model, frozen)
    assert little < everything / 5
    operations = torch.fx.symbolic_trace(model.blocks[2]).code
    assert "batch_norm" not in operations, "the frozen norm still runs"


def test_a_gpu_that_rounds_to_tf32_folds_as_much(model):
    with EmulatedTF32():
        assert torch.backends.cudnn.allow_tf32, "as convolutions have it by default"
        assert fold_frozen(model, freeze_blocks(model, FROZEN)) == 1 + 2 + 10 * 3
    assert torch.backends.cudnn.allow_tf32, "it is put back"


def test_what_trains_is_never_folded(model):
    assert fold_frozen(model, []) == 0
    frozen = freeze_blocks(model, 1)
    fold_frozen(model, frozen)
    assert "forward" in vars(model.bn1) and "forward" not in vars(model.blocks[0][0].bn1)
    pair = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    assert fold_frozen(pair, [pair[0]]) == 0, "the norm trains"
    assert fold_frozen(pair, list(pair)) == 1


class _ReadTwice(torch.nn.Module):
    """The convolution's output goes elsewhere as well: nothing may be folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
        self.norm.running_mean.fill_(3.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = self.conv(images)
        return (self.norm(seen) + seen).mean((2, 3))


def test_a_fold_that_would_change_the_logits_is_undone():
    model = _ReadTwice()
    inputs = torch.randn(2, 3, 64, 64)
    expected = model.eval()(inputs)
    assert fold_frozen(model.train(), [model.conv, model.norm]) == 0
    assert model.training and torch.equal(model.eval()(inputs), expected)


@pytest.mark.slow
def test_a_run_with_frozen_blocks_saves_what_evaluate_sees(model, shard_folder, tmp_path):
    save_file(model.state_dict(), tmp_path / "begin.safetensors")
    settings = {**SMALL, "image_size": 32, "epochs": 1, "freeze": FROZEN, "weights": tmp_path / "begin.safetensors"}
    run = train(data=shard_folder, out=tmp_path, track=False, **settings)
    after, begun = load_file(run.folder / "model.safetensors"), model.state_dict()
    assert torch.equal(after["blocks.1.0.bn1.running_mean"], begun["blocks.1.0.bn1.running_mean"])
    assert not torch.equal(after["classifier.weight"], begun["classifier.weight"])
    evaluation = evaluate(run.folder, shard_folder, split="val", loader="torchvision", workers=0, device="cpu")
    assert evaluation.loss == pytest.approx(run.history[0]["val_loss"], rel=1e-3)


class _ReadTwiceAndClassified(_ReadTwice):
    """Like the other, under a new classifier whose logits are all zero."""

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 0 * self.forward_features(images)


def test_a_new_classifier_does_not_hide_that_a_fold_changes_the_features():
    model = _ReadTwiceAndClassified()
    assert fold_frozen(model, [model.conv, model.norm]) == 0
