"""Errors for people: one line each, with the exit code of the command line."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from fasttrain.machine import free_inodes, user_name
from fasttrain.memory import limit


class FasttrainError(Exception):
    """Base of all errors that fasttrain raises on purpose. `exit_code` is that of the process."""

    exit_code = 1


class UserError(FasttrainError):
    """An error that the user can fix. The message is one line: the file, the value, the fix."""

    exit_code = 2


class TooNew(UserError):
    """An intact file whose schema is newer than this version knows."""


class Diverged(UserError):
    """The loss is no longer a finite number."""


class OutOfMemory(UserError):
    """There is not enough memory, on the machine or the device, for what was asked."""


class InternalError(FasttrainError):
    """A fault of fasttrain itself."""

    exit_code = 1


class Stopped(FasttrainError):
    """The run was stopped by SIGTERM and can be resumed."""

    exit_code = 75


_TRACE = "_fasttrain_trace"


def internal(error: BaseException) -> str:
    """Describe an error that the user can't fix, in one line: what it is, and where its traceback can be read."""
    said, kind = one_line(error), type(error).__name__
    if not isinstance(error, InternalError) and not said.startswith(kind):
        said = f"{kind}: {said}"
    if where := getattr(error, _TRACE, None):
        trace = f"the traceback is in {where}"
    else:
        trace = "the traceback is above" if os.environ.get("FASTTRAIN_DEBUG") else "--debug shows the traceback"
    return f"internal error: {said}; {trace}"


def remember_trace(error: BaseException, where: Path) -> None:
    """Note that the traceback of `error` was written to the file `where`, for `internal`."""
    setattr(error, _TRACE, where)


def one_line(error: BaseException) -> str:
    """Give an error's message, or its type where it has none.

    DataLoader puts the whole traceback of a worker process into the message: of that, only what was raised is given.
    """
    text = str(error)
    if "\nOriginal Traceback (most recent call last):\n" in text:
        raised = re.findall(r"^(?!Original|Traceback)[A-Za-z_][\w.<>]*(?:: .*)?$", text, re.MULTILINE)
        text = raised[-1] if raised else text.strip().splitlines()[-1]
    return " ".join(text.split()) or type(error).__name__


_MEMORY = "use a smaller --batch-size or --image-size or fewer --workers, end other programs, or raise the limit"
_ELSEWHERE = "choose another place"
_ROOM = "make room there, or "
_SAID: dict[int, tuple[str, str | None]] = {
    errno.ENOSPC: ("the disk is full", None),
    errno.EDQUOT: ("your disk quota is used up", None),
    errno.EACCES: ("no permission", None),
    errno.EPERM: ("no permission", None),
    errno.EROFS: ("the disk is read-only", None),
    errno.ENAMETOOLONG: ("the name is too long (mostly 255 bytes a name, 4,096 a path)", "choose a shorter one"),
    errno.ELOOP: ("its links lead round in circles", "fix the links"),
    errno.ENOTDIR: ("one of its folders is a file", None),
    errno.EISDIR: ("is a folder, where a file is needed", None),
    errno.EEXIST: ("is there already", None),
    errno.EFBIG: ("larger than a file may be here", "raise `ulimit -f`, or choose a file system for large files"),
    errno.EMFILE: ("too many open files", "raise the limit (`ulimit -n 4096`), or give fewer --workers"),
    errno.ENFILE: ("too many open files on this machine", "end other programs, or raise fs.file-max"),
    errno.ENOMEM: ("out of memory", _MEMORY),
    errno.EIO: ("the disk failed (input/output error)", "see the kernel's log (dmesg), and copy the data elsewhere"),
    errno.ESTALE: ("the network file system has lost it", "mount it anew"),
    errno.EAGAIN: ("the machine has no more processes or memory to give", "give fewer --workers, or raise `ulimit -u`"),
}
STDOUT = "standard output"
NO_SHM = "give --workers 0 or fewer, another --loader, or a larger one (docker run --shm-size=2g)"
"""The fix if /dev/shm is too small for worker processes."""
WORKER = "a loader's worker process"
UNGUARDED = 'call what starts them below `if __name__ == "__main__":`, as each worker process imports the script'
"""The fix if a script without a guard starts worker processes by another method than fork."""

_NO_MEMORY = (
    r"can't allocate memory|[Cc]annot allocate memory|std::bad_alloc|[Nn]ot enough memory|[Ii]nsufficient memory|"
    r"out of memory|could not create a (primitive|memory)|CUDA allocation failed|Can't allocate \d+ bytes"
)

# What libraries raise as a plain RuntimeError or OSError, with nothing but words to tell it by.
_WORDS: tuple[tuple[str, str], ...] = (
    (
        r"\(shm\)|shm_open|shared memory object|out of shared memory|"
        "Unable to write to file </torch_|unable to mmap .*</torch_",
        f"a worker process found no room in /dev/shm{{shm}}; {NO_SHM}",
    ),
    (rf"{WORKER} was ended by SIGBUS", f"{WORKER} found no room in /dev/shm{{shm}}; {NO_SHM}"),
    (
        rf"{WORKER} was ended by SIGKILL",
        f"{WORKER} was killed, most likely by the kernel as memory ran out (dmesg says so); give fewer --workers or a "
        "smaller --batch-size",
    ),
    (
        rf"{WORKER} ended (as it started|with exit code \d+) \(start method",
        f"{WORKER} failed as it started, with the error above; {UNGUARDED}",
    ),
    (_NO_MEMORY, f"out of memory{{wanted}}; {_MEMORY}"),
    (
        r"can't start new thread|[Rr]esource temporarily unavailable",
        "the machine has no more threads to give; give fewer --workers, or raise `ulimit -u`",
    ),
    (
        r"[Tt]oo many open files",
        "too many open files{files}; raise the limit (`ulimit -n 4096`), or give fewer --workers",
    ),
    (r"database or disk is full", f"the disk is full; {_ROOM}{_ELSEWHERE}"),
    (
        r"unable to open database file|readonly database|disk I/O error",
        "the database can't be written; see that its folder can, with room on the disk, or choose another place",
    ),
    (
        "No usable temporary directory",
        "no folder for temporary files (/tmp, …) can be written; make room there, or set TMPDIR to one that can",
    ),
    (r"[Nn]o space left on device", f"the disk is full; {_ROOM}{_ELSEWHERE}"),
)  # fmt: skip


_OF_MACHINE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE})
_DATABASES = ("sqlite3", "sqlalchemy", "optuna", "mlflow")


def fault_of_machine(error: OSError) -> bool:
    """Return whether the machine, and not a file, is at fault: other files can't be read now either."""
    return error.errno in _OF_MACHINE


def no_memory(said: str) -> bool:
    """Return whether a library's message about a picture means that memory ran out, and not that the picture is
    broken."""
    return re.search(_NO_MEMORY, said) is not None


def fixable(error: BaseException, path: str | Path | None = None, fix: str | None = None) -> UserError | None:
    """Return an error of one line if the machine refused something (a full disk, no permission, no memory, …).

    Returns None if `error` is something else, or already a UserError. `path` takes precedence over the error's own
    file, and `fix` over the usual fix.
    """
    if isinstance(error, FasttrainError):
        return None
    if isinstance(error, MemoryError):
        said = one_line(error) if str(error) else ""
        return OutOfMemory(f"out of memory{f' ({said[:100]})' if said else ''}; {fix or _MEMORY}")
    if isinstance(error, OSError) and (error.errno in _SAID or _gone(error)):
        return of_os(error, path, fix)
    if isinstance(error, (OSError, RuntimeError)) or type(error).__module__.partition(".")[0] in _DATABASES:
        text = one_line(error)
        for pattern, said in _WORDS:
            if re.search(pattern, text):
                where = f"{path}: " if path else ""
                values = {"shm": _free("/dev/shm"), "files": _open_files(), "wanted": _wanted(text)}
                kind = OutOfMemory if pattern == _NO_MEMORY else UserError
                return kind(where + said.format(**values))
    return None


def of_os(error: OSError, path: str | Path | None = None, fix: str | None = None) -> UserError:
    """Return an OSError as an error of one line.

    `path` and `fix` are as in `fixable`. A fix that does not depend on the place, such as a limit to raise, takes
    precedence over `fix`.
    """
    where = path if path is not None else _name(error)
    if _gone(error):
        said = "its folder is gone" if where else "the working directory is gone"
        return UserError(f"{where}: {said}; choose another place" if where else f"{said}; cd to a folder that is there")
    said, own = _SAID.get(error.errno or 0, (error.strerror or str(error) or type(error).__name__, None))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        said += _free(where)
        fix = fix or _ELSEWHERE
        own = _ROOM + fix if fix.startswith(("choose", "give", "set")) else fix
    elif error.errno in (errno.EACCES, errno.EPERM) and where:
        said += f" (as user {user_name()})"
    elif error.errno == errno.EEXIST and (name := _name(error)) and Path(name).is_file():
        where, said = name, "is a file, not a folder"
    elif error.errno == errno.EMFILE:
        said += _open_files()
    line = f"{said}; {own or fix or _ELSEWHERE}"
    return UserError(f"{where}: {line}" if where else line)


def _gone(error: OSError) -> bool:
    """Return whether a folder that existed is gone. Any other missing file is for its reader to explain."""
    if error.errno != errno.ENOENT:
        return False
    name = _name(error)
    try:
        if not Path(name).is_absolute():
            Path.cwd()
        return bool(name) and not Path(name).parent.exists()
    except FileNotFoundError:
        return True
    except OSError:  # nobody may look
        return False


def _name(error: OSError) -> str:
    return os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) and error.filename else ""


def _free(path: str | Path | None) -> str:
    """Return how much of the disk is free, or that it has no more inodes, in brackets."""
    if not path or path == STDOUT:
        return ""
    folder = Path(path)
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        inodes, disk = free_inodes(folder), shutil.disk_usage(folder)
    except OSError:
        return ""
    if inodes is not None and not inodes[0]:
        return f" (it has no room for another file, of {inodes[1]:,})"
    return f" ({disk.free / 1e6:,.1f} of {disk.total / 1e6:,.1f} MB are free)"


def _open_files() -> str:
    most = limit("RLIMIT_NOFILE")
    return "" if most is None else f" (this process may have {most:,})"


def _wanted(text: str) -> str:
    found = re.search(r"allocate (\d+) bytes", text)
    return f" ({int(found[1]) / 1e6:,.0f} MB more were asked for)" if found else ""
