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

SECONDS, ROUNDS = 5, 3
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
for line in sys.stdin:
    step()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < float(line):
        step()
        steps += 1
    print(BATCH * steps / (time.perf_counter() - began), flush=True)
"""


@pytest.fixture(autouse=True)
def _long(short):
    if short:
        pytest.skip("not in the short form")


class Training:
    """A process that trains when it is asked to, with the environment `setting`."""

    def __init__(self, setting: dict[str, str]) -> None:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self._process = subprocess.Popen([sys.executable, "-c", TRAIN], env=ours | setting, **pipes)

    def rate(self, seconds: float, others: int) -> float:
        """Return img/s over `seconds`, beside `others` processes that never rest."""
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
        try:
            print(seconds, file=self._process.stdin)
            return float(self._process.stdout.readline())
        finally:
            for process in busy:
                process.kill()
                process.wait()

    def close(self) -> None:
        self._process.communicate()


def test_busy_machine(results):
    trainings = {name: Training(setting) for name, setting in SETTINGS.items()}
    found: dict[str, dict[int, list[float]]] = {name: {0: [], 1: []} for name in SETTINGS}
    for training in trainings.values():
        training.rate(0, 0)
    for _ in range(ROUNDS):
        for name, training in trainings.items():
            for others, rates in found[name].items():
                rates.append(training.rate(SECONDS, others))
    for training in trainings.values():
        training.close()
    medians = {
        name: {str(others): statistics.median(each) for others, each in of.items()} for name, of in found.items()
    }
    results.add("busy_machine", medians)
    idle, busy = medians["default"].values()
    rows = [
        [name, f"{of['0']:.1f}", f"{of['0'] / idle:.2f}", f"{of['1']:.1f}", f"{of['1'] / busy:.2f}"]
        for name, of in medians.items()
    ]
    header = ["mobilenetv2_100, a step of 16", "idle, img/s", "against default"]
    results.add_table("busy_machine", [*header, "beside one busy process, img/s", "against default"], rows)
