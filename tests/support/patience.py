"""How long a test waits for what must happen. Only a hang takes so long, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 600  # seconds


def wait_until(true: Callable[[], bool], pause: float = 0.05) -> None:
    """Return once `true()` holds, which is asked every `pause` seconds. Fail after `PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(pause)
