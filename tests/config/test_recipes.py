"""Recipes: defaults that go together, under whatever the user sets."""

from __future__ import annotations

import pytest

from fasttrain.config.load import read_toml, resolve
from fasttrain.config.recipes import RECIPES
from fasttrain.config.schema import TrainConfig
from fasttrain.config.values import Progressive, RandAugment
from fasttrain.errors import UserError


def test_each_recipe_is_valid_and_its_settings_are_the_runs():
    classic, fast, accurate = (resolve({"recipe": name}) for name in ("classic", "fast", "accurate"))
    assert (classic.optimizer, classic.scheduler, classic.batch_size) == ("adam", "plateau", 32)
    assert (classic.learning_rate, classic.crop_scale) == (3e-4, (0.35, 1.0))
    assert (fast.optimizer, fast.scheduler, fast.label_smoothing) == ("adamw", "cosine", 0.1)
    assert fast.progressive is None, "small pictures cost a short fine-tuning more than they save"
    assert fast.epochs < TrainConfig().epochs < accurate.epochs
    assert (accurate.rand_augment, accurate.tta, accurate.layer_decay) == (RandAugment(2, 9), "flip", 0.9)
    assert accurate.ema_decay and accurate.mixup and accurate.random_erasing and accurate.warmup_epochs
    assert "warmup_epochs" not in classic.model_fields_set, "its plateau schedule has no warm-up"


@pytest.mark.parametrize(
    ("given", "warmup"),
    [
        ({"epochs": 1}, 0.1),
        ({"epochs": 3}, 0.3),
        ({"epochs": 50}, 0.5),
        ({"epochs": 7, "head_epochs": 5, "recipe": "fast"}, 0.5),
        ({"epochs": 1, "warmup_epochs": 0.5}, 0.5),
    ],
)
def test_a_short_run_warms_up_for_a_tenth_of_it(given, warmup):
    config = resolve(given)
    assert config.warmup_epochs == pytest.approx(warmup)
    assert "warmup_epochs" not in config.changed(["warmup_epochs"]), "only a value that someone gave is a change"
    assert set(RECIPES) == {"classic", "fast", "accurate"}


def test_the_command_line_and_toml_win_over_a_recipe(tmp_path):
    path = tmp_path / "food.toml"
    path.write_text('recipe = "accurate"\nepochs = 27\nmixup = 0.0\n')
    config = resolve(read_toml(path), {"learning_rate": 0.5, "seed": None})
    assert (config.epochs, config.mixup, config.learning_rate) == (27, 0.0, 0.5)
    assert config.optimizer == "adamw"
    assert TrainConfig(recipe="fast", optimizer="sgd").optimizer == "sgd"


def test_a_runs_settings_resolve_to_themselves():
    config = resolve({"recipe": "accurate", "epochs": 3, "clip_grad": 2.0})
    assert resolve(config.plain()) == config


def test_recipes_fit_what_they_are_given_beside():
    short, long = (resolve({"recipe": "accurate", "epochs": epochs}) for epochs in (19, 20))
    assert not short.mixup and short.rand_augment is None and not short.random_erasing, (
        "too few epochs to learn from it"
    )
    assert short.layer_decay is None
    assert long.mixup and long.rand_augment and long.random_erasing and long.layer_decay == 0.9
    assert resolve({"recipe": "accurate", "pretrained": False}).layer_decay is None
    assert resolve({"recipe": "accurate", "pretrained": False, "weights": "a.pth"}).layer_decay == 0.9
    trivial = resolve({"recipe": "accurate", "trivial_augment": True})
    assert trivial.rand_augment is None and trivial.mixup
    assert resolve({"recipe": "accurate", "hflip": 0}).tta == "none"
    assert resolve({"recipe": "accurate", "hflip": 0, "tta": "flip"}).tta == "flip"
    for name in RECIPES:
        probe = resolve({"recipe": name, "linear_probe": True})
        assert probe.mixup == 0 and probe.tta == "none"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"rand_augment": "n1-m3", "trivial_augment": True},
            "trivial_augment can't be combined with rand_augment = n1-m3; leave one of them out",
        ),
        ({"recipe": "quick"}, "recipe = 'quick' is not one of fast, accurate, classic"),
        ({"progressive": "100:224"}, "sizes must be multiples of 32; the nearest valid value is 96:224"),
        ({"progressive": "224:128"}, "runs backwards; did you mean 128:224?"),
        ({"progressive": "224"}, "write 128:224"),
        ({"grad_accumulation": 2, "compile_mode": "reduce-overhead"}, "use 'max-autotune-no-cudagraphs'"),
        ({"compile": "yes"}, "compile = 'yes' is not one of auto, on, off"),
        ({"tta": "flop"}, "tta = 'flop' is not one of none, flip; did you mean 'flip'?"),
    ],
)
def test_errors_name_the_fix_in_one_line(settings, words):
    with pytest.raises(UserError) as caught:
        resolve(settings)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_compile_takes_words_and_booleans():
    assert [resolve({"compile": given}).compile for given in (True, False, "auto")] == ["on", "off", "auto"]
    assert resolve({"progressive": "128:224"}).progressive == Progressive(128, 224)
