"""Which file `--checkpoint` means; a mistyped path is told before torch takes its seconds to import."""

from __future__ import annotations

from pathlib import Path

from fasttrain.errors import UserError

WEIGHTS = "model.safetensors"


def weights_file(path: Path) -> Path:
    """`path` itself, or the best epoch's weights in the run folder `path`. Raises UserError where there are none."""
    if path.is_file():
        return path
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    runs = sorted(path.glob(f"*/{WEIGHTS}"), key=lambda each: each.stat().st_mtime)
    if runs:
        raise UserError(f"{path}: no run folder, it holds some; give --checkpoint one, the newest is {runs[-1].parent}")
    what = f"no {WEIGHTS} in it" if path.is_dir() else "no such file"
    raise UserError(f"{path}: {what}; give --checkpoint a run folder, its {WEIGHTS} or a checkpoint")
