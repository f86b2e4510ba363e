"""`--recipe`: sets of defaults that go together. Whatever the user sets, in TOML or on the command line, wins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_RECIPES: dict[str, dict[str, Any]] = {
    # the plain PyTorch script for Food-101 that fasttrain replaces
    "classic": {
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "scheduler": "plateau",
        "batch_size": 32,
    },
    # FFCV's ideas (progressive resizing, label smoothing, a short budget), with torch's one-cycle schedule
    "fast": {
        "epochs": 5,
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "weight_decay": 0.01,
        "scheduler": "onecycle",
        "label_smoothing": 0.1,
        "crop_scale": (0.35, 1.0),
        "early_stopping": 0,
    },
    # timm's fine-tuning recipes
    "accurate": {
        "epochs": 30,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.05,
        "scheduler": "cosine",
        "warmup_epochs": 1.0,
        "label_smoothing": 0.1,
        "rand_augment": "n2-m9",
        "mixup": 0.2,
        "random_erasing": 0.25,
        "ema_decay": 0.999,
        "clip_grad": 1.0,
        "layer_decay": 0.9,
        "tta": "flip",
        "early_stopping": 0,
    },
}
RECIPES = tuple(_RECIPES)

NEEDS_PIXELS = {
    "color_jitter": 0.0,
    "rand_augment": None,
    "random_erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "progressive": None,
    "tta": "none",
    "freeze": 0,
    "layer_decay": None,
    "grad_checkpointing": False,
    "on_bad_sample": "error",
}
"""Settings that mean nothing where only the head sees features (`linear_probe`), each with the value that is off."""

NEEDS_STEPS = (
    "optimizer",
    "learning_rate",
    "weight_decay",
    "momentum",
    "scheduler",
    "warmup_epochs",
    "patience",
    "factor",
    "grad_accumulation",
    "clip_grad",
    "ema_decay",
    "drop_rate",
)
"""Settings that `linear_probe` ignores: it solves for the head directly, without gradient steps."""


def recipe_defaults(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the recipe `name`, one of `RECIPES`, beside what is `given`.

    Some depend on that: a linear probe takes no augmentation, layer decay spares weights that were trained before, and
    the smallest size of progressive resizing follows `image_size`.
    """
    if given.get("linear_probe"):
        return {}
    defaults = dict(_RECIPES[name])
    size = given.get("image_size", 224)
    if name == "fast" and isinstance(size, int) and size % 32 == 0 and size >= 96:
        defaults["progressive"] = f"{max(round(size * 4 / 7 / 32) * 32, 32)}:{size}"
    if given.get("pretrained") is False and not given.get("weights"):
        defaults.pop("layer_decay", None)
    epochs = given.get("epochs")
    if isinstance(epochs, int) and epochs < defaults.get("warmup_epochs", 0):
        defaults["warmup_epochs"] = float(max(epochs, 0))
    return defaults
