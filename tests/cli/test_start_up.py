"""`train` shows a line at once, imports little before its first step, and ends with the summary."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fasttrain.cli.train import print_start
from fasttrain.commands import run
from fasttrain.commands.train import train
from fasttrain.tracking.tracker import NullTracker
from fasttrain.version import __version__
from tests.support.patience import PATIENCE
from tests.support.runs import SMALL

LINE = f"fasttrain {__version__}: loading PyTorch and timm\n"


def test_the_first_line_comes_before_torch_is_imported(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; sys.argv = ['fasttrain', 'train', '--data', 'food']\n"
    code += "from fasttrain.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)
    assert done.stdout == LINE and done.returncode == 1 and "torch" in done.stderr


@pytest.mark.parametrize(
    ("log_format", "rank", "printed"),
    [("text", None, True), ("text", "0", True), ("text", "1", False), ("json", None, False), (None, None, False)],
)
def test_the_first_line_is_for_people_and_printed_once(log_format, rank, printed, monkeypatch, capsys):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
    print_start(log_format)
    assert capsys.readouterr().out == (LINE if printed else "")


BEFORE_THE_FIRST_STEP = """
import os, sys, time
import fasttrain

class Look(fasttrain.Callback):
    def on_train_start(self, run):
        time.sleep(0.5)  # a thread would have begun by then
        print({"mlflow", "sqlalchemy", "matplotlib", "sklearn", "pandas"} & sys.modules.keys(), flush=True)
        os._exit(0)
"""


@pytest.mark.slow
def test_neither_mlflow_nor_matplotlib_is_imported_before_the_first_step(shard_folder: Path, tmp_path: Path) -> None:
    code = f"{BEFORE_THE_FIRST_STEP}\nfasttrain.train(data={str(shard_folder)!r}, callbacks=[Look()], **{SMALL!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)
    assert done.stdout.endswith("\nset()\n"), done.stdout + done.stderr


@pytest.mark.slow
def test_the_summary_is_the_last_that_a_run_shows(shard_folder, tmp_path, monkeypatch):
    console = Console(record=True, quiet=False, width=100, file=(tmp_path / "shown").open("w"))

    class Slow(NullTracker):
        uri = "sqlite:///mlflow.db"

        def finish(self, status: str = "FINISHED", timeout: float | None = None) -> None:
            super().finish(status, timeout)
            console.print("the store has all")

    monkeypatch.setattr(run, "start_tracker", lambda *given: Slow())
    settings = {**SMALL, "epochs": 1, "limit_batches": 2}
    result = train(data=shard_folder, out=tmp_path / "runs", console=console, **settings)
    before, after = console.export_text().split("the store has all\n")
    assert "MLflow store" in after and "epoch 1/1" in before and (result.folder / "evaluation.json").is_file()
