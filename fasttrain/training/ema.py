"""The exponential moving average of the weights (`--ema-decay`): timm's results with less work on the host."""

from __future__ import annotations

from typing import Any

import torch
from timm.utils import ModelEmaV3

_Places = list[tuple[dict[str, Any], dict[str, Any], str]]


class Ema(ModelEmaV3):
    """The EMA of timm's ModelEmaV3, updated in less time.

    timm calls `state_dict` on both models in each step, which takes the host over a millisecond, and copies each batch
    counter on its own. This class looks up the tensors once, averages all floating-point tensors in one operation, and
    copies all others in another. It keeps the dict and the name of each tensor, because a module may replace a tensor.
    """

    _places: _Places | None = None

    def apply_update_(self, model: torch.nn.Module, decay: float) -> None:
        """Set each floating-point value to `decay` * value + (1 - `decay`) * the value in `model`. Copy all others."""
        if self._places is None:
            self._places = _places(self.module, model)
        pairs = [(own[name], theirs[name]) for own, theirs, name in self._places]
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        copied = [pair for pair in pairs if not pair[0].is_floating_point()]
        if any(mine.dtype.itemsize < 4 for mine, _ in averaged):  # timm rounds half precision differently
            super().apply_update_(model, decay)
            return
        torch._foreach_lerp_([mine for mine, _ in averaged], [other for _, other in averaged], weight=1.0 - decay)
        if copied:
            torch._foreach_copy_([mine for mine, _ in copied], [other for _, other in copied])


def _places(average: torch.nn.Module, model: torch.nn.Module) -> _Places:
    """Return where each tensor of both `state_dict`s is kept: a dict of each module, and the tensor's name in them."""
    found: _Places = []
    seen: set[int] = set()
    for own, theirs in zip(average.modules(), model.modules(), strict=True):
        for mine, other in ((own._parameters, theirs._parameters), (own._buffers, theirs._buffers)):
            for name, tensor in mine.items():
                # A tensor that two modules share is averaged once.
                if tensor is not None and name not in own._non_persistent_buffers_set and id(tensor) not in seen:
                    seen.add(id(tensor))
                    found.append((mine, other, name))
    return found
