"""The model that MLflow loads: MLflow runs this file, which `fasttrain register` puts beside a run's weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from fasttrain.evaluation.inputs import Refused
from fasttrain.evaluation.predict import Predictor


class Classifier(mlflow.pyfunc.PythonModel):
    """A run's model: rows with the bytes of a photograph in, rows with its likeliest classes out."""

    def load_context(self, context: Any) -> None:
        """Load the weights."""
        self._weights = Path(context.artifacts["run"])
        self._predictors: dict[int, Predictor] = {}

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return the columns `classes` and `probabilities`, likeliest first, for the files in the column `image`.

        Raises ValueError, which names the row, for a file that is no photograph.
        """
        top_k = int((params or {}).get("top_k", 5))
        if top_k not in self._predictors:
            self._predictors[top_k] = Predictor(self._weights, top_k=top_k)
        with tempfile.TemporaryDirectory(prefix="fasttrain-mlflow-") as folder:
            paths = [Path(folder) / f"{row}.jpg" for row in range(len(model_input))]
            for path, content in zip(paths, model_input["image"], strict=True):
                path.write_bytes(content)
            found = list(self._predictors[top_k].stream(paths, _refuse))
        columns = {"classes": [list(each.classes) for each in found]}
        return pd.DataFrame({**columns, "probabilities": [list(each.probabilities) for each in found]})


def _refuse(what: Refused) -> None:
    path, _, reason = str(what).partition(": ")
    raise ValueError(f"row {Path(path).stem}: {reason}")


mlflow.models.set_model(Classifier())
