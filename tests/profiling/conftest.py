"""Stand-ins for loaders, registered as any new loader would be, and a clock that only they and the tests advance."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import fasttrain.profiling.measure as measuring
from fasttrain.loaders.registry import LOADERS
from tests.profiling import stand_ins
from tests.profiling.stand_ins import Clock


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch):
    for name in ("Instant", "Slow"):
        monkeypatch.setitem(LOADERS, name.lower(), f"tests.profiling.stand_ins:{name}Loader")


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> Clock:
    """The clock of the measurements: what they find does not depend on the machine, nor on what else it does."""
    clock = Clock()
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    monkeypatch.setattr(stand_ins, "sleep", clock.sleep)
    return clock
