"""`lr-find`: the sweep is train's own steps at growing rates, the suggestion the steepest fall, and no run is left."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

from fasttrain.commands.lr_find import lr_find, smooth, steepest
from fasttrain.errors import UserError
from tests.support.runs import SMALL

RATES = np.geomspace(1e-6, 1, 100)


def falling(at: float, noise: float = 0.0) -> list[float]:
    """A loss that falls from 3 to 1 around the rate `at`, and blows up in the last steps."""
    loss = 2 - np.tanh(2 * np.log10(RATES / at)) + noise * np.random.default_rng(0).standard_normal(100)
    loss[-8:] += np.arange(8) ** 2
    return loss.tolist()


@pytest.mark.parametrize("at", [1e-4, 1e-3])
def test_the_suggestion_is_where_the_loss_falls_the_steepest(at):
    clean = steepest(RATES.tolist(), smooth(falling(at), 4))
    assert clean == pytest.approx(at, rel=0.2)
    noisy = steepest(RATES.tolist(), smooth(falling(at, noise=0.15), 4))
    assert at / 3 < noisy < at * 3


def test_single_batches_make_no_slope():
    losses = falling(1e-3)
    losses[20] = 90.0
    assert smooth(losses, 4)[20] < 3.1
    assert steepest(RATES.tolist(), smooth(losses, 4)) == pytest.approx(1e-3, rel=0.2)


def test_a_second_fall_of_a_wrecked_network_does_not_count():
    losses = np.asarray(falling(1e-4))
    losses[55:80] += 2.5 * np.hanning(25)  # above what it was at first, then down to 1 more steeply than before
    assert steepest(RATES.tolist(), smooth(losses.tolist(), 4)) == pytest.approx(1e-4, rel=0.2)


def test_a_loss_that_only_rises_has_no_suggestion():
    assert steepest(RATES.tolist(), np.linspace(1, 2, 100).tolist()) is None


@pytest.fixture(scope="module")
def settings(shard_folder):
    own = {name: value for name, value in SMALL.items() if name not in ("epochs", "learning_rate")}
    return {"data": shard_folder, **own}


@pytest.mark.slow
def test_the_sweep_trains_at_growing_rates_and_leaves_a_picture_only(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = lr_find(start=1e-6, end=1e-2, steps=24, picture=tmp_path / "pictures" / "lr.png", **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
    assert np.diff(np.log(found.learning_rates)) == pytest.approx(np.log(1e4) / 23)
    assert len(found.losses) == len(found.smoothed) == 24 and not found.diverged
    assert min(found.smoothed[12:]) < found.smoothed[0]  # it learns
    assert Image.open(tmp_path / "pictures" / "lr.png").width > 800
    # The same sweep to other rates begins with the same batch and weights, and then does not.
    other = lr_find(start=1e-3, end=1e-2, steps=20, **settings)
    assert other.losses[0] == found.losses[0] and other.losses[2] != found.losses[2]


@pytest.mark.slow
def test_it_ends_where_the_loss_diverges(settings):
    found = lr_find(start=1e-2, end=1e4, steps=40, **{**settings, "optimizer": "sgd"})
    assert found.diverged and 5 <= len(found.losses) < 40
    assert len(found.learning_rates) == len(found.losses)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"start": 1.0, "end": 0.1}, "--start 1"),
        ({"steps": 5}, "nearest valid value is 20"),
        ({"smoothing": 80.0}, "nearest valid value is 25"),
        ({"resume": "auto"}, "leave resume out"),
        ({"linear_probe": True}, "without a learning rate"),
    ],
)
def test_what_makes_no_sense_is_told(settings, arguments, words):
    with pytest.raises(UserError, match=words):
        lr_find(**{**settings, **arguments})


@pytest.mark.slow
def test_the_command_prints_all_figures_as_json(settings, tmp_path, monkeypatch, capsys):
    from fasttrain.cli import main
    from tests.support.runs import arguments

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["fasttrain", "lr-find", "--steps", "20", "--end", "1e-3", "--json", *arguments(**settings)]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    said = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and len(said["losses"]) == 20
    assert (said["split"], said["photographs"]) == ("train", 78)
    assert said["picture"] == "lr_find.png" and (tmp_path / "lr_find.png").exists()
