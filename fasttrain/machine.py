"""Hide the differences between Linux, macOS and Windows from other modules.

No other module uses `fcntl` or a function that Windows lacks; `tests/test_machine.py` checks this. Memory and cores
have modules of their own, `memory` and `cores`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

WINDOWS = sys.platform == "win32"
NOT_ON_WINDOWS = "Windows has no native, dali or ffcv loader and no cut; Linux in WSL 2 has them all (`wsl --install`)"
_LOCKED = 1 << 30  # the position of the byte that Windows locks in place of a file
_POLL_S = 0.1
_DENIED, _STILL_ACTIVE, _QUERY = 5, 259, 0x1000  # winerror.h, winbase.h, winnt.h
_position = threading.Lock()


def native_fix() -> str:
    """Return how to install the native (C++) module on this system."""
    if WINDOWS:
        return "Windows has none: install fasttrain in WSL 2 (`wsl --install`)"
    if sys.platform == "darwin":
        return "xcode-select --install; brew install jpeg-turbo; then install fasttrain again"
    return "apt-get install g++ libjpeg62-turbo-dev, then install fasttrain again"


def c_function(name: str) -> Any:
    """Return the function `name` of the C library, or None if the library lacks it."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except TypeError:  # Windows needs the name of a library
        return None


def user_name() -> str:
    """Return the effective user id of this process; on Windows, which has no user ids, the user's name."""
    return str(os.geteuid()) if hasattr(os, "geteuid") else os.environ.get("USERNAME", "unknown")


def is_running(pid: int) -> bool:
    """Return whether the process `pid` exists. No signal is sent to it."""
    if WINDOWS:  # here `os.kill` ends the process, or sends Ctrl-C to its entire console
        return _is_running_on_windows(pid)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _is_running_on_windows(pid: int) -> bool:
    kernel: Any = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    kernel.OpenProcess.restype = ctypes.c_void_p
    handle = kernel.OpenProcess(_QUERY, False, pid)
    if not handle:
        return bool(ctypes.get_last_error() == _DENIED)  # type: ignore[attr-defined]
    code = ctypes.c_ulong()
    known = kernel.GetExitCodeProcess(ctypes.c_void_p(handle), ctypes.byref(code))
    kernel.CloseHandle(ctypes.c_void_p(handle))
    return not known or code.value == _STILL_ACTIVE


def free_inodes(folder: Path) -> tuple[int, int] | None:
    """Return (free, total): how many more files the disk of `folder` can hold, and how many in all.

    Return None if the file system has no limit.
    """
    if not hasattr(os, "statvfs"):
        return None
    disk = os.statvfs(folder)
    return (disk.f_favail, disk.f_files) if disk.f_files else None


def sync_file(descriptor: int) -> None:
    """Write an open file to the disk itself. On macOS `fsync` reaches only the disk's cache, so use F_FULLFSYNC."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    try:
        if full is not None:
            fcntl.fcntl(descriptor, full)
            return
    except OSError:  # network file systems don't support it
        pass
    os.fsync(descriptor)


def sync_disks() -> None:
    """Flush the system's write cache to the disks. Do nothing on Windows, which can't do this for all files at once."""
    if hasattr(os, "sync"):
        os.sync()


def allocated_bytes(state: os.stat_result) -> int:
    """Return how many bytes a file occupies on the disk, given the result of `os.stat`."""
    return state.st_blocks * 512 if hasattr(state, "st_blocks") else state.st_size


def read_soon(descriptor: int) -> None:
    """Ask the system to read an open file into its page cache. Do nothing on systems without this request."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)


def read_at(descriptor: int, length: int, start: int) -> bytes:
    """Read `length` bytes of a file from position `start`, fewer at its end. Several threads may call this at once."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, start)
    with _position:
        os.lseek(descriptor, start, os.SEEK_SET)
        return os.read(descriptor, length)


def write_at(descriptor: int, data: memoryview, start: int) -> int:
    """Write `data` to a file at position `start`. Return how many bytes were written. Several threads may call this at
    once."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, start)
    with _position:
        os.lseek(descriptor, start, os.SEEK_SET)
        return os.write(descriptor, data)


def relative_path(path: str | Path, start: str | Path = os.curdir) -> str:
    """Return `path` relative to `start`, or unchanged if they are on different Windows drives."""
    try:
        return os.path.relpath(path, start)
    except ValueError:
        return str(path)


def lock(descriptor: int, *, wait: bool = False, shared: bool = False) -> bool:
    """Lock a file until `unlock`, or until its last descriptor is closed. Return whether it is locked.

    If another process holds the lock, wait for it if `wait` is True, and otherwise return False. `shared`: allow other
    shared locks at the same time. Nothing is locked, but True is returned, if the file system doesn't support locks,
    and for a shared lock on Windows: these locks prevent deletion, and Windows never deletes an open file.
    """
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True
    while not (shared or _lock_byte(descriptor, "LK_NBLCK")):
        if not wait:
            return False
        time.sleep(_POLL_S)
    return True


def unlock(descriptor: int) -> None:
    """Release a lock that `lock` took. Closing the file isn't enough if a forked process still has it open."""
    if fcntl is None:
        _lock_byte(descriptor, "LK_UNLCK")
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError:
        return


def _lock_byte(descriptor: int, how: str) -> bool:
    import msvcrt

    windows: Any = msvcrt
    try:
        os.lseek(descriptor, _LOCKED, os.SEEK_SET)
        windows.locking(descriptor, getattr(windows, how), 1)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EDEADLK)
    return True


def lockable(folder: Path) -> int:
    """Open `folder` for `lock`, and return the file descriptor.

    Windows can't open folders: there it is the descriptor of an empty temporary file that stands for the folder.
    """
    if fcntl is not None:
        return os.open(folder, os.O_RDONLY)
    name = hashlib.sha256(os.path.normcase(folder.resolve()).encode()).hexdigest()[:16]
    return os.open(Path(tempfile.gettempdir(), f"fasttrain-{name}.lock"), os.O_RDWR | os.O_CREAT)


def delete_unlocked(path: Path) -> bool:
    """Delete a file unless another process has locked it (on Windows: has it open). Return whether it was deleted."""
    if fcntl is None:
        try:
            path.unlink(missing_ok=True)
        except PermissionError:
            return False
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        if not lock(descriptor):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)


def terminate_self() -> None:
    """Send SIGTERM to this process, from any of its threads."""
    os.kill(os.getpid(), signal.SIGTERM)


def start_apart(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start `command` in a process group of its own, which a terminal's Ctrl-C doesn't reach. End it with `end_all`."""
    if WINDOWS:
        options["creationflags"] = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    return subprocess.Popen(command, start_new_session=not WINDOWS, **options)


def end_all(process: subprocess.Popen[bytes], grace: float) -> None:
    """End a process that `start_apart` started, and its children: SIGTERM first, SIGKILL after `grace` seconds."""
    if not hasattr(os, "killpg"):
        if taskkill := shutil.which("taskkill"):
            subprocess.run([taskkill, "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False)
        process.kill()
        process.wait()
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
        os.killpg(process.pid, signal.SIGKILL)  # a worker may outlive its master
    process.wait()
