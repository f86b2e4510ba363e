"""`register`: a finished run's model in MLflow, as one that MLflow loads and serves, in its registry."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fasttrain
from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.checkpoint.trained import load_trained
from fasttrain.commands.provenance import versions
from fasttrain.config.location import user_path
from fasttrain.errors import UserError
from fasttrain.extras import DISTRIBUTION
from fasttrain.model.factory import ModelSpec
from fasttrain.tracking.record import RECORD, Record
from fasttrain.tracking.store import Store, local_uri, set_environment, shown

ARTIFACT = "mlflow-model"
_CODE = Path(fasttrain.__file__).parent / "tracking" / "mlflow_model.py"  # which MLflow runs; imported, it needs MLflow


@dataclass(frozen=True)
class Registered:
    """A version of a registered model, the MLflow run that it is from, and the store."""

    name: str
    version: int
    run_id: str
    store: str

    @property
    def uri(self) -> str:
        """The model that `mlflow.pyfunc.load_model` and `mlflow models serve` load."""
        return f"models:/{self.name}/{self.version}"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "uri": self.uri}


def register(run: str | Path, name: str) -> Registered:
    """Log the model of the run folder `run` to its MLflow run, and register it as the next version of `name`.

    The model takes the bytes of photographs. Raises UserError where the run has no MLflow run, or the store refuses.
    """
    folder = RunFolder(user_path(run))
    set_environment()
    uri, run_id = _where(folder.path)
    _, spec = load_trained(folder.path)
    if spec.name.endswith("()"):
        raise UserError(f"{run}: {spec.name} was passed as an object, which MLflow could not make again")
    try:
        client = Store(uri).client
        with tempfile.TemporaryDirectory(prefix="fasttrain-register-") as temporary:
            _save(folder, spec, Path(temporary))
            client.log_artifacts(run_id, str(Path(temporary) / "model"), ARTIFACT)
        if not client.search_registered_models(f"name='{name}'"):
            client.create_registered_model(name)
        source = f"{client.get_run(run_id).info.artifact_uri}/{ARTIFACT}"
        made = client.create_model_version(name, source, run_id)
    except Exception as error:  # MLflow's, requests', the database's, OSError
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"MLflow: {shown(uri)} did not register {run} as '{name}' ({said})") from error
    return Registered(name, int(made.version), run_id, shown(uri))


def _where(folder: Path) -> tuple[str, str]:
    """Return the URI of the store, with its password, and the run's id there. Raises UserError."""
    try:
        record = Record.load(folder / RECORD)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / RECORD}: it can't be read ({error})") from None
    if record is None:
        raise UserError(f"{folder}: no {RECORD}, as it was trained with --no-track; train with tracking to register it")
    configured = os.environ.get("MLFLOW_TRACKING_URI") or local_uri()
    if record.uri is None or record.run_id is None:
        raise UserError(
            f"{folder}: its MLflow store does not have it yet; run `fasttrain runs --deliver {folder}` first"
        )
    return (configured if shown(configured) == record.uri else record.uri), record.run_id


def _save(folder: RunFolder, spec: ModelSpec, out: Path) -> None:
    """Write MLflow's folder of the model to `out / "model"`."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    (out / "run").mkdir()
    for path in (folder.model, folder.model_spec):
        shutil.copyfile(path, out / "run" / path.name)
    lists = {"classes": DataType.string, "probabilities": DataType.double}
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema([ColSpec(Array(kind), name) for name, kind in lists.items()]),
        params=ParamSchema([ParamSpec("top_k", DataType.long, 5)]),
    )
    loaders = ("ffcv", "nvidia-dali")  # for training alone
    packages = {package: each for package, each in versions().items() if not package.startswith(loaders)}
    packages = {DISTRIBUTION: packages.pop("fasttrain"), **packages}
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mlflow.pyfunc.save_model(
                out / "model",
                python_model=str(_CODE),
                artifacts={"run": str(out / "run")},
                signature=signature,
                pip_requirements=[f"{package}=={each.partition('+')[0]}" for package, each in packages.items()],
                metadata={"classes": list(spec.classes), "model": spec.name, "multi_label": spec.multi_label},
            )
    finally:
        logger.setLevel(level)
