"""An optimizer's part of a checkpoint: its moments by parameter, loaded into one that may have other settings."""

from __future__ import annotations

from typing import Any

import torch

# What settings and schedules write into a group of parameters. The rest of it (a count of steps, say) is state.
_SETTINGS = frozenset(
    {
        *("lr", "lr_scale", "weight_decay", "momentum", "nesterov", "betas"),
        *("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"),
    }
)


def parameter_names(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> list[str]:
    """The names of `optimizer`'s parameters in `model`, in the order in which its state_dict numbers them."""
    names = {id(each): name for name, each in model.named_parameters()}
    return [names[id(each)] for group in optimizer.param_groups for each in group["params"]]


def load_optimizer(optimizer: torch.optim.Optimizer, model: torch.nn.Module, kind: str, saved: dict[str, Any]) -> None:
    """Gives `optimizer` the moments in `saved`; its settings (rates, decay, momentum, groups) stay as they are.

    `saved` is a state_dict with "kind", and "names" as `parameter_names` gives them, which older checkpoints lack.
    Parameters that didn't train before begin without moments; so do all where the optimizer is of another kind, or
    where an older checkpoint doesn't say whose moments it holds.
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
    # Fused kernels walk parameters and moments side by side in memory: `channels_last` may be another one by now.
    for parameter, state in optimizer.state.items():
        for name, each in state.items():
            if isinstance(each, torch.Tensor) and each.shape == parameter.shape and each.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=each.dtype).copy_(each)
