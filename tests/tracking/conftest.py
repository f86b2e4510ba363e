"""A real SQLite store in an empty working directory, and a real MLflow server that can be killed and restarted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow_processes import FIRST_RUN, FirstRun, Server, run_python

from fasttrain.tracking.store import Store, set_environment


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> FirstRun:
    folder = tmp_path_factory.mktemp("first")
    return FirstRun(folder, run_python(FIRST_RUN, folder))


@pytest.fixture(scope="session")
def empty_store(first_run: FirstRun) -> Path:
    """MLflow takes seconds to create a database: the first run's is copied."""
    set_environment()
    return first_run.folder / "mlflow.db"


@pytest.fixture
def here(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with an empty local store, and no server configured."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def client(here: Path) -> Any:
    return Store(f"sqlite:///{here / 'mlflow.db'}").client


@pytest.fixture
def server(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")  # a busy machine's server is not one that is away
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    server = Server(folder)
    server.start()
    yield server
    server.kill()
