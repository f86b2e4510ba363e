"""Check that the chosen timm optimizer works, by a trial step on a small tensor before a run folder is made."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from timm.optim import get_optimizer_info

from fasttrain.checkpoint.packing import pack, snapshot, unpack
from fasttrain.errors import UserError, fixable, one_line

_INSTEAD = "use another optimizer, such as adamw"


def require_usable(
    name: str, kind: str, make: Callable[[torch.nn.Module], torch.optim.Optimizer], device: torch.device
) -> None:
    """Raise UserError if fasttrain can't train with an optimizer. The message has the optimizer's name and the reason.

    The optimizer makes two steps on a few parameters. Its state is packed as for a checkpoint, and loaded again.
    `name`: the setting's value. `kind`: timm's name, without `lookahead_`. `make`: builds the optimizer for a model.
    The random generators keep their state.
    """
    where = get_optimizer_info(kind).opt_class
    if isinstance(where, str) and find_spec(package := where.partition(".")[0]) is None:
        raise UserError(f"optimizer = '{name}' needs the package {package}, which is not installed; {_INSTEAD}")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            _step_and_load(make, device)
        except _Unsupported as error:
            raise UserError(f"optimizer = '{name}' {error}; {_INSTEAD}") from None
        except Exception as error:  # each of a hundred optimizers raises its own kind
            raise fixable(error) or UserError(
                f"optimizer = '{name}' fails when tried ({type(error).__name__}: {one_line(error)[:200]}); {_INSTEAD}"
            ) from error


class _Unsupported(Exception):
    """Raised if the optimizer needs something that fasttrain's training does not provide."""


def _step_and_load(make: Callable[[torch.nn.Module], torch.optim.Optimizer], device: torch.device) -> None:
    layers = torch.nn.Conv2d(2, 4, 3), torch.nn.Conv2d(4, 4, 1, groups=4), torch.nn.Linear(4, 2)
    model = torch.nn.Sequential(*layers).to(device).to(memory_format=torch.channels_last)
    optimizer = make(model)
    # Lookahead's optimizer, because timm 1.0.15 does not forward its attributes.
    wrapped = getattr(optimizer, "_base_optimizer", optimizer)
    if getattr(optimizer, "is_second_order", False) or getattr(wrapped, "is_second_order", False):
        raise _Unsupported("needs second derivatives, which fasttrain does not compute")
    if callable(getattr(optimizer, "train", None)):
        raise _Unsupported("must be switched to evaluation mode for validation, which fasttrain does not do")
    for _ in range(2):
        for parameter in model.parameters():
            gradient = torch.linspace(-1, 1, parameter.numel(), device=device).reshape(parameter.shape)
            parameter.grad = gradient.to(memory_format=torch.channels_last) if gradient.ndim == 4 else gradient
        optimizer.step()
    make(model).load_state_dict(unpack(*pack(snapshot(optimizer.state_dict()))))
