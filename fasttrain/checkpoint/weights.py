"""Find the file of weights for `--checkpoint`. This needs no torch, so a mistyped path is reported at once."""

from __future__ import annotations

from pathlib import Path

from fasttrain.config.load import read_toml
from fasttrain.errors import UserError

WEIGHTS = "model.safetensors"
_CONFIG = "config.toml"
_LATEST, _RUNS = Path("latest"), Path("runs")


def weights_file(path: Path) -> Path:
    """Return `path`, or the best epoch's weights if it is a run folder.

    The path "latest" is the newest run in `runs`. Raises UserError if there are no weights.
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
        raise UserError(f"{path}: not a run folder, but it holds some; give --checkpoint one, such as {runs[0].parent}")
    what = f"no {WEIGHTS} in it" if path.is_dir() else "no such file"
    raise UserError(f"{path}: {what}; give --checkpoint a run folder, its {WEIGHTS} or a checkpoint")


def data_of_run(weights: Path) -> str | None:
    """Return the training data of the run that wrote `weights`, a model file or checkpoint; None if unknown."""
    for folder in weights.absolute().parents[:2]:
        if (folder / _CONFIG).is_file():
            return read_toml(folder / _CONFIG).get("data")
    return None


def _newest_first(runs: Path) -> list[Path]:
    return sorted(runs.glob(f"*/{WEIGHTS}"), key=lambda each: each.stat().st_mtime, reverse=True)
