"""How much memory this process has taken, and how much more it may take."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def give_back_heap() -> None:
    """Give the heap's free pages back to the system, where glibc would keep them: `keep_freed_memory` asks it to, and
    each thread's heap stays with the thread."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def peak_memory() -> int:
    """The most that this process has ever had resident, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory() -> int:
    """Return how many bytes this process can still take: the least that machine, cgroup and its own limit leave."""
    free = [_machines(), *_cgroups()]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free.append(limit - _pages_taken(0))
    return max(min(free), 0)


def resident_memory() -> int:
    """Return how many bytes of this process are resident."""
    return _pages_taken(1)


def _machines() -> int:
    page = os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return page * os.sysconf("SC_PHYS_PAGES") // 2
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _pages_taken(column: int) -> int:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[column]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_memory()


def _cgroups() -> list[int]:
    """Return what is left of each limit from this process's cgroup up to the root, of versions 1 and 2."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    left: list[int] = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, names = _CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = root / path.strip("/")
        found = (_left(each, *names) for each in (folder, *folder.parents) if each.is_relative_to(root))
        left += [each for each in found if each is not None]
    return left


def _left(cgroup: Path, most: str, used: str, reclaimable: str) -> int | None:
    try:
        limit, taken = ((cgroup / name).read_text(encoding="ascii").strip() for name in (most, used))
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) - int(taken) + int(stat.get(reclaimable, 0))
