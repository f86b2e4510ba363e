"""The example notebook runs from its first cell to its last, in a real kernel."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.patience import PATIENCE

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "food101.ipynb"


@pytest.mark.full
def test_food101_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs), "the curves are shown"
    text = " ".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)
    assert "summary" in text and "Traceback" not in text and "Warning" not in text
    pages = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("<iframe srcdoc" in each and "Learning curves" in each for each in pages), "the report is shown"
    assert "pancakes {" in text, "a photograph and its likeliest classes"
    (evaluation,) = (tmp_path / "runs").glob("*/evaluation.json")
    assert json.loads(evaluation.read_text())["top1"] > 0.9, "the model that it ends with is one to be proud of"
