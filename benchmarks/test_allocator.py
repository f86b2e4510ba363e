"""A training step in a process whose malloc keeps what a step frees, and in one as glibc has it by default."""

from __future__ import annotations

import statistics
import subprocess
import sys

import pytest

STEP = """
import sys, time, torch
sys.path.insert(0, sys.argv[1])
from fasttrain.device import keep_freed_memory
if sys.argv[2] == "kept":
    assert keep_freed_memory(torch.device("cpu"))
import test_train_step
test_train_step.BATCH = 32
step = test_train_step.make_step("mobilenetv2_100", channels_last=True)
print(test_train_step.rates({"step": step}, rounds=6)["step"])
"""


def test_allocator(short, results, request):
    if short or not sys.platform.startswith("linux"):
        pytest.skip("a long one, for Linux")
    found: dict[str, list[float]] = {"as glibc does it": [], "kept": []}
    for _ in range(3):
        for name, rates in found.items():
            command = [sys.executable, "-c", STEP, str(request.path.parent), name]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            rates.append(float(said.split()[-1]))
    part = {name: statistics.median(rates) for name, rates in found.items()}
    results.add("allocator", part)
    rows = [[name, f"{rate:.1f}", f"{rate / part['as glibc does it']:.2f}"] for name, rate in part.items()]
    results.add_table("allocator", ["mobilenetv2_100, a step of 32, freed memory", "img/s", "ratio"], rows)
