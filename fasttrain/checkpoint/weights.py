"""Find the file of weights for `--checkpoint`. This needs no torch, so a mistyped path is reported at once."""

from __future__ import annotations

from pathlib import Path

from fasttrain.config.load import read_toml
from fasttrain.errors import UserError

WEIGHTS = "model.safetensors"
_CONFIG = "config.toml"
_LATEST, _RUNS = Path("latest"), Path("runs")


def weights_file(path: Path) -> Path:
    """Return the file of weights for `path`.

    For a run folder return its `model.safetensors`, for "latest" that of the newest run in the folder `runs`, and for a
    file the file itself. Raises UserError if there is no such file.
    """
    if path == _LATEST and not path.exists():
        if not (newest := _newest_first(_RUNS)):
            raise UserError(f"latest: {_RUNS} holds no run with a {WEIGHTS}; give --checkpoint a run folder")
        return newest[0]
    if path.is_file():
        return path
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    if runs := _newest_first(path):
        raise UserError(f"{path}: a folder of runs; give --checkpoint one of these, such as {runs[0].parent}")
    what = f"no {WEIGHTS} in it" if path.is_dir() else "no such file"
    raise UserError(f"{path}: {what}; give --checkpoint a run folder, its {WEIGHTS} or a checkpoint")


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
