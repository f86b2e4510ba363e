"""How often a run is saved between the ends of its epochs, as people write it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}


@dataclass(frozen=True)
class SaveEvery:
    """Each `steps` optimizer steps, or each `seconds`; both None: at the end of each epoch only."""

    steps: int | None = None
    seconds: float | None = None


def parse_save_every(given: int | str) -> SaveEvery:
    """ "200" or 200 steps, "10min", "5m", "30s", "1.5h", "off". Raises ValueError, one line, for anything else."""
    text = str(given).strip().lower()
    if text == "off":
        return SaveEvery()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h)", text)
    if found:
        seconds = float(found[1]) * _SECONDS[found[2]]
        if seconds < 1:
            raise ValueError(f"save_every = '{given}' is out of range: the nearest valid value is 1s")
        return SaveEvery(seconds=seconds)
    if not re.fullmatch(r"-?\d+", text):
        raise ValueError(f"save_every = '{given}' is not understood; write 200 (steps), 10min, or off")
    if int(text) < 1:
        raise ValueError(f"save_every = {given} is out of range: the nearest valid value is 1, or off")
    return SaveEvery(steps=int(text))
