"""How the tests run the command line: a real process, a small model, a store of its own."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SMALL = {
    "model": "mobilenetv2_035",
    "pretrained": False,
    "image_size": 48,
    "batch_size": 16,
    "epochs": 2,
    "workers": 0,
    "device": "cpu",
    "loader": "torchvision",
    "learning_rate": 0.003,
}


def arguments(**settings: Any) -> list[str]:
    """Settings as the command line takes them."""
    line = []
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            line.append(flag if value else "--no-" + flag[2:])
        else:
            line += [flag, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return line


Start = Callable[..., "subprocess.Popen[str]"]


def start_run(shard_folder: Path, folder: Path, bare: bool = False, **settings: Any) -> subprocess.Popen[str]:
    """A `fasttrain train` process in `folder`, on the small data set; `bare` adds no settings to those given."""
    if not bare:
        settings = {"data": shard_folder, "out": folder / "runs", **SMALL, **settings}
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "fasttrain", "train", *arguments(**settings)],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def start(shard_folder: Path, tmp_path: Path) -> Start:
    """`start_run` in the test's own folder."""
    return functools.partial(start_run, shard_folder, tmp_path)
