"""`replay`: repeat the step at which a run diverged, and find the cause."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fasttrain.config.location import user_path
from fasttrain.report.contact_sheet import contact_sheet, save_sheet
from fasttrain.training.diverged import DivergedStep, find_diverged
from fasttrain.training.replay import Replay, run_again

_SHOWN = 64  # photographs on a sheet


def replay(where: str | Path, *, device: str = "auto", sheet: str | Path | None = None) -> Replay:
    """Repeat the step at which a run's loss became NaN or infinite, and return where this began.

    `where`: the run's folder, or its file `diverged.safetensors`. `sheet`: an image file to write with the photographs
    of the batch, or None for no picture. Raises UserError if the run has saved no such step.
    """
    path = find_diverged(user_path(where))
    saved = DivergedStep.load(path)
    found = run_again(saved, path, device)
    if sheet is None:
        return found
    drawn = user_path(sheet)
    _draw(saved, found, drawn)
    return replace(found, sheet=drawn)


def _draw(saved: DivergedStep, found: Replay, path: Path) -> None:
    """Write a picture of the batch of the failed step to `path`, with the samples that caused the failure first."""
    images, labels, _ = saved.batches[-1]
    tried, classes = found.tried[-1], found.facts["classes"]
    keys = found.facts["keys"][-len(labels) :]
    order = sorted(range(len(labels)), key=lambda row: (row not in tried.samples, row))[:_SHOWN]
    captions = [f"{keys[row]}\n{classes[int(labels[row])]}, loss {tried.losses[row]:.3g}" for row in order]
    save_sheet(contact_sheet(images[order].numpy(), captions, title=f"{found.path}: {found.why}"), path)
