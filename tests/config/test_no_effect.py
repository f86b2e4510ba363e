"""Settings that have no effect in a run are named, with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from fasttrain.config.load import resolve
from fasttrain.config.no_effect import without_effect
from fasttrain.config.recipes import RECIPES


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"scheduler": "plateau", "warmup_epochs": 2},
            "scheduler: warmup_epochs=2.0 is not used, as only cosine has a warm-up",
        ),
        ({"patience": 4, "factor": 0.5}, "scheduler: patience=4, factor=0.5 are not used, as only plateau uses these"),
        ({"focal_gamma": 1}, "loss: focal_gamma=1.0 is not used, as only the focal loss uses this"),
        ({"teacher_weight": 0.5}, "teacher: teacher_weight=0.5 is not used, as there is no teacher"),
        (
            {"teacher": "t", "loss": "focal", "focal_gamma": 1},
            "teacher: loss=focal, focal_gamma=1.0 are not used, as teacher_weight = 1 ignores the labels",
        ),
        ({"momentum": 0.5}, "optimizer: momentum=0.5 is not used, as this optimizer has no momentum"),
        ({"amp_dtype": "fp16"}, "amp: amp_dtype=fp16 is not used, as mixed precision is off"),
        (
            {"compile": "off", "compile_mode": "max-autotune"},
            "compile: compile_mode=max-autotune is not used, as nothing is compiled",
        ),
        ({"cache_size": "50GB"}, "data: cache_size=50GB is not used, as the data are on this machine already"),
        ({"track": False, "run_name": "x"}, "track: run_name=x is not used, as nothing is tracked"),
        (
            {"linear_probe": True, "patience": 4},
            "linear_probe: patience=4 is not used, as the head is solved for without gradient steps",
        ),
    ],
)
def test_a_setting_without_effect_is_named_once_with_the_reason(given: dict[str, Any], line: str) -> None:
    ((cause, said),) = without_effect(resolve(given))
    assert f"{cause}: {said}".startswith(line)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"warmup_epochs": 2},
        resolve({"linear_probe": True, "epochs": 3}).plain(),  # as in a resumed run
        {"minutes": 2, "linear_probe": True, "warmup_epochs": 0.2},
        {"scheduler": "plateau", "patience": 4, "warmup_epochs": 0},
        {"optimizer": "sgd", "momentum": 0.5},
        {"optimizer": "lookahead_sgd", "momentum": 0.5},
        {"loss": "focal", "focal_gamma": 1},
        {"teacher": "t", "teacher_weight": 0.5, "label_smoothing": 0.1},
        {"amp": True, "amp_dtype": "fp16"},
        {"data": "s3://bucket/shards", "cache_size": "50GB"},
        *({"recipe": name} for name in RECIPES),
        {
            "minutes": 2,
            "linear_probe": True,
            "weight_decay": 0.05,
            "label_smoothing": 0.1,
        },  # a plan of `minutes`
    ],
)
def test_settings_with_an_effect_and_the_recipes_are_not_named(given: dict[str, Any]) -> None:
    assert without_effect(resolve(given)) == []
