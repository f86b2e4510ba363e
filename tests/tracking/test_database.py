"""MLflow's SQLite file is there with all of its tables, or not there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from mlflow.store.db import utils
from mlflow.tracking import MlflowClient

from fasttrain.tracking.database import make_database
from tests.support import warm

MAKE = "import sys; from fasttrain.tracking.database import make_database; make_database(sys.argv[1])"
PAUSE = """
import time, sys
from mlflow.store.db import utils
def pause(engine):
    print("half-way", flush=True)
    time.sleep(3600)
utils._upgrade_db = pause
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_what_is_made_is_mlflows_and_is_made_once(tmp_path):
    uri = f"sqlite:///{tmp_path}/deep/mlflow.db"
    make_database(uri)
    assert names(tmp_path / "deep") == ["mlflow.db"]
    experiment = MlflowClient(uri).create_experiment("kept")
    make_database(uri)
    assert MlflowClient(uri).get_experiment(experiment).name == "kept"
    for other in ("sqlite://", "sqlite:///:memory:", f"file://{tmp_path}/mlruns", "http://127.0.0.1:1"):
        make_database(other)
    assert names(tmp_path) == ["deep"]


def test_a_failure_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    def fail(engine):
        raise OSError("half-way")

    with monkeypatch.context() as patched:
        patched.setattr(utils, "_upgrade_db", fail)
        with pytest.raises(OSError, match="half-way"):
            make_database(f"sqlite:///{tmp_path}/mlflow.db")
    assert not names(tmp_path)


@pytest.mark.slow
def test_one_that_another_run_made_meanwhile_stays(tmp_path, monkeypatch):
    make = utils._initialize_tables

    def slow(engine):
        make(engine)
        (tmp_path / "mlflow.db").write_bytes(b"theirs")

    monkeypatch.setattr(utils, "_initialize_tables", slow)
    make_database(f"sqlite:///{tmp_path}/mlflow.db")
    assert (tmp_path / "mlflow.db").read_bytes() == b"theirs" and names(tmp_path) == ["mlflow.db"]


@pytest.mark.slow
def test_where_there_are_no_links_it_is_renamed(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    make_database(f"sqlite:///{tmp_path}/mlflow.db")
    assert names(tmp_path) == ["mlflow.db"]


@pytest.mark.slow
@pytest.mark.full
def test_killed_while_its_tables_are_made_the_next_run_makes_it(tmp_path):
    """MLflow's own way ends there for good: table … already exists."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with warm.Popen(["-c", PAUSE + MAKE, uri], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "half-way\n"
        assert list(tmp_path.glob(".mlflow.db.*.tmp/mlflow.db"))
        process.kill()
    assert not (tmp_path / "mlflow.db").exists() and names(tmp_path), "killed half-way"
    done = warm.run(["-c", MAKE, uri], text=True)
    assert done.returncode == 0, done.stderr
    assert names(tmp_path) == ["mlflow.db"]
    assert MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_experiments()
