"""The optimizer's part of a checkpoint: moments by parameter name, for an optimizer whose settings may have changed."""

from __future__ import annotations

from typing import Any

import torch

# Settings and schedules write these into a parameter group. Anything else in it, such as a step count, is state.
_SETTINGS = frozenset(
    {
        *("lr", "lr_scale", "weight_decay", "momentum", "nesterov", "betas"),
        *("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"),
    }
)


def parameter_names(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> list[str]:
    """Return the names of `optimizer`'s parameters in `model`, in the order in which its state_dict numbers them."""
    names = {id(each): name for name, each in model.named_parameters()}
    return [names[id(each)] for group in optimizer.param_groups for each in group["params"]]


def load_optimizer(optimizer: torch.optim.Optimizer, model: torch.nn.Module, kind: str, saved: dict[str, Any]) -> None:
    """Give `optimizer` the moments in `saved`. The optimizer's rates, weight decay, momentum and groups don't change.

    `kind`: the optimizer's name. `saved`: the state_dict of an optimizer, with its name as "kind" and the names of its
    parameters, from `parameter_names`, as "names". A parameter without saved moments starts without moments. All
    parameters do if `saved` is of another kind, or if it is from an older version without "names" and the sizes of the
    parameter groups have changed.
    """
    own = optimizer.state_dict()
    names = parameter_names(optimizer, model)
    sizes = [[len(group["params"]) for group in each["param_groups"]] for each in (own, saved)]
    before = saved.get("names", names if sizes[0] == sizes[1] else [])
    if saved["kind"] != kind or not before:
        return
    number = {name: at for at, name in enumerate(before)}
    group_of = {at: group for group in saved["param_groups"] for at in group["params"]}
    groups = []
    for group in own["param_groups"]:
        known = (number[names[at]] for at in group["params"] if names[at] in number)
        then = group_of.get(next(known, -1), {})
        merged = {name: each for name, each in then.items() if name not in _SETTINGS or name in group}
        groups.append(merged | {name: each for name, each in group.items() if name in _SETTINGS or name not in then})
        groups[-1]["params"] = group["params"]
    here = {name: at for at, name in enumerate(names)}
    moments = {here[before[at]]: each for at, each in saved["state"].items() if before[at] in here}
    optimizer.load_state_dict({**saved, "state": moments, "param_groups": groups})
    _lay_out_like_parameters(optimizer)


def _lay_out_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    # Fused kernels read parameters and moments in memory order, and the `channels_last` setting may have changed.
    for parameter, state in optimizer.state.items():
        for name, each in state.items():
            if isinstance(each, torch.Tensor) and each.shape == parameter.shape and each.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=each.dtype).copy_(each)
