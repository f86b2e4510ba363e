"""Find the file of weights for `--checkpoint`. This needs no torch, so a wrong path is reported at once."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from fasttrain.config.load import read_toml
from fasttrain.errors import UserError
from fasttrain.text import nearest

WEIGHTS = "model.safetensors"
EXPORTED = (".onnx", ".xml")
"""The suffixes of exported files that a runtime opens: ONNX and OpenVINO."""

_OTHER_EXPORTS = (".mlpackage.zip", ".pt2", ".pte", ".tflite", ".torchscript")
_CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth")
_CONFIG, _MODEL_SPEC = "config.toml", "model.json"
_LATEST, _RUNS = Path("latest"), Path("runs")


def weights_file(path: Path, *, exported: bool = False) -> Path:
    """Return the file of weights for `path`.

    For a run folder return its `model.safetensors`, for "latest" that of the newest run in the folder `runs`, and for a
    file the file itself. `exported`: whether an exported `.onnx` or `.xml` file is accepted, too. Raises UserError,
    which says what to give instead, if there is no such file or if it is of another kind.
    """
    give = f"give a run folder, its {WEIGHTS}" + (
        ", a checkpoint or an exported .onnx or .xml file" if exported else " or a checkpoint"
    )
    if path == _LATEST and not path.exists():
        if not (newest := _newest_first(_RUNS)):
            raise UserError(f"latest: {_RUNS} holds no run with a {WEIGHTS}; give a run folder")
        return newest[0]
    if path.is_file():
        if (what := _other_kind(path, exported)) is not None:
            run = path.parent if (path.parent / WEIGHTS).is_file() else None
            raise UserError(f"{path}: {what}; {give if run is None else f'give its run folder, {run}'}")
        return path
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    if runs := _newest_first(path):
        raise UserError(f"{path}: a folder of runs; give one of these, such as {runs[0].parent}")
    if path.is_dir():
        raise UserError(f"{path}: no {WEIGHTS} in it; {give}")
    raise UserError(f"{path}: no such file{nearest(path.name, _models_in(path.parent, exported)) or f'; {give}'}")


def newest_if_latest(run: Path) -> Path:
    """Return the newest run's folder if `run` is "latest", else `run`. Raises UserError if `run` has no weights."""
    weights = weights_file(run)
    return weights.parent if run == _LATEST else run


def data_of_run(weights: Path) -> str | None:
    """Return the location of the data on which a run was trained, or None if there is no `config.toml` that says it.

    `weights`: the run's `model.safetensors` or one of its checkpoints.
    """
    for folder in weights.absolute().parents[:2]:
        if (folder / _CONFIG).is_file():
            return read_toml(folder / _CONFIG).get("data")
    return None


def _newest_first(runs: Path) -> list[Path]:
    return sorted(runs.glob(f"*/{WEIGHTS}"), key=lambda each: each.stat().st_mtime, reverse=True)


def _models_in(folder: Path, exported: bool) -> list[str]:
    """Return the names of the run folders and of the files in `folder` that `weights_file` may accept."""
    suffixes = _CHECKPOINT_SUFFIXES + (EXPORTED if exported else ())
    try:
        found = sorted(folder.iterdir())
        return [each.name for each in found if each.suffix.lower() in suffixes or (each / WEIGHTS).is_file()]
    except OSError:
        return []


def _other_kind(path: Path, exported: bool) -> str | None:
    """Return what the file `path` is if it isn't one that `weights_file` accepts, or None if it may be one.

    A damaged file of weights is reported by what reads it.
    """
    name = path.name.lower()
    if name.endswith(EXPORTED):
        return None if exported else "an exported file, but this command needs the run it was exported from"
    if name.endswith(_OTHER_EXPORTS):
        return "an exported file that fasttrain doesn't run"
    if (mimetypes.guess_type(name)[0] or "").startswith("image/"):
        return "a picture, not a model"
    of_run = path.suffix.lower() == ".safetensors" or (path.absolute().parent.parent / _MODEL_SPEC).is_file()
    return None if of_run else "not a checkpoint of a run"
