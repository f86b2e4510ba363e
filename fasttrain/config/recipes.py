"""`--recipe`: sets of defaults that suit each other. Settings of the user, in TOML or on the command line, take
precedence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_RECIPES: dict[str, dict[str, Any]] = {
    # the plain PyTorch script for Food-101 that fasttrain replaces, with a learning rate for its small batches
    "classic": {
        "optimizer": "adam",
        "learning_rate": 3e-4,
        "scheduler": "plateau",
        "warmup_epochs": 0.0,
        "batch_size": 32,
        "crop_scale": (0.35, 1.0),
    },
    # a short budget: the default optimizer and schedule, and crops that keep most of the photograph
    "fast": {
        "epochs": 5,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "crop_scale": (0.35, 1.0),
        "early_stopping": 0,
    },
    # timm's fine-tuning recipes
    "accurate": {
        "epochs": 30,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "ema_decay": 0.999,
        "clip_grad": 1.0,
        "tta": "flip",
        "early_stopping": 0,
    },
}
_NEEDS_MANY_EPOCHS = {
    "accurate": {"rand_augment": "n2-m9", "mixup": 0.2, "random_erasing": 0.25, "layer_decay": 0.9},
}
_MANY_EPOCHS = 20
_TIMED = "fast"  # the recipe of a run with `minutes` and no other
RECIPES = tuple(_RECIPES)


def recipe_of(given: Mapping[str, Any]) -> str | None:
    """Return the recipe that `given` names, or "fast" if no recipe but `minutes` is given. Otherwise return None.

    Return None also for an unknown recipe: the validation of the settings reports it.
    """
    name = given.get("recipe") or (_TIMED if given.get("minutes") is not None else None)
    return name if name in RECIPES else None


def recipe_defaults(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of the recipe `name`, one of `RECIPES`, given the settings in `given`.

    These exceptions depend on the given settings. A linear probe uses no recipe. Layer decay is only for pretrained
    weights. TrivialAugment replaces RandAugment. Strong augmentation and layer decay need at least 20 epochs.
    `minutes` chooses the epochs itself, and switches off compiling, which would take a minute or more for each image
    size. Without flips in training, mirror images aren't averaged. With `head_epochs` or `minutes`, accuracy chooses
    the best epoch, not the loss: label smoothing raises the loss even while accuracy improves.
    """
    if given.get("linear_probe"):
        return {}
    defaults = dict(_RECIPES[name])
    if given.get("minutes") is not None:
        defaults.pop("epochs", None)
        defaults["compile"] = "off"
    epochs = given.get("epochs", defaults.get("epochs"))
    if isinstance(epochs, int) and epochs >= _MANY_EPOCHS:
        defaults |= _NEEDS_MANY_EPOCHS.get(name, {})
    if given.get("minutes") is not None or given.get("head_epochs"):
        defaults["monitor"] = "auto"
    if given.get("trivial_augment"):
        defaults.pop("rand_augment", None)
    if given.get("pretrained") is False and not given.get("weights"):
        defaults.pop("layer_decay", None)
    if given.get("hflip") == 0:
        defaults.pop("tta", None)
    return defaults
