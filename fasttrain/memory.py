"""Measure how much memory this process uses, and how much more it may use."""

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

_UNKNOWN = 4 << 30  # bytes, assumed if the system doesn't report its memory


def give_back_heap() -> None:
    """Return the heap's free pages to the system.

    Otherwise glibc keeps free pages: those of the main heap after `keep_freed_memory`, and always those of other
    threads' heaps. Do nothing with another C library.
    """
    if (trim := c_function("malloc_trim")) is not None:
        trim(0)


def limit(name: str) -> int | None:
    """Return the resource limit `name` of this process, such as "RLIMIT_AS", in bytes; None if unlimited."""
    if resource is None:
        return None
    limit, _ = resource.getrlimit(getattr(resource, name))
    return None if limit == resource.RLIM_INFINITY else limit


def total_memory() -> int:
    """Return the size of the machine's memory in bytes."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return _windows_memory().total


def peak_memory() -> int:
    """Return the greatest resident memory of this process so far, in bytes."""
    if resource is None:
        return _windows_memory().peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory() -> int:
    """Return how many more bytes this process can use, within the machine's memory, its cgroups and its own limit."""
    free = [_available_on_machine(), *_available_in_cgroups()]
    if (most := limit("RLIMIT_AS")) is not None:
        free.append(most - _process_size(0))
    return max(min(free), 0)


def resident_memory() -> int:
    """Return how many bytes of this process are in memory now."""
    return _process_size(1)


def _available_on_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return total_memory() // 2 if resource is not None else _windows_memory().free
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _process_size(column: int) -> int:
    """Return the size in bytes in a column of /proc/self/statm: 0 for virtual, 1 for resident memory."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[column]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_memory() if resource is not None else _windows_memory().resident


class _Status(ctypes.Structure):
    """The structure MEMORYSTATUSEX of sysinfoapi.h."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *((name, ctypes.c_uint64) for name in ("total", "free", "pages", "free_pages", "room", "free_room", "more")),
    )


class _Counters(ctypes.Structure):
    """The structure PROCESS_MEMORY_COUNTERS of psapi.h."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("faults", ctypes.c_uint32),
        *((name, ctypes.c_size_t) for name in ("peak", "resident", "a", "b", "c", "d", "pages", "peak_pages")),
    )


class _WindowsMemory(NamedTuple):
    """Bytes: `total` and `free` of the machine, `resident` and `peak` of this process."""

    total: int = _UNKNOWN
    free: int = _UNKNOWN
    resident: int = 0
    peak: int = 0


def _windows_memory() -> _WindowsMemory:
    """Return the memory of the machine and of this process, as Windows reports it."""
    if not hasattr(ctypes, "WinDLL"):
        return _WindowsMemory()
    kernel: Any = ctypes.WinDLL("kernel32")
    status, counters = _Status(), _Counters()
    status.length, counters.length = ctypes.sizeof(status), ctypes.sizeof(counters)
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    if not kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        status.total = status.free = _UNKNOWN
    kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), counters.length)
    return _WindowsMemory(status.total, status.free, counters.resident, counters.peak)


def _available_in_cgroups() -> list[int]:
    """Return how many bytes are left of each cgroup limit, from this process's cgroup up to the root."""
    left = []
    for version, folder in cgroup_folders("memory"):
        names = ("memory.max", "memory.current", "inactive_file")
        if version == 1:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        left.append(_left_in_cgroup(folder, *names))
    return [each for each in left if each is not None]


def _left_in_cgroup(cgroup: Path, most: str, used: str, reclaimable: str) -> int | None:
    try:
        limit, taken = ((cgroup / name).read_text(encoding="ascii").strip() for name in (most, used))
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) - int(taken) + int(stat.get(reclaimable, 0))
