"""A new classifier starts at a loss of ln(classes); a pretrained one is kept."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from safetensors.torch import save_file

from fasttrain.checkpoint.initial_weights import load_initial_weights
from fasttrain.model.classifier import classifier_names
from fasttrain.model.factory import create_model

CLASSES = 10
FAMILIES = {  # the smallest models of families whose classifiers differ, with a size they take
    "convnext_atto": 64,
    "crossvit_tiny_240": 240,
    "deit_tiny_distilled_patch16_224": 224,
    "densenet121": 64,
    "dla46x_c": 64,
    "dpn48b": 64,
    "edgenext_xx_small": 64,
    "efficientformerv2_s0": 224,
    "efficientnet_lite0": 64,
    "fastvit_t8": 64,
    "ghostnet_050": 64,
    "hardcorenas_a": 64,
    "lcnet_035": 64,
    "levit_128s": 224,
    "mambaout_femto": 64,
    "mnasnet_small": 64,
    "mobilenetv2_035": 64,
    "mobilenetv3_small_050": 64,
    "mobilenetv4_conv_small_035": 64,
    "mobileone_s0": 64,
    "mobilevit_xxs": 64,
    "pit_ti_distilled_224": 224,
    "regnetx_002": 64,
    "repghostnet_050": 64,
    "repvit_m0_9": 64,
    "resnet10t": 64,
    "test_byobnet": 64,
    "test_nfnet": 64,
    "test_vit": 160,
    "tinynet_e": 64,
    "xcit_nano_12_p16_224": 224,
}


def first_loss(model: torch.nn.Module, side: int) -> float:
    images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model.eval()(images)
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor([0, 3, 5, 9])))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.slow
def test_the_first_loss_is_the_logarithm_of_the_classes(name):
    model = create_model(name, CLASSES)
    assert first_loss(model, FAMILIES[name]) == pytest.approx(math.log(CLASSES), rel=0.03)
    logits = model.train()(torch.randn(2, 3, FAMILIES[name], FAMILIES[name]))
    outputs = logits if isinstance(logits, tuple) else (logits,)
    sum(torch.nn.functional.cross_entropy(each, torch.tensor([1, 2])) for each in outputs).backward()
    learning = [model.get_submodule(part) for part in classifier_names(model)]
    assert all(any(each.grad is not None and each.grad.any() for each in part.parameters()) for part in learning)


def test_timms_own_start_is_far_from_it():
    """The reason for all this: if timm ever starts small classifiers well by itself, `start_classifier` can go."""
    torch.manual_seed(0)
    deviation = float(timm.create_model("mobilenetv2_035", num_classes=CLASSES).classifier.weight.detach().std())
    assert deviation > 0.1
    assert first_loss(timm.create_model("mobilenetv2_035", num_classes=CLASSES), 64) != pytest.approx(
        math.log(CLASSES), rel=1e-3
    )


def test_a_classifier_in_the_weights_file_is_kept_and_another_one_is_new(tmp_path):
    torch.manual_seed(0)
    trained = timm.create_model("mobilenetv2_035", num_classes=CLASSES)
    save_file(trained.state_dict(), tmp_path / "trained.safetensors")
    kept, new = create_model("mobilenetv2_035", CLASSES), create_model("mobilenetv2_035", 7)
    for model, classes in ((kept, CLASSES), (new, 7)):
        load_initial_weights(model, "mobilenetv2_035", tmp_path / "trained.safetensors", list(map(str, range(classes))))
    assert torch.equal(kept.classifier.weight, trained.classifier.weight)
    assert not new.classifier.weight.any() and torch.equal(new.conv_stem.weight, trained.conv_stem.weight)


@pytest.mark.parametrize(("classes", "kept"), [(1000, True), (7, False)])
def test_a_pretrained_classifier_is_kept_where_the_classes_are_as_many(monkeypatch, classes, kept):
    made = timm.create_model("test_resnet", num_classes=classes)  # weights of the hub can't be had here
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: made)
    model = create_model("test_resnet", classes, pretrained=True)
    assert bool(model.get_classifier().weight.any()) == kept
