"""Shards that the first release wrote, in `first_release/`, with the photographs that it made them of."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fasttrain.errors import UserError
from fasttrain.photos.cut import native_available
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet
from tests.support.patience import PATIENCE
from tests.support.runs import last_state, paused, start_run

HERE = Path(__file__).with_name("first_release")
SHARDS, PHOTOGRAPHS = HERE / "shards", HERE / "photographs"
MADE_WITH = {"shard_size": 8, "val_fraction": 0.25, "progress": False}
EXACT = {"deterministic": True, "save_every": 1, "track": False, "batch_size": 4}

needs_native = pytest.mark.skipif(not native_available(), reason="the C++ module isn't built")


def test_they_open_and_hold_the_photographs() -> None:
    shards = ShardSet.open(SHARDS)
    assert shards.verify() == []
    assert shards.manifest.classes == ["dress", "hat"] and shards.manifest.splits == {"train": 12, "val": 4, "test": 0}
    for row, key in enumerate(shards.index["key"]):
        stored = np.asarray(Image.open(io.BytesIO(shards.bytes(row))))
        assert (stored == np.asarray(Image.open(PHOTOGRAPHS / f"{key.decode()}.jpg"))).all()


@needs_native
def test_the_same_photographs_give_the_same_bytes_today(tmp_path) -> None:
    convert(PHOTOGRAPHS, tmp_path / "today", **MADE_WITH)
    for file in [*SHARDS.glob("*.tar"), *SHARDS.glob("*.idx"), SHARDS / "index.npy"]:
        assert (tmp_path / "today" / file.name).read_bytes() == file.read_bytes(), file.name


@needs_native
def test_they_are_known_for_what_they_are_when_converted_again(tmp_path) -> None:
    shutil.copytree(SHARDS, tmp_path / "shards")
    assert convert(PHOTOGRAPHS, tmp_path / "shards", color="keep", **MADE_WITH).already
    with pytest.raises(UserError, match=r"color = keep, not auto"):
        convert(PHOTOGRAPHS, tmp_path / "shards", **MADE_WITH)


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output


@pytest.mark.parametrize("loader", ["torchvision", pytest.param("native", marks=needs_native)])
@pytest.mark.full
def test_they_train_and_resume(loader, tmp_path) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "killed").mkdir()
    settings = {**EXACT, "loader": loader, "figures": False}
    finish(start_run(SHARDS, tmp_path / "alone", **settings))
    process = start_run(SHARDS, tmp_path / "killed", pause_at=2, **settings)
    with paused(process, tmp_path / "killed"):
        process.kill()
        process.wait()
    finish(start_run(SHARDS, tmp_path / "killed", resume="auto", **settings))
    (alone,), (killed,) = ((tmp_path / each / "runs").iterdir() for each in ("alone", "killed"))
    ours, expected = last_state(killed), last_state(alone)
    assert ours["step"] == expected["step"] == 6
    assert all(torch.equal(ours["model"][name], tensor) for name, tensor in expected["model"].items())
