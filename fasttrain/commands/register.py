"""`register`: register a finished run's model in MLflow, in a form that MLflow can load and serve."""

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
from fasttrain.errors import UserError, first_line
from fasttrain.extras import DISTRIBUTION
from fasttrain.model.factory import ModelSpec
from fasttrain.tracking.record import RECORD, Record
from fasttrain.tracking.store import Store, local_uri, set_environment, shown

ARTIFACT = "mlflow-model"
_CODE = Path(fasttrain.__file__).parent / "tracking" / "mlflow_model.py"  # MLflow runs it; importing it needs MLflow


@dataclass(frozen=True)
class Registered:
    """A version of a registered model in MLflow.

    `name`, `version`: the name of the registered model and the version's number, from 1. `run_id`: the MLflow run of
    the model. `store`: the tracking URI of the MLflow store, without a password.
    """

    name: str
    version: int
    run_id: str
    store: str

    @property
    def uri(self) -> str:
        """Return "models:/NAME/VERSION", for `mlflow.pyfunc.load_model` and `mlflow models serve`."""
        return f"models:/{self.name}/{self.version}"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "uri": self.uri}


def register(run: str | Path, name: str) -> Registered:
    """Log the model of the run folder `run` to its MLflow run, and register it as the next version of `name`.

    The registered model takes the bytes of image files. Raises UserError if the run isn't tracked in MLflow, if its
    model was passed as an object that MLflow can't create again, or if MLflow's store refuses the model.
    """
    folder = RunFolder(user_path(run))
    set_environment()
    uri, run_id = _where(folder.path)
    _, spec = load_trained(folder.path)
    if spec.name.endswith("()"):
        raise UserError(
            f"{run}: {spec.name} was passed as an object, which MLflow can't create again; train with "
            "--model package.module:function"
        )
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
        reason = first_line(error)
        raise UserError(
            f"{run}: MLflow could not register the model as '{name}' in {shown(uri)} ({reason}); check the name and "
            "the store"
        ) from error
    return Registered(name, int(made.version), run_id, shown(uri))


def _where(folder: Path) -> tuple[str, str]:
    """Return the URI of the run's MLflow store, with its password, and the run's id in MLflow.

    Raises UserError if the run isn't tracked in MLflow, or not yet in the store.
    """
    try:
        record = Record.load(folder / RECORD)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / RECORD} can't be read ({error}); give another run folder") from None
    if record is None and not folder.is_dir():
        raise UserError(f"{folder}: no such run folder; give the folder of a finished run")
    if record is None:
        raise UserError(f"{folder}: no {RECORD}, as the run was not tracked in MLflow; train with --track mlflow")
    configured = os.environ.get("MLFLOW_TRACKING_URI") or local_uri()
    if record.uri is None or record.run_id is None:
        raise UserError(
            f"{folder}: the run is not in its MLflow store yet; run `fasttrain runs --deliver {folder}` first"
        )
    return (configured if shown(configured) == record.uri else record.uri), record.run_id


def _save(folder: RunFolder, spec: ModelSpec, out: Path) -> None:
    """Write the model in MLflow's format to the folder `out / "model"`."""
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
    loaders = ("ffcv", "nvidia-dali")  # needed for training only
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
