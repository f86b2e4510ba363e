"""The list of loaders, and the choice of `auto`. A new loader is a new file and one line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fasttrain.errors import UserError
from fasttrain.text import nearest

if TYPE_CHECKING:
    from fasttrain.loaders.base import ShardLoader
    from fasttrain.shards.reader import ShardSet

LOADERS = {
    "native": "fasttrain.loaders.native:NativeLoader",
    "dali": "fasttrain.loaders.dali:DaliLoader",
    "ffcv": "fasttrain.loaders.ffcv:FfcvLoader",
    "torchvision": "fasttrain.loaders.torchvision:TorchvisionLoader",
}


def loader_class(name: str) -> type[ShardLoader]:
    """Return the class registered as `name`. Raises UserError, which suggests the nearest name."""
    if name not in LOADERS:
        names = ["auto", *LOADERS]
        raise UserError(f"loader = '{name}' is not one of {', '.join(names)}{nearest(name, names)}")
    module, _, attribute = LOADERS[name].partition(":")
    found: type[ShardLoader] = getattr(import_module(module), attribute)
    return found


def choose_loader(name: str, shards: ShardSet, device: str) -> tuple[type[ShardLoader], str]:
    """Return the loader to use and a line that says why.

    With `name` "auto" this is the available loader that is fastest on `device`. Raises UserError if `name` is unknown,
    or if the loader can't read these shards on this machine.
    """
    if name != "auto":
        chosen = loader_class(name)
        if reason := chosen.unavailable(shards, device):
            raise UserError(f"loader = '{name}': {reason}")
        return chosen, f"{name}, as asked"
    fastest_first = sorted((loader_class(each) for each in LOADERS), key=lambda each: -each.preference(device))
    passed_over: list[str] = []
    for candidate in fastest_first:
        reason = candidate.unavailable(shards, device)
        if reason is None:
            why = "".join(f"; not {each}" for each in passed_over)
            return candidate, f"{candidate.name}, the fastest for {device} with these shards{why}"
        passed_over.append(f"{candidate.name}: {reason}")
    raise UserError(f"no loader can read {shards.location}: " + "; ".join(passed_over))


def loaders_to_try(name: str, shards: ShardSet, device: str) -> tuple[str, ...]:
    """Return the available loaders that may be faster than `name`: those that `auto` prefers to it, the best first.

    On CUDA, DALI is added last. It decodes on the GPU, so whether it is faster depends on the machine.
    """
    least = loader_class(name).preference(device)
    better = sorted(map(loader_class, LOADERS), key=lambda each: -each.preference(device))
    found = [each.name for each in better if each.preference(device) > least]
    if device.startswith("cuda") and name != "dali" and "dali" not in found:
        found.append("dali")
    return tuple(each for each in found if loader_class(each).unavailable(shards, device) is None)
