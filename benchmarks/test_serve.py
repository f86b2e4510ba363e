"""CPU time of a photograph in `fasttrain serve` beside `predict`'s, latencies at half load, and a soak.

Service, client and `predict` are three processes; the client's CPU time counts nowhere. The service and `predict` take
turns on the same photographs. All requests go to a loopback address, and their number is bounded.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
from rounds import median_ratio

from tests.support.service import serving
from tests.support.soak import soak

CLIENTS, BATCH = 64, 64
PREDICT = """
import sys, time
from fasttrain.evaluation.predict import Predictor
predictor = Predictor(sys.argv[1], batch_size=int(sys.argv[2]), device="cpu")
for line in sys.stdin:
    paths = line.rstrip().split("\\t")
    began, cpu = time.perf_counter(), time.process_time()
    assert len(list(predictor.stream(paths))) == len(paths)
    print(time.perf_counter() - began, time.process_time() - cpu, flush=True)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory, photographs):
    """A run folder with mobilenetv2_100 for 224 px, untrained."""
    import timm

    from fasttrain.checkpoint.run_folder import RunFolder
    from fasttrain.config.geometry import Geometry
    from fasttrain.model.factory import model_spec

    classes = sorted(path.name for path in photographs.iterdir() if path.is_dir())
    made = timm.create_model("mobilenetv2_100", num_classes=len(classes))
    folder = RunFolder.create(tmp_path_factory.mktemp("runs"), "mobilenetv2_100")
    folder.write_model(made)
    folder.write_model_spec(model_spec(made, "mobilenetv2_100", classes, Geometry(224)))
    return folder.path


@pytest.fixture(scope="module")
def some(photographs, short):
    every = sorted(photographs.rglob("*.jp*g"))
    many = 128 if short else 640
    return [str(path) for path in every[:: max(len(every) // many, 1)][:many]]


class Predict:
    """A process that predicts when it is asked to."""

    def __init__(self, model: Path) -> None:
        command = [sys.executable, "-c", PREDICT, str(model), str(BATCH)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def run(self, paths: list[str]) -> tuple[float, float]:
        """Return seconds, and seconds of CPU time."""
        print("\t".join(paths), file=self._process.stdin)
        seconds, cpu = map(float, self._process.stdout.readline().split())
        return seconds, cpu

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def ask(address: str, paths: list[str], clients: int, rate: float = 0) -> tuple[float, list[float]]:
    """Send each photograph once; return seconds and latencies."""
    command = [sys.executable, str(Path(__file__).with_name("serve_client.py")), address]
    command += [str(clients), str(len(paths)), str(rate)]
    done = subprocess.run(command, input="".join(f"{path}\n" for path in paths), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found["seconds"], found["latencies"]


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def test_serve(model, some, short, results, tmp_path):
    rounds = 2 if short else 4
    predict = Predict(model)
    ours, theirs, rates = [], [], {CLIENTS: [], 1: []}
    with serving(model, tmp_path, "--timeout", "600", cold=True) as service:
        for number in range(rounds + 1):  # the first one warms up
            _, cpu = predict.run(some)
            before = cpu_seconds(service.process.pid)
            seconds, _ = ask(service.address, some, CLIENTS)
            spent = cpu_seconds(service.process.pid) - before
            if number:
                theirs.append(1000 * cpu / len(some))
                ours.append(1000 * spent / len(some))
                rates[CLIENTS].append(len(some) / seconds)
        predict.close()
        seconds, alone = ask(service.address, some[:200], 1)
        rates[1].append(len(alone) / seconds)
        half = statistics.median(rates[CLIENTS]) / 2
        _, latencies = ask(service.address, some, CLIENTS, rate=half)
    ms = {at: 1000 * float(np.percentile(latencies, at)) for at in (50, 95, 99)}
    part = {
        "cpu_ms": {"serve": statistics.median(ours), "predict": statistics.median(theirs)},
        "serve / predict": median_ratio(ours, theirs),
        "requests_a_second": {str(clients): statistics.median(found) for clients, found in rates.items()},
        "half_load": {"requests_a_second": half, **{f"p{at}_ms": found for at, found in ms.items()}},
        "alone_p50_ms": 1000 * statistics.median(alone),
    }
    results.add("serve", part)
    rows = [
        ["CPU ms a photograph, `predict` in batches of 64", f"{part['cpu_ms']['predict']:.2f}"],
        [f"CPU ms a photograph, `serve` with {CLIENTS} clients", f"{part['cpu_ms']['serve']:.2f}"],
        ["serve / predict", f"{part['serve / predict']:.2f}"],
        [f"requests a second, {CLIENTS} clients", f"{part['requests_a_second'][str(CLIENTS)]:.0f}"],
        ["median ms, one client", f"{part['alone_p50_ms']:.1f}"],
        *([f"p{at} ms at half load, {half:.0f} requests a second", f"{found:.1f}"] for at, found in ms.items()),
    ]
    results.add_table("serve", ["", "measured"], rows)


def test_soak(model, some, short, results, tmp_path):
    """Memory stays after thousands of broken, huge, slow and cut-off requests."""
    photographs, requests = [Path(path).read_bytes() for path in some[:32]], 200 if short else 5000
    with serving(model, tmp_path, "--timeout", "3", "--max-body", "1", cold=True) as service:
        process = psutil.Process(service.process.pid)

        def held() -> dict[str, int]:
            service.wait_for_queue(0)
            time.sleep(1)
            memory = process.memory_info().rss
            return {"memory": memory, "files": process.num_fds(), "threads": process.num_threads()}

        found, after = Counter(), []
        for part in range(4):
            found += soak(service, photographs, requests // 4, body=1_000_000, seed=part)
            after.append(held())
        assert not [line for line in service.log() if line.get("status") == 500 or "trace" in line]
    results.add("serve_soak", {"answers": found, "after": after})
    rows = [
        [f"{(part + 1) * requests // 4:,}", f"{each['memory'] / 1e6:,.0f}", str(each["files"]), str(each["threads"])]
        for part, each in enumerate(after)
    ]
    results.add_table("serve_soak", ["requests", "MB", "open files", "threads"], rows)
