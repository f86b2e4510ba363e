"""Checkpoints of schema 1 and 2, which were pickles (`last.pt`): read without running code, and migrated."""

from __future__ import annotations

import argparse
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from fasttrain.errors import UserError
from fasttrain.model.zipped import require_honest_sizes

SCHEMA = 2
"""The last one that was a pickle."""


class TooNew(UserError):
    """An intact checkpoint of a schema that this fasttrain doesn't know."""


def load_pickled(path: Path) -> dict[str, Any]:
    """The state in `path`, as the newest schema has it, read with `weights_only=True`.

    Raises UserError for a file that is torn, holds code, is no checkpoint or of a newer schema; OSError.
    """
    state = load_tensors_only(path, "fasttrain checkpoint")
    if not isinstance(state, dict) or not isinstance(state.get("schema"), int):
        raise UserError(f"{path}: not a fasttrain checkpoint; give --weights a file of bare weights")
    if state["schema"] > SCHEMA:
        raise TooNew(f"{path}: schema {state['schema']} is newer than this fasttrain reads; upgrade fasttrain")
    if state["schema"] == 1:
        state["schedule"] = _schedule_of_schema_1(state)
    return state


def load_tensors_only(path: Path, what: str) -> Any:
    """The tensors and plain data in `path`, which `torch.save` wrote; none of its code is run.

    Raises UserError for a file that holds code, or is not an intact `what`; OSError.
    """
    require_honest_sizes(path)
    try:
        # timm and torchvision keep their command line in their checkpoints: a class of attributes, without code.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # of what is then refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a made-up pickle can raise anything
        said = " ".join(str(error).split()) or type(error).__name__
        if code := re.search(r"GLOBAL ([\w.]+)", said):
            raise UserError(
                f"{path}: refused, as it names code to run ({code[1]}) where a checkpoint has tensors and plain data "
                "only; nothing of it was run"
            ) from error
        found = re.search(r"WeightsUnpickler error: (.{,60}?)(?: Check the documentation|$)", said)
        reason = f"{found[1]}; nothing of it was run" if found else said[:120]
        raise UserError(f"{path}: not an intact {what} ({reason})") from error


def _schedule_of_schema_1(state: dict[str, Any]) -> dict[str, Any]:
    active, epochs = state["schedule"], state["config"]["epochs"]
    total = active.get("t_initial") or active.get("total_steps", epochs + 1) - 1
    return {"epochs": epochs, "steps_per_epoch": total // epochs, "position": state["step"], "active": active}
