"""The model that MLflow loads. `fasttrain register` puts this file beside a run's weights, and MLflow runs it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from fasttrain.evaluation.inputs import Refused
from fasttrain.evaluation.predict import Predictor


class Classifier(mlflow.pyfunc.PythonModel):
    """A run's model for MLflow: it takes a table of photographs and returns a table of their likeliest classes."""

    def load_context(self, context: Any) -> None:
        """Note the path of the weights, which are loaded with the first prediction."""
        self._weights = Path(context.artifacts["run"])
        self._predictors: dict[int, Predictor] = {}

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return a table with the columns `classes` and `probabilities`, lists with the likeliest class first.

        `model_input`: a table whose column `image` has the bytes of one photograph's file per row. `params["top_k"]`:
        the number of classes per photograph, 5 by default. The result has the same rows. Raises ValueError, which names
        the row, for bytes that are not a photograph.
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


def _refuse(refused: Refused) -> None:
    path, _, reason = str(refused).partition(": ")
    raise ValueError(f"row {Path(path).stem}: {reason}")


mlflow.models.set_model(Classifier())
