"""The differences between Linux, macOS and Windows: one module knows them, and works where a function is missing."""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fasttrain import machine
from fasttrain.machine import (
    is_running,
    lock,
    lockable,
    read_at,
    relative_path,
    sync_file,
    unlock,
    write_at,
)

PACKAGE = Path(machine.__file__).parent
UNIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
UNIX_NAMES = {
    "os": """O_CLOEXEC O_DIRECTORY O_NOFOLLOW WNOHANG chown fchmod fork forkpty getegid geteuid getgid getloadavg
    getpgid getpriority getuid kill killpg lockf mkfifo nice posix_fadvise posix_fallocate pread preadv pwrite pwritev
    register_at_fork sched_getaffinity sched_setaffinity sendfile setpgid setsid statvfs sync sysconf uname wait wait3
    wait4""",
    "signal": """SIGALRM SIGBUS SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGUSR1 SIGUSR2 alarm pause pthread_kill
    pthread_sigmask setitimer siginterrupt sigpending sigwait""",
    "mmap": "MAP_PRIVATE MAP_SHARED PROT_READ PROT_WRITE",
    "socket": "AF_UNIX SO_REUSEPORT",
    "time": "tzset",
}


def unguarded(tree: ast.Module) -> list[str]:
    """Return the names that a module uses and that Windows or macOS lacks."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names if each.name in UNIX_MODULES]
        elif isinstance(node, ast.ImportFrom):
            names = UNIX_NAMES.get(node.module or "", "").split()
            found += [each.name for each in node.names if node.module in UNIX_MODULES or each.name in names]
        elif isinstance(node, ast.Attribute) and isinstance(of := node.value, ast.Name):
            found += [f"{of.id}.{node.attr}"] if node.attr in UNIX_NAMES.get(of.id, "").split() else []
    return found


def test_only_three_modules_use_what_windows_or_macos_lacks():
    found = {path: unguarded(ast.parse(path.read_bytes())) for path in PACKAGE.rglob("*.py")}
    users = {path.relative_to(PACKAGE).as_posix() for path, names in found.items() if names}
    assert users == {"cores.py", "machine.py", "memory.py"}, {
        str(path): names for path, names in found.items() if names
    }


@pytest.mark.parametrize("taken", [(), ("pread", "pwrite")])
def test_a_file_is_read_and_written_at_any_place(tmp_path, monkeypatch, taken):
    for name in taken:
        monkeypatch.delattr(os, name, raising=False)
    with (tmp_path / "file").open("w+b") as file:
        assert write_at(file.fileno(), memoryview(b"abcdef"), 0) == 6
        assert write_at(file.fileno(), memoryview(b"XY"), 2) == 2
        assert read_at(file.fileno(), 3, 1) == b"bXY" and read_at(file.fileno(), 9, 4) == b"ef"


@pytest.mark.skipif(machine.WINDOWS, reason="there is no fcntl")
@pytest.mark.parametrize(("known", "done"), [(True, ["full"]), (False, ["full", "fsync"])])
def test_macos_writes_a_file_through_the_disks_cache_where_it_can(monkeypatch, known, done):
    acts = []

    def full(descriptor: int, how: int) -> None:
        acts.append("full")
        if not known:
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

    monkeypatch.setattr(machine.fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(machine.fcntl, "fcntl", full)
    monkeypatch.setattr(os, "fsync", lambda descriptor: acts.append("fsync"))
    sync_file(0)
    assert acts == done


def test_a_lock_is_one_holders_until_it_is_given_up(tmp_path):
    first, second = lockable(tmp_path), lockable(tmp_path)
    assert lock(first) and not lock(second)
    unlock(first)
    assert lock(second) and not lock(first)
    os.close(second)
    assert lock(first, shared=True) and lock(lockable(tmp_path), shared=True)


def test_a_path_on_another_drive_stays_as_it_is(monkeypatch):
    assert relative_path("a/b", "a") == "b"

    def refuse(path: str, start: str) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", refuse)
    assert relative_path(Path("D:/run"), "C:/") == str(Path("D:/run"))


def test_asking_whether_a_process_runs_does_it_no_harm(monkeypatch):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert is_running(process.pid)
        process.communicate(b"\n")
        assert process.returncode == 0
    assert not is_running(process.pid) and not is_running(10**30)

    def refuse(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, "another user's")

    monkeypatch.setattr(os, "kill", refuse)
    assert is_running(1)
