"""A training step on a machine whose cores another process also wants, with settings of OpenMP's threads.

OpenMP's threads wait for each other by spinning. Where another process takes one thread's core, the others spin until
it is given back. Each setting is an own process, since OpenMP reads the settings once; the settings take turns.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

import pytest

from fasttrain.cores import usable_cores

SECONDS, ROUNDS = 6, 3
SETTINGS = {
    "default": {},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=100000": {"GOMP_SPINCOUNT": "100000"},
    "one thread less": {"OMP_NUM_THREADS": str(max(1, usable_cores() - 1))},
}
TRAIN = """
import sys, time
from benchmarks.test_train_step import BATCH, make_step
step = make_step("mobilenetv2_100", channels_last=True)
step(), step()
began, steps = time.perf_counter(), 0
while time.perf_counter() - began < float(sys.argv[1]):
    step()
    steps += 1
print(BATCH * steps / (time.perf_counter() - began))
"""


@pytest.fixture(autouse=True)
def _long(short):
    if short:
        pytest.skip("not in the short form")


def rate(setting: dict[str, str], others: int) -> float:
    """Return the img/s of a training process with the environment `setting`, beside `others` processes that spin."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
    try:
        command = [sys.executable, "-c", TRAIN, str(SECONDS)]
        return float(subprocess.check_output(command, env=environment | setting, text=True))
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def test_busy_machine(results):
    found: dict[str, dict[int, list[float]]] = {name: {0: [], 1: []} for name in SETTINGS}
    for _ in range(ROUNDS):
        for name, setting in SETTINGS.items():
            for others, rates in found[name].items():
                rates.append(rate(setting, others))
    medians = {name: {others: statistics.median(each) for others, each in of.items()} for name, of in found.items()}
    results.add(
        "busy_machine", {name: {str(others): value for others, value in of.items()} for name, of in medians.items()}
    )
    idle, busy = medians["default"].values()
    rows = [
        [name, f"{of[0]:.1f}", f"{of[0] / idle:.2f}", f"{of[1]:.1f}", f"{of[1] / busy:.2f}"]
        for name, of in medians.items()
    ]
    header = ["mobilenetv2_100, a step of 16", "idle, img/s", "against default"]
    results.add_table("busy_machine", [*header, "beside one busy process, img/s", "against default"], rows)
