"""Settings: TOML, then the command line; errors name the setting, the value and the nearest valid one."""

from __future__ import annotations

import pytest

from fasttrain.config.load import read_toml, resolve
from fasttrain.config.schema import TrainConfig
from fasttrain.errors import UserError


def test_later_layers_win_and_none_means_not_given():
    config = resolve({"epochs": 3, "seed": 1}, {"epochs": 7, "seed": None})
    assert (config.epochs, config.seed) == (7, 1)


def test_the_defaults_fine_tune():
    config = TrainConfig()
    assert (config.model, config.optimizer, config.scheduler) == ("mobilenetv2_100", "adamw", "cosine")
    assert config.pretrained and config.channels_last and not config.amp


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"learning_rat": 1}, ["unknown setting 'learning_rat'", "did you mean 'learning_rate'?"]),
        ({"epochs": 0}, ["epochs = 0", "nearest valid value is 1"]),
        ({"batch_size": 10**6}, ["batch_size = 1000000", "nearest valid value is 65536"]),
        ({"scheduler": "cosin"}, ["scheduler = 'cosin'", "did you mean 'cosine'?"]),
        ({"learning_rate": 0.0}, ["learning_rate = 0.0", "above 0"]),
        ({"epochs": "many"}, ["epochs = 'many'", "valid integer"]),
        ({"crop_scale": [0.9, 0.2]}, ["crop_scale", "did you mean (0.2, 0.9)?"]),
        ({"warmup_epochs": 30.0}, ["warmup_epochs = 30", "nearest valid value is 10"]),
        ({"crop_scale": [0.0, 1.0]}, ["crop_scale", "above 0"]),
    ],
)
def test_errors_are_one_line_with_the_fix(settings, words):
    with pytest.raises(UserError) as caught:
        resolve(settings, origin="food.toml")
    message = str(caught.value)
    assert message.startswith("food.toml: ") and "\n" not in message
    for word in words:
        assert word in message


def test_toml_round_trip(tmp_path):
    import tomli_w

    config = TrainConfig(epochs=4, crop_scale=(0.35, 1.0), class_weights="balanced", data="somewhere")
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps(config.plain()))
    assert resolve(read_toml(path)) == config


def test_a_file_that_is_not_toml_or_not_there(tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text("epochs = = 3")
    with pytest.raises(UserError, match="not valid TOML"):
        read_toml(bad)
    with pytest.raises(UserError, match="No such file"):
        read_toml(tmp_path / "none.toml")
