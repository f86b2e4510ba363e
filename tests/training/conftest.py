"""Runs of the command line in a test's own folder."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from fasttrain.commands import finish
from tests.support.runs import Start, start_run


@pytest.fixture
def start(shard_folder: Path, tmp_path: Path) -> Start:
    """`start_run` in the test's own folder."""
    return functools.partial(start_run, shard_folder, tmp_path)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs in this process draw no figures and write no report, which take half of a short run's time."""
    monkeypatch.setattr(finish, "_write_pictures", lambda *arguments: None)
