"""Memory that a step frees stays with the process, so that the next step's pages need not be cleared again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COUNT = """
import resource, torch
from fasttrain.device import keep_freed_memory
kept = keep_freed_memory(torch.device("cpu"))
for number in range(10):
    if number == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    activations = [torch.ones(48 << 18) for _ in range(4)]
    del activations
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> tuple[str, int]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    plain.pop("GLIBC_TUNABLES", None)
    done = subprocess.run([sys.executable, "-c", COUNT], env={**plain, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept, count = done.stdout.split()
    return kept, int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux") or "LD_PRELOAD" in os.environ, reason="glibc's own malloc")
@pytest.mark.slow
def test_the_next_step_finds_its_pages_there():
    kept, few = faults()
    untouched, many = faults(MALLOC_ARENA_MAX="8")  # who tunes malloc is left alone
    assert (kept, untouched) == ("True", "False")
    assert many > 10_000 and few < many / 10
