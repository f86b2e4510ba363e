"""Stand-ins for loaders, registered as any new loader would be."""

from __future__ import annotations

import pytest

from fasttrain.loaders.registry import LOADERS


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch):
    for name in ("Instant", "Slow"):
        monkeypatch.setitem(LOADERS, name.lower(), f"tests.profiling.stand_ins:{name}Loader")
