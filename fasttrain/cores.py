"""Find out how many cores this process may use, and how many of them other programs keep busy."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from fasttrain.cgroups import cgroup_folders

_STAT = Path("/proc/stat")
_LOOK_S = 0.3
_COUNTS = 0.5  # cores; less is normal background activity of a system
_chosen: dict[str, str] = {}  # by `set_up_openmp`, not by the user


def usable_cores() -> int:
    """Return how many cores this process may use at a time: its affinity, or a container's quota where that is less."""
    cores = len(_affinity() or ()) or getattr(os, "process_cpu_count", os.cpu_count)() or 1  # Python 3.13 has the first
    return max(1, min([cores, *map(math.ceil, _quotas())]))


def cores_of_process() -> int:
    """Return this process's part of the usable cores, which torchrun's processes on this machine share."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(usable_cores() // max(int(processes) if processes.isdigit() else 1, 1), 1)


def set_up_openmp() -> None:
    """Fit OpenMP, whose threads torch computes with, to a machine that is shared. Call it before torch is imported.

    There are no more threads than usable cores: it counts those of the affinity, but knows nothing of a container's
    quota. Threads that wait for each other spin for microseconds, not milliseconds, before they sleep: where another
    program takes a core, that made training 1.5 times as fast (`benchmarks/test_busy_machine.py`). What the user has
    set stays.
    """
    if usable_cores() < len(_affinity() or ()) and "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = _chosen["OMP_NUM_THREADS"] = str(usable_cores())
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def threads_of_each(processes: int) -> dict[str, str]:
    """Return the variable that gives each of so many `processes` its part of the cores; what the user has set stays."""
    if os.environ.get("OMP_NUM_THREADS") not in (None, _chosen.get("OMP_NUM_THREADS")):
        return {}
    return {"OMP_NUM_THREADS": str(max(usable_cores() // processes, 1))}


def crowded(sleep: Callable[[float], None] = time.sleep) -> str | None:
    """Say how many cores other programs keep busy, None where enough are left or where it can't be told.

    It looks for a third of a second, in which this process must have nothing to do.
    """
    affinity = _affinity()
    if affinity is None or (before := _busy_seconds(affinity)) is None:
        return None
    began, ours = time.monotonic(), time.process_time()
    sleep(_LOOK_S)
    passed, after = time.monotonic() - began, _busy_seconds(affinity) or before
    taken = max(0.0, after - before - (time.process_time() - ours)) / passed
    wanted = usable_cores()
    if len(affinity) - taken >= wanted - _COUNTS:
        return None
    return f"other programs keep {min(taken, len(affinity)):.1f} of {len(affinity)} cores busy"


def _affinity() -> set[int] | None:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def _quotas() -> list[float]:
    """Return the cores that each cgroup around this process allows."""
    found = []
    for version, folder in cgroup_folders("cpu"):
        names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        try:
            quota, period = " ".join((folder / name).read_text(encoding="ascii") for name in names).split()
        except (OSError, ValueError):
            continue
        if quota not in ("max", "-1"):
            found.append(int(quota) / int(period))
    return found


def _busy_seconds(cores: set[int]) -> float | None:
    """Return for how many seconds `cores` have worked since the machine started."""
    try:
        lines = [line.split() for line in _STAT.read_text(encoding="ascii").splitlines() if line.startswith("cpu")]
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    # user, nice, system, idle, iowait, irq, softirq, steal; what guests take is in user
    counts = [[int(each) for each in numbers[:8]] for name, *numbers in lines if name[3:] and int(name[3:]) in cores]
    return sum(sum(count) - sum(count[3:5]) for count in counts) / ticks
