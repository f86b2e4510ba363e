"""One contender in a process of its own, which runs what it's told on stdin and answers in JSON lines.

Processes keep the contenders apart (forks, threads, memory, numba), and idle ones cost nothing while another runs.
"""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

COLD = 0.5
"""The least share of an average batch's time that an epoch's first batch takes where none of it was made beforehand.

It is 1 where all threads work on one batch, more where each makes its own, and nearly 0 where a batch was ready.
"""


class ContenderProcess:
    """Started and imported, its data set made, no loader opened yet. Raises ImportError where the peer is missing."""

    def __init__(self, name: str, photographs: Path, root: Path, threads: int) -> None:
        arguments = [name, str(photographs), str(root), str(threads)]
        here = Path(__file__).parents[1]
        self.name = name
        self.first_shares: list[float] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "peers.process", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=here,
            env={**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}", "OMP_NUM_THREADS": str(threads)},
        )
        started = self._answer()
        if "missing" in started:
            raise ImportError(started["missing"])

    def first_batch(self) -> float:
        """Opens the loader; seconds from then to the first batch, which is the rest of an epoch's beginning."""
        return float(self.ask("first")["seconds"])

    def epoch(self, pause: float = 0, repeats: int = 1) -> dict[str, Any]:
        """images, seconds, cpu_seconds (with workers), waited (seconds for data) and waited_first (for each epoch's
        first batch) of `repeats` epochs, each from an empty queue.

        The consumer sleeps `pause` seconds a batch.
        """
        found = self.ask(f"epoch {pause} {repeats}")
        self.first_shares += [] if pause else found["first_shares"]
        return found

    def require_cold(self) -> None:
        """Raise RuntimeError if the epochs since the last call began with photographs that were ready."""
        shares, self.first_shares = self.first_shares, []
        if shares and (share := statistics.median(shares)) < COLD:
            raise RuntimeError(
                f"{self.name}: an epoch's first batch took {share:.2f} of an average one's time, under {COLD}: "
                "it was decoded before the epoch was timed"
            )

    def cold(self) -> dict[str, Any]:
        """Run `epoch` newly opened, with none of its data in the page cache."""
        return self.ask("cold")

    def memory(self) -> float:
        """Peak MB that an epoch holds beyond the imports, over all processes, without the page cache."""
        return float(self.ask("memory")["megabytes"])

    def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        for line in self.process.stdout:  # what a peer prints itself is passed over
            if line.startswith("@"):
                answer: dict[str, Any] = json.loads(line[1:])
                return answer
        raise RuntimeError(f"{self.name}: its process ended with {self.process.wait()}")


def cpu_seconds() -> float:
    """Return the CPU seconds of this process, of its ended children, and of those that run."""
    ended = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    alive = 0.0
    for pid in family()[1:]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        alive += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return sum(each.ru_utime + each.ru_stime for each in ended) + alive


def family() -> list[int]:
    """This process and all below it."""
    found = [os.getpid()]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def resident() -> float:
    """MB that belong to these processes and not to the page cache: anonymous and shared memory, by share."""
    total = 0
    for pid in family():
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(kb) for kb in re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+)", text, re.M))
    return total / 1000


def runnable_threads() -> int:
    """Threads of the family that run or would if they had a core, this one left out."""
    found = -1
    for pid in family():
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # ended since
                found += (task / "stat").read_text().rpartition(")")[2].split()[0] in "RD"
    return found


def wait_until_idle(patience: float = 30) -> None:
    """Return once none of the processes works. Raises RuntimeError after `patience` seconds."""
    window, deadline, quiet = 0.05, time.monotonic() + patience, 0
    before = cpu_seconds()
    while quiet < 3:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the loader still works {patience:.0f} s after its epoch")
        time.sleep(window)
        after = cpu_seconds()
        # On a busy machine little CPU time is no proof: a thread may wait for a core.
        quiet = 0 if after - before > 0.4 * window or runnable_threads() > 0 else quiet + 1
        before = after


def run_epoch(contender: Any, pause: float = 0) -> tuple[dict[str, float], float]:
    """Return what an epoch took, and its first batch's time over that of an average one."""
    images, waits, cpu, start = 0, [], cpu_seconds(), time.perf_counter()
    batches = iter(contender.batches())
    while True:
        asked = time.perf_counter()
        count = next(batches, None)
        waits.append(time.perf_counter() - asked)
        if count is None:
            break
        images += count
        if pause:
            time.sleep(pause)
    seconds = time.perf_counter() - start
    cpu = cpu_seconds() - cpu
    found = {"images": images, "seconds": seconds, "cpu_seconds": cpu, "waited": sum(waits), "waited_first": waits[0]}
    return found, waits[0] * (len(waits) - 1) / seconds


def run_epochs(contender: Any, pause: float = 0, repeats: int = 1) -> dict[str, Any]:
    """Return the sums over the epochs, each from an idle loader, and the `first_shares`; no clock runs in between."""
    total: dict[str, float] = {}
    shares = []
    for _ in range(repeats):
        wait_until_idle()
        found, share = run_epoch(contender, pause)
        total = {name: total.get(name, 0) + number for name, number in found.items()}
        shares.append(share)
    return {**total, "first_shares": shares}


def peak_memory(contender: Any, before: float) -> float:
    peak, done = 0.0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, resident())

    watcher = threading.Thread(target=look)
    watcher.start()
    run_epoch(contender)
    done.set()
    watcher.join()
    return peak - before


def drop_from_cache(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    from peers import FROM_PHOTOGRAPHS, contender_class, folder_of

    def answer(**what: Any) -> None:
        print("@" + json.dumps(what), flush=True)

    name, photographs, root, threads = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    try:
        kind = contender_class(name)
    except ImportError as error:
        return answer(missing=f"{name}: {error}")
    folder = folder_of(name, root)
    if not folder.exists():
        if os.fork() == 0:  # made in a process of its own: no import, cache or thread of the writer's stays
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            kind.prepare(photographs, folder)
            os._exit(0)
        if os.wait()[1]:
            raise SystemExit(f"{name}: its data set can't be made")
    before = resident()
    answer(ready=True)
    contender = None
    for line in sys.stdin:
        command, *rest = line.split()
        start = time.perf_counter()
        if contender is None:
            contender = kind(photographs, folder, threads)
        if command == "first":
            batches = iter(contender.batches())
            next(batches)
            answer(seconds=time.perf_counter() - start)
            for _ in batches:
                pass
        elif command == "epoch":
            answer(**run_epochs(contender, float(rest[0]), int(rest[1])))
        elif command == "cold":
            contender.close()
            contender = None  # what is mapped can't be dropped
            gc.collect()
            for path in [*folder.rglob("*"), *(photographs.rglob("*") if name in FROM_PHOTOGRAPHS else ())]:
                drop_from_cache(path)
            contender = kind(photographs, folder, threads)
            answer(**run_epochs(contender))
        elif command == "memory":
            answer(megabytes=peak_memory(contender, before))
    if contender is not None:
        contender.close()
    os._exit(0)  # some peers' threads outlive their loaders


if __name__ == "__main__":
    main()
