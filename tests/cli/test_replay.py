"""`fasttrain train` that diverges, and `fasttrain replay`, as people run them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fasttrain.cli import app
from fasttrain.errors import UserError
from tests.support import warm
from tests.support.patience import PATIENCE
from tests.support.runs import SMALL, arguments


def fasttrain(folder: Path, *line: str, code: int) -> tuple[str, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    done = warm.run(["-m", "fasttrain", *line], env=environment, cwd=folder, text=True, timeout=PATIENCE)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def diverged(shard_folder, tmp_path_factory) -> tuple[Path, str]:
    """Return the folder of a run with an absurd learning rate, and its last line."""
    folder = tmp_path_factory.mktemp("absurd")
    absurd = {"model": "test_convnext", "optimizer": "sgd", "learning_rate": 100.0, "image_size": 32, "track": False}
    _, said = fasttrain(folder, "train", *arguments(data=shard_folder, out="runs", **{**SMALL, **absurd}), code=2)
    return folder, said.splitlines()[-1]


@pytest.mark.slow
def test_train_says_where_the_step_is_and_replay_why(diverged):
    folder, line = diverged
    (run,) = (folder / "runs").iterdir()
    assert line.startswith("fasttrain: the ") and "in epoch 1 at step" in line
    assert line.endswith(f"`fasttrain replay {run.relative_to(folder)}` shows the cause")
    printed, _ = fasttrain(folder, "replay", str(run), code=0)
    assert "why" in printed and "fix" in printed and "lower --learning-rate (100) to 10" in " ".join(printed.split())
    assert (run / "diverged.png").exists()


@pytest.mark.slow
def test_replay_prints_json_and_draws_where_it_is_told(diverged, tmp_path):
    (run,) = (diverged[0] / "runs").iterdir()
    sheet = tmp_path / "batch.jpg"
    done = CliRunner().invoke(app, ["replay", str(run / "diverged.safetensors"), "--json", "--sheet", str(sheet)])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["sheet"] == str(sheet) and sheet.exists()
    assert found["facts"]["config"]["learning_rate"] == 100.0 and found["keys"] and found["tried"][0]["module"]


def test_replay_without_a_diverged_step_is_refused(tmp_path):
    for line, said in {
        (str(tmp_path),): "only a run that diverged leaves one",
        (str(tmp_path / "none"),): "no such file; give a run's folder",
        (str(tmp_path), "--sheet", str(tmp_path / "a.gif")): "only a run that diverged leaves one",
    }.items():
        done = CliRunner().invoke(app, ["replay", *line])
        assert isinstance(done.exception, UserError) and said in str(done.exception)
