"""Which picture sizes a model takes, and the sizes that a run gets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch

from fasttrain import evaluate, predict, train
from fasttrain.checkpoint.trained import load_trained
from fasttrain.commands.lr_find import lr_find
from fasttrain.commands.profile import profile
from fasttrain.config.load import resolve
from fasttrain.config.values import Progressive
from fasttrain.errors import UserError
from fasttrain.export.export import export
from fasttrain.model.factory import create_model
from fasttrain.model.input_size import img_size_for, own_side, takes
from fasttrain.training.image_size import with_fitting_sizes
from tests.support.runs import SMALL

FAMILIES = {
    # the sizes that timm gives them at 224 px
    "test_resnet": 224,
    "levit_128s": 224,
    "inception_v3": 224,
    "vit_tiny_patch16_224": 224,
    "deit_tiny_distilled_patch16_224": 224,
    "beit_base_patch16_224": 224,
    "mixer_s32_224": 224,
    "coat_tiny": 224,
    "crossvit_9_240": 224,
    "maxvit_tiny_tf_224": 224,
    "xcit_nano_12_p16_224": 224,
    "mvitv2_tiny": 224,
    "tresnet_m": 224,
    "nasnetalarge": 224,
    "pit_ti_224": 224,
    # at their own size
    "vit_tiny_patch16_384": 384,
    "swinv2_tiny_window8_256": 256,
    "maxvit_rmlp_pico_rw_256": 256,
    "eva02_tiny_patch14_336": 336,
    "volo_d1_384": 384,
    "bat_resnext26ts": 256,
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.slow
def test_without_an_image_size_every_family_gets_one_that_it_takes(name):
    config, said = with_fitting_sizes(resolve({"model": name}))
    assert config.image_size == FAMILIES[name] and takes(name, config.image_size)
    assert bool(said) == (config.image_size != 224)


@pytest.mark.parametrize(
    ("name", "side", "img_size"),
    [
        ("test_resnet", 48, None),
        ("inception_v3", 75, None),
        ("vit_tiny_patch16_224", 64, 64),
        ("swinv2_tiny_window8_256", 224, 224),
        ("maxvit_tiny_tf_224", 160, 160),
    ],
)
@pytest.mark.slow
def test_img_size_is_passed_only_where_the_model_needs_it(name, side, img_size):
    assert img_size_for(name, side) == img_size


@pytest.mark.parametrize(
    ("name", "side", "nearest"), [("inception_v3", 64, "80"), ("bat_resnext26ts", 200, "256"), ("vgg11", 16, "32")]
)
@pytest.mark.slow
def test_a_size_that_does_not_fit_is_told_with_the_nearest_that_does(name, side, nearest):
    said = f"model = '{name}' does not take pictures of {side} px; the nearest --image-size is {nearest}"
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        img_size_for(name, side)
    assert takes(name, int(nearest))


@pytest.mark.slow
def test_a_model_without_logits_is_refused():
    with pytest.raises(UserError, match="returns no logits; choose another"):
        img_size_for("qwen3_vit_88m_enc", 224)


@pytest.mark.slow
def test_trying_draws_nothing_from_the_generator_of_the_weights():
    torch.manual_seed(5)
    expected = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32).state_dict()
    torch.manual_seed(5)
    made = create_model("vit_tiny_patch16_224", 3, img_size=img_size_for("vit_tiny_patch16_224", 32)).state_dict()
    body = [name for name in expected if not name.startswith("head.")]  # a new classifier starts at zero
    assert all(torch.equal(expected[name], made[name]) for name in body)
    assert own_side("vit_tiny_patch16_384") == 384


@pytest.mark.slow
def test_progressive_sizes_that_the_model_does_not_take():
    vit = {"model": "vit_tiny_patch16_224"}
    with pytest.raises(UserError, match=r"^progressive = '64:224': a vit_tiny_patch16_224 of 224 px does not take 64"):
        with_fitting_sizes(resolve({**vit, "progressive": "64:224"}))
    kept, said = with_fitting_sizes(resolve({"model": "test_resnet", "progressive": "64:224"}))
    assert kept.progressive == Progressive(64, 224) and not said


def test_a_refused_size_leaves_no_run_folder(tmp_path):
    with pytest.raises(UserError, match=r"does not take pictures of 64 px; the nearest --image-size is 80$"):
        train(**{**SMALL, "model": "inception_v3", "image_size": 64}, data=tmp_path / "none", out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.full
@pytest.mark.slow
def test_a_transformer_of_another_size_from_training_to_export(shard_folder: Path, photographs: Path, tmp_path: Path):
    vit = {**SMALL, "model": "vit_tiny_patch16_224", "image_size": 64, "track": False}
    result = train(**{**vit, "epochs": 1, "limit_batches": 1}, data=shard_folder, out=tmp_path)
    assert load_trained(result.folder)[0].pos_embed.shape == (1, 1 + (64 // 16) ** 2, 192)
    assert evaluate(result.folder, shard_folder, loader="torchvision", workers=0).samples
    assert len(predict(result.folder, [next(photographs.glob("*/*.jpg"))])) == 1
    assert (
        export(result.folder, "torchscript", data=photographs, photographs=4, speed=False).metadata["image_size"] == 64
    )
    assert profile(**vit, data=shard_folder, steps=1).batch_size == 16
    assert len(lr_find(**{**vit, "learning_rate": None}, data=shard_folder, steps=20).losses) >= 5
