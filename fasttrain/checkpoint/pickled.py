"""Read checkpoints of schema 1 and 2, which were pickles (`last.pt`), without running code in them."""

from __future__ import annotations

import argparse
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from fasttrain.errors import TooNew, UserError
from fasttrain.model.zipped import require_honest_sizes

SCHEMA = 2
"""The last schema that was a pickle."""


def load_pickled(path: Path) -> dict[str, Any]:
    """Return the state in a checkpoint that an older fasttrain has pickled, converted to the form of schema 2.

    No code in the file is run. Raises UserError for a file that is damaged, holds code, is not a checkpoint, or has a
    newer schema. Raises OSError if the file can't be read.
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
    """Return the tensors and plain data in a file of `torch.save`. No code in the file is run.

    `what`: the expected kind of file, for the message, such as "file of weights". Raises UserError for a file that
    holds code or is damaged. Raises OSError if the file can't be read.
    """
    require_honest_sizes(path)
    try:
        # timm and torchvision store their command line in checkpoints as a Namespace, which holds no code.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # about files that are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a crafted pickle can raise anything
        message = " ".join(str(error).split()) or type(error).__name__
        if code := re.search(r"GLOBAL ([\w.]+)", message):
            raise UserError(
                f"{path}: refused, because it names code to run ({code[1]}), but a checkpoint has only tensors and "
                "plain data; none of the code was run"
            ) from error
        found = re.search(r"WeightsUnpickler error: (.{,60}?)(?: Check the documentation|$)", message)
        reason = f"{found[1]}; none of its code was run" if found else message[:120]
        raise UserError(f"{path}: not an intact {what} ({reason})") from error


def _schedule_of_schema_1(state: dict[str, Any]) -> dict[str, Any]:
    active, epochs = state["schedule"], state["config"]["epochs"]
    total = active.get("t_initial") or active.get("total_steps", epochs + 1) - 1
    return {"epochs": epochs, "steps_per_epoch": total // epochs, "position": state["step"], "active": active}
