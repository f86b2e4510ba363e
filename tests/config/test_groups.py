"""Groups of settings: each setting has one, options and panels of the command line come from them."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from typing import Any

import pytest
import typer

from fasttrain.cli import app
from fasttrain.config.base import Settings
from fasttrain.config.groups import GROUPS, AugmentationSettings, DataSettings, RunSettings, names_of
from fasttrain.config.schema import NEEDS_PIXELS, NEEDS_STEPS, TrainConfig
from tests.support.patience import PATIENCE


def test_each_setting_belongs_to_one_group() -> None:
    grouped = [name for group in GROUPS.values() for name in group.model_fields]
    assert grouped == list(TrainConfig.model_fields), "and all are shown and saved in the order of the groups"
    assert len(set(grouped)) == len(grouped)
    assert not {*NEEDS_PIXELS, *NEEDS_STEPS} - set(grouped)


def test_no_group_replaces_what_another_checks() -> None:
    """If two bases have a validator of the same name, pydantic only runs the first one's."""

    def own(group: type[Settings]) -> set[str]:
        return {name for name in vars(group) if not name.startswith("__") and name not in vars(Settings)}

    for first, second in itertools.combinations(GROUPS.values(), 2):
        assert not own(first) & own(second)


def test_a_config_is_each_of_its_groups() -> None:
    config = TrainConfig(mixup=0.2)

    def mixes(settings: AugmentationSettings) -> bool:
        return settings.mixup > 0 or settings.cutmix > 0

    assert mixes(config) and mixes(AugmentationSettings(cutmix=1.0)) and not mixes(AugmentationSettings())
    assert all(isinstance(config, group) for group in GROUPS.values())


def panels(command: str) -> dict[str, str]:
    """The settings among the options of `command`, each with its panel."""
    group: Any = typer.main.get_command(app)
    options = [each for each in group.commands[command].params if each.name in TrainConfig.model_fields]
    return {each.name: each.rich_help_panel for each in options}


@pytest.mark.slow
def test_help_shows_each_setting_once_in_the_panel_of_its_group() -> None:
    assert panels("train") == {name: title for title, group in GROUPS.items() for name in group.model_fields}
    done = subprocess.run(
        [sys.executable, "-m", "fasttrain", "train", "--help"],
        env={"COLUMNS": "200", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )
    shown: dict[str, list[str]] = {}
    for panel in re.split(r"^╭─ ", done.stdout, flags=re.MULTILINE)[1:]:
        title = panel.split(" ─")[0]
        shown[title] = [name.replace("-", "_") for name in re.findall(r"^│\s+--([a-z-]+)", panel, re.MULTILINE)]
    for title, group in GROUPS.items():
        assert [name for name in shown[title] if name != "config"] == list(group.model_fields), title


@pytest.mark.parametrize(
    ("command", "lacking"),
    [
        ("profile", {"profile", "folds"}),
        ("tune", {"resume", "run_name", "folds"}),
        (
            "lr-find",
            {
                *names_of(RunSettings) - {"log_format"},
                *("eval_size", "crop_pct", "resize_mode"),
                *("progressive", "compile", "compile_mode", "ema_decay", "average", "refit", "tta"),
                *("learning_rate", "epochs", "minutes", "head_epochs", "scheduler", "warmup_epochs"),
                *("patience", "factor", "monitor", "early_stopping"),
            },
        ),
    ],
)
def test_commands_that_train_take_all_settings_but_a_few(command: str, lacking: set[str]) -> None:
    assert set(TrainConfig.model_fields) - panels(command).keys() == lacking


def test_preview_takes_what_shapes_the_pictures() -> None:
    taken = panels("preview").keys() - {"out"}  # its own, the picture
    assert taken >= names_of(DataSettings, AugmentationSettings) - {"on_bad_sample", "limit_batches"}
    assert taken - names_of(DataSettings, AugmentationSettings) == {
        *("model", "recipe", "epochs", "batch_size", "device", "seed")
    }


def test_settings_need_no_torch() -> None:
    code = "import sys, fasttrain.config.load, fasttrain.config.resuming; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "False\n", done.stderr
