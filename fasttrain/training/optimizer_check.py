"""Check that the chosen timm optimizer works, by a trial step on a small tensor before a run folder is made."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from timm.optim import get_optimizer_info

from fasttrain.checkpoint.packing import pack, snapshot, unpack
from fasttrain.errors import UserError, fixable, one_line

_INSTEAD = "use another one, such as adamw"


def require_usable(
    name: str, kind: str, make: Callable[[torch.nn.Module], torch.optim.Optimizer], device: torch.device
) -> None:
    """Make two steps of the optimizer on a few parameters, then pack its state as for a checkpoint and load it again.

    `name` is the setting's value, `kind` timm's name without `lookahead_`, and `make` builds the optimizer of a model.
    The random generators keep their state. Raises UserError with the optimizer's name and the reason.
    """
    where = get_optimizer_info(kind).opt_class
    if isinstance(where, str) and find_spec(package := where.partition(".")[0]) is None:
        raise UserError(f"optimizer = '{name}' is {package}'s, and {package} is not installed; {_INSTEAD}")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            _step_and_load(make, device)
        except _Unsupported as error:
            raise UserError(f"optimizer = '{name}' {error}; {_INSTEAD}") from None
        except Exception as error:  # each of a hundred optimizers raises its own kind
            raise fixable(error) or UserError(
                f"optimizer = '{name}' can't train here ({type(error).__name__}: {one_line(error)[:200]}); {_INSTEAD}"
            ) from error


class _Unsupported(Exception):
    """Raised if the optimizer needs something that training here does not provide."""


def _step_and_load(make: Callable[[torch.nn.Module], torch.optim.Optimizer], device: torch.device) -> None:
    layers = torch.nn.Conv2d(2, 4, 3), torch.nn.Conv2d(4, 4, 1, groups=4), torch.nn.Linear(4, 2)
    model = torch.nn.Sequential(*layers).to(device).to(memory_format=torch.channels_last)
    optimizer = make(model)
    # Lookahead's optimizer, because timm 1.0.15 does not forward its attributes.
    wrapped = getattr(optimizer, "_base_optimizer", optimizer)
    if getattr(optimizer, "is_second_order", False) or getattr(wrapped, "is_second_order", False):
        raise _Unsupported("needs second derivatives, which are not computed here")
    if callable(getattr(optimizer, "train", None)):
        raise _Unsupported("must be switched to evaluation mode for validation, which is not done here")
    for _ in range(2):
        for parameter in model.parameters():
            gradient = torch.linspace(-1, 1, parameter.numel(), device=device).reshape(parameter.shape)
            parameter.grad = gradient.to(memory_format=torch.channels_last) if gradient.ndim == 4 else gradient
        optimizer.step()
    make(model).load_state_dict(unpack(*pack(snapshot(optimizer.state_dict()))))
