"""`--recipe`: sets of defaults that suit each other. Settings that the user gives take precedence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_RECIPES: dict[str, dict[str, Any]] = {
    # the plain PyTorch script for Food-101 that fasttrain replaces, with a learning rate for its small batches
    "classic": {
        "optimizer": "adam",
        "learning_rate": 3e-4,
        "scheduler": "plateau",
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
    """Return the recipe that the settings `given` name. If they name none but have `minutes`, return "fast".

    Return None if they have neither, or if the recipe is unknown, which the validation of the settings reports.
    """
    name = given.get("recipe") or (_TIMED if given.get("minutes") is not None else None)
    return name if name in RECIPES else None


def recipe_defaults(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of the recipe `name`, one of `RECIPES`, for a run with the settings `given`.

    Some defaults depend on `given`. With `linear_probe` there are none. Layer decay is only a default if the weights
    are pretrained, RandAugment only without TrivialAugment, and flip averaging (`tta`) only with flips in training.
    Strong augmentation and layer decay need at least 20 epochs. With `minutes` there is no default of `epochs`, and
    compiling is off, because it takes a minute or more for each image size. With `head_epochs` or `minutes`, the best
    epoch is chosen by accuracy, because label smoothing can raise the loss while the accuracy improves.
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
