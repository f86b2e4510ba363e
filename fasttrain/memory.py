"""Find out how much memory this process uses, and how much more it may use."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from fasttrain.cgroups import cgroup_folders
from fasttrain.machine import c_function

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]

_UNKNOWN = 4 << 30  # bytes, for a system that doesn't tell


def give_back_heap() -> None:
    """Give the heap's free pages back to the system, where glibc would keep them: `keep_freed_memory` asks it to, and
    each thread's heap stays with the thread."""
    if (trim := c_function("malloc_trim")) is not None:
        trim(0)


def limit(name: str) -> int | None:
    """Return a limit of this process by its name in `resource`, such as "RLIMIT_AS"; None where there is none."""
    if resource is None:
        return None
    limit, _ = resource.getrlimit(getattr(resource, name))
    return None if limit == resource.RLIM_INFINITY else limit


def total_memory() -> int:
    """Return the machine's memory, bytes."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return _of_windows().total


def peak_memory() -> int:
    """Return the most that this process has ever had resident, bytes."""
    if resource is None:
        return _of_windows().peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory() -> int:
    """Return how many bytes this process can still take: the least that machine, cgroup and its own limit leave."""
    free = [_machines(), *_cgroups()]
    if (most := limit("RLIMIT_AS")) is not None:
        free.append(most - _pages_taken(0))
    return max(min(free), 0)


def resident_memory() -> int:
    """Return how many bytes of this process are resident."""
    return _pages_taken(1)


def _machines() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return total_memory() // 2 if resource is not None else _of_windows().free
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _pages_taken(column: int) -> int:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[column]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_memory() if resource is not None else _of_windows().resident


class _Status(ctypes.Structure):
    """MEMORYSTATUSEX of sysinfoapi.h."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *((name, ctypes.c_uint64) for name in ("total", "free", "pages", "free_pages", "room", "free_room", "more")),
    )


class _Counters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of psapi.h."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("faults", ctypes.c_uint32),
        *((name, ctypes.c_size_t) for name in ("peak", "resident", "a", "b", "c", "d", "pages", "peak_pages")),
    )


class _Windows(NamedTuple):
    total: int = _UNKNOWN
    free: int = _UNKNOWN
    resident: int = 0
    peak: int = 0


def _of_windows() -> _Windows:
    """Return the memory of the machine and of this process, bytes, as Windows counts them."""
    if not hasattr(ctypes, "WinDLL"):
        return _Windows()
    kernel: Any = ctypes.WinDLL("kernel32")
    status, counters = _Status(), _Counters()
    status.length, counters.length = ctypes.sizeof(status), ctypes.sizeof(counters)
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    if not kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        status.total = status.free = _UNKNOWN
    kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), counters.length)
    return _Windows(status.total, status.free, counters.resident, counters.peak)


def _cgroups() -> list[int]:
    """Return what is left of each limit from this process's cgroup up to the root."""
    left = []
    for version, folder in cgroup_folders("memory"):
        names = ("memory.max", "memory.current", "inactive_file")
        if version == 1:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        left.append(_left(folder, *names))
    return [each for each in left if each is not None]


def _left(cgroup: Path, most: str, used: str, reclaimable: str) -> int | None:
    try:
        limit, taken = ((cgroup / name).read_text(encoding="ascii").strip() for name in (most, used))
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) - int(taken) + int(stat.get(reclaimable, 0))
