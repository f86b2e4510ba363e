"""Find the file that `--checkpoint` means, and report a mistyped path before torch is imported, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from fasttrain.errors import UserError

WEIGHTS = "model.safetensors"


def weights_file(path: Path) -> Path:
    """Return `path`, or the best epoch's weights if it is a run folder. Raises UserError if there are none."""
    if path.is_file():
        return path
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    runs = sorted(path.glob(f"*/{WEIGHTS}"), key=lambda each: each.stat().st_mtime)
    if runs:
        raise UserError(
            f"{path}: not a run folder, but it holds some; give --checkpoint one, such as {runs[-1].parent}"
        )
    what = f"no {WEIGHTS} in it" if path.is_dir() else "no such file"
    raise UserError(f"{path}: {what}; give --checkpoint a run folder, its {WEIGHTS} or a checkpoint")
