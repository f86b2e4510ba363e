"""Find out how many cores this process may use, and how many of them other programs keep busy."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from fasttrain.cgroups import cgroup_folders

_STAT = Path("/proc/stat")
_SAMPLE_S = 0.3
_BACKGROUND = 0.5  # cores; a system's normal background activity takes less
_chosen: dict[str, str] = {}  # variables that `set_up_openmp` has set, not the user


def usable_cores() -> int:
    """Return how many cores this process may use: the cores of its affinity, or a container's quota if it is lower."""
    cores = len(_affinity() or ()) or getattr(os, "process_cpu_count", os.cpu_count)() or 1  # Python 3.13 or later
    return max(1, min([cores, *map(math.ceil, _quotas())]))


def cores_of_process() -> int:
    """Return this process's share of the usable cores, which are divided among torchrun's processes on this machine."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(usable_cores() // max(int(processes) if processes.isdigit() else 1, 1), 1)


def set_up_openmp() -> None:
    """Adapt OpenMP, whose threads torch computes with, to a shared machine. Call this before torch is imported.

    OMP_NUM_THREADS limits the threads to the usable cores, because OpenMP alone ignores a container's quota.
    GOMP_SPINCOUNT lets a waiting thread spin for microseconds, not milliseconds, before it sleeps. While another
    program kept a core busy, shorter spinning made training 1.5 times as fast (`benchmarks/test_busy_machine.py`).
    A variable that the user has set is not changed.
    """
    if usable_cores() < len(_affinity() or ()) and "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = _chosen["OMP_NUM_THREADS"] = str(usable_cores())
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def threads_of_each(processes: int) -> dict[str, str]:
    """Return the environment variable that gives each of `processes` processes an equal share of the usable cores.

    Return an empty dict if the user has set OMP_NUM_THREADS.
    """
    if os.environ.get("OMP_NUM_THREADS") not in (None, _chosen.get("OMP_NUM_THREADS")):
        return {}
    return {"OMP_NUM_THREADS": str(max(usable_cores() // processes, 1))}


def busy_cores_warning(sleep: Callable[[float], None] = time.sleep) -> str | None:
    """Return a clause that says how many cores other programs keep busy.

    Return None if they leave enough cores free, or if the system doesn't report their load. `sleep` is called to wait
    for a third of a second, in which the load is measured and this process must be idle.
    """
    affinity = _affinity()
    if affinity is None or (before := _busy_seconds(affinity)) is None:
        return None
    began, own_time = time.monotonic(), time.process_time()
    sleep(_SAMPLE_S)
    elapsed, after = time.monotonic() - began, _busy_seconds(affinity) or before
    busy = max(0.0, after - before - (time.process_time() - own_time)) / elapsed
    if len(affinity) - busy >= usable_cores() - _BACKGROUND:
        return None
    return f"other programs keep {min(busy, len(affinity)):.1f} of {len(affinity)} cores busy"


def _affinity() -> set[int] | None:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def _quotas() -> list[float]:
    """Return how many cores each cgroup of this process allows, for the cgroups that set a quota."""
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
    """Return how many seconds `cores` have worked, in total, since the machine started; None if that is unknown."""
    try:
        lines = [line.split() for line in _STAT.read_text(encoding="ascii").splitlines() if line.startswith("cpu")]
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    # user, nice, system, idle, iowait, irq, softirq, steal; the time of guests is part of user
    counts = [[int(each) for each in numbers[:8]] for name, *numbers in lines if name[3:] and int(name[3:]) in cores]
    return sum(sum(count) - sum(count[3:5]) for count in counts) / ticks
