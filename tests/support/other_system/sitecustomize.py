"""Take from fasttrain what $OTHER_SYSTEM, "macos" or "windows", lacks. Python runs this as it starts, workers' too.

Only fasttrain's own modules go without: other packages have code of their own for these systems, which can't run here.
What Windows refuses is refused: to open a folder, to flush what is only read, to remove or replace an open file.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import errno
import fcntl
import multiprocessing
import os
import pathlib
import shutil
import struct
import sys
import types
from typing import Any

WINDOWS = os.environ["OTHER_SYSTEM"] == "windows"
MISSING = {
    "os": {"sched_getaffinity", "sched_setaffinity", "posix_fadvise", "posix_fallocate"},
    "signal": {"SIGRTMIN", "SIGRTMAX", "sigtimedwait"},
}
MODULES: set[str] = set()
if WINDOWS:
    MISSING["os"] |= {"sync", "sysconf", "statvfs", "pread", "pwrite", "geteuid", "getuid", "killpg", "fork", "setsid"}
    MISSING["os"] |= {"O_CLOEXEC", "uname", "getpgid", "mkfifo", "getloadavg", "register_at_fork", "lockf", "nice"}
    MISSING["signal"] |= {"SIGKILL", "SIGCHLD", "SIGBUS", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPIPE"}
    MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"}
    for name in ("fasttrain._native", "nvidia.dali", "ffcv"):
        sys.modules[name] = None  # type: ignore[assignment]


class Stripped(types.ModuleType):
    """A module without some of its names, and with others in their place."""

    def __init__(self, module: types.ModuleType, missing: set[str], **instead: Any) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(_module=module, _missing=missing, **instead)

    def __getattr__(self, name: str) -> Any:
        if name in self._missing:
            raise AttributeError(f"{self.__name__}.{name} isn't there on {os.environ['OTHER_SYSTEM']}")
        return getattr(self._module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._module, name, value)


def open_file(path: Any, flags: int, mode: int = 0o777) -> int:
    if pathlib.Path(path).is_dir():
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return os.open(path, flags, mode)


def flush(descriptor: int) -> None:
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    os.fsync(descriptor)


def kill(pid: int, number: int) -> None:
    raise AssertionError("os.kill ends the process on Windows")


def library(name: str | None, *how: Any) -> ctypes.CDLL:
    if name is None:
        raise TypeError("LoadLibrary() argument 1 must be str, not None")
    return ctypes.CDLL(name, *how)


def locking(descriptor: int, mode: int, count: int) -> None:
    kind = fcntl.F_UNLCK if mode == Msvcrt.LK_UNLCK else fcntl.F_WRLCK
    place = struct.pack("hhqqi", kind, os.SEEK_CUR, 0, count, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, place)
    except BlockingIOError:
        raise PermissionError(errno.EACCES, "Permission denied") from None


class Msvcrt:
    LK_UNLCK, LK_NBLCK = 0, 2
    locking = staticmethod(locking)


stripped = {
    "os": Stripped(os, MISSING["os"], **({"open": open_file, "fsync": flush, "kill": kill} if WINDOWS else {})),
    "sys": Stripped(sys, set(), platform="win32" if WINDOWS else "darwin"),
}


def asks() -> bool:
    """Return whether our caller was called by a module of fasttrain."""
    return str(sys._getframe(2).f_globals.get("__name__")).partition(".")[0] == "fasttrain"


def import_for(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    ours = str((globals or {}).get("__name__")).partition(".")[0] == "fasttrain"
    if ours and name in MODULES:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)
    if ours and WINDOWS and name == "msvcrt":
        return Msvcrt
    module = ordinary_import(name, globals, locals, fromlist, level)
    if ours and name == "signal":
        return stripped.setdefault(name, Stripped(module, MISSING["signal"]))
    if ours and WINDOWS and name == "ctypes":
        return stripped.setdefault(name, Stripped(module, set(), CDLL=library))
    return stripped.get(name, module) if ours else module


ordinary_import, builtins.__import__ = builtins.__import__, import_for


def open_names() -> set[str]:
    """Return the files that this process has open or mapped."""
    process = pathlib.Path("/proc/self")
    names = {line.split(None, 5)[-1] for line in (process / "maps").read_text(errors="replace").splitlines()}
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(OSError):  # that of the listing itself
            names.add(str(descriptor.readlink()))
    return names


def guarded(of: Any, name: str, allows: Any) -> None:
    """Let `of.name` ask `allows` first where fasttrain calls it."""
    ordinary = getattr(of, name)

    def instead(*arguments: Any, **options: Any) -> Any:
        if asks():
            allows(*arguments)
        return ordinary(*arguments, **options)

    setattr(of, name, instead)


def no_proc(path: pathlib.Path, *_: Any) -> None:
    if str(path).startswith(("/proc/", "/sys/", "/dev/shm")):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))


def not_open(*paths: Any) -> None:
    for path in paths:
        if isinstance(path, (str, pathlib.Path)) and os.path.realpath(path) in open_names():
            raise PermissionError(errno.EACCES, "The process cannot access the file", str(path))


def nothing_open(folder: Any, *_: Any) -> None:
    real = os.path.realpath(folder) + os.sep
    if opened := [name for name in open_names() if name.startswith(real)]:
        raise PermissionError(errno.EACCES, "The process cannot access the file", opened[0])


for name in ("read_text", "stat", "open"):
    guarded(pathlib.Path, name, no_proc)
if WINDOWS:
    for name in ("unlink", "replace", "rename"):
        guarded(pathlib.Path, name, not_open)
    guarded(shutil, "rmtree", nothing_open)
multiprocessing.set_start_method("spawn")
