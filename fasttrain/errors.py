"""Error classes with the exit codes of the command line, and functions that turn errors into one-line messages."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from fasttrain.machine import free_inodes, user_name
from fasttrain.memory import limit


class FasttrainError(Exception):
    """Base of all errors that fasttrain raises on purpose. The command line exits with its `exit_code`."""

    exit_code = 1


class UserError(FasttrainError):
    """Raised for a problem that the user can fix. The message is one line: the file, the value and the fix."""

    exit_code = 2


class TooNew(UserError):
    """Raised for an intact file that a newer fasttrain has written, in a format that this version can't read."""


class Diverged(UserError):
    """Raised if the loss is no longer a finite number."""


class OutOfMemory(UserError):
    """Raised if the machine or the device has too little memory."""


class InternalError(FasttrainError):
    """Raised for a bug in fasttrain, or a failure that the user can't fix."""

    exit_code = 1


class Stopped(FasttrainError):
    """Raised if SIGTERM has stopped the run, which can be resumed."""

    exit_code = 75


_TRACE = "_fasttrain_trace"


def internal(error: BaseException) -> str:
    """Return one line about an error that the user can't fix: its type, its message, and where its traceback is."""
    message, kind = one_line(error), type(error).__name__
    if not isinstance(error, InternalError) and not message.startswith(kind):
        message = f"{kind}: {message}"
    if where := getattr(error, _TRACE, None):
        trace = f"the traceback is in {where}"
    else:
        trace = "the traceback is above" if os.environ.get("FASTTRAIN_DEBUG") else "--debug shows the traceback"
    return f"internal error: {message}; {trace}"


def remember_trace(error: BaseException, where: Path) -> None:
    """Note on `error` that its traceback was written to the file `where`. `internal` then names that file."""
    setattr(error, _TRACE, where)


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, or the name of its type if it has no message.

    If torch's DataLoader has put the traceback of a worker process into the message, return only the last error in it.
    """
    text = str(error)
    if "\nOriginal Traceback (most recent call last):\n" in text:
        raised = re.findall(r"^(?!Original|Traceback)[A-Za-z_][\w.<>]*(?:: .*)?$", text, re.MULTILINE)
        text = raised[-1] if raised else text.strip().splitlines()[-1]
    return " ".join(text.split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if it has no message.

    Converters and servers add traces of many lines after it.
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_MEMORY = "use a smaller --batch-size or --image-size or fewer --workers, end other programs, or raise the memory limit"
_ELSEWHERE = "choose another place"
_FREE_SPACE = "free some space there, or "
_REASONS: dict[int, tuple[str, str | None]] = {
    errno.ENOSPC: ("the disk is full", None),
    errno.EDQUOT: ("your disk quota is used up", None),
    errno.EACCES: ("no permission", None),
    errno.EPERM: ("no permission", None),
    errno.EROFS: ("the disk is read-only", None),
    errno.ENAMETOOLONG: ("the name is too long (mostly 255 bytes a name, 4,096 a path)", "choose a shorter one"),
    errno.ELOOP: ("its symbolic links form a loop", "fix the links"),
    errno.ENOTDIR: ("one of its folders is a file", None),
    errno.EISDIR: ("is a folder, but must be a file", None),
    errno.EEXIST: ("already exists", None),
    errno.EFBIG: ("exceeds the greatest file size allowed", "raise `ulimit -f`, or use a file system for large files"),
    errno.EMFILE: ("too many open files", "raise the limit (`ulimit -n 4096`), or give fewer --workers"),
    errno.ENFILE: ("too many open files on this machine", "end other programs, or raise fs.file-max"),
    errno.ENOMEM: ("out of memory", _MEMORY),
    errno.EIO: ("the disk failed (input/output error)", "see the kernel's log (dmesg), and copy the data elsewhere"),
    errno.ESTALE: ("the network file system has lost the file", "mount the file system again"),
    errno.EAGAIN: ("the system refuses more processes or memory", "give fewer --workers, or raise `ulimit -u`"),
}
"""The message and the usual fix for each error number; None if the fix depends on the file."""
STDOUT = "standard output"
NO_SHM = "give --workers 0 or fewer workers, another --loader, or a larger /dev/shm (docker run --shm-size=2g)"
"""The fix if /dev/shm (shared memory) is too small for worker processes."""
WORKER = "a loader's worker process"
UNGUARDED = 'start worker processes below `if __name__ == "__main__":`, as each of them imports the script'
"""The fix if a script starts worker processes, by spawn or forkserver, outside of such a guard."""

_NO_MEMORY = (
    r"can't allocate memory|[Cc]annot allocate memory|std::bad_alloc|[Nn]ot enough memory|[Ii]nsufficient memory|"
    r"out of memory|could not create a (primitive|memory)|CUDA allocation failed|Can't allocate \d+ bytes"
)

# Libraries raise these as a plain RuntimeError or OSError, so only the text of the message identifies them.
_LIBRARY_MESSAGES: tuple[tuple[str, str], ...] = (
    (
        r"\(shm\)|shm_open|shared memory object|out of shared memory|"
        "Unable to write to file </torch_|unable to mmap .*</torch_",
        f"a worker process found no space in /dev/shm{{shm}}; {NO_SHM}",
    ),
    (rf"{WORKER} was ended by SIGBUS", f"{WORKER} found no space in /dev/shm{{shm}}; {NO_SHM}"),
    (
        rf"{WORKER} was ended by SIGKILL",
        f"{WORKER} was killed, most likely by the kernel as memory ran out (see dmesg); give fewer --workers or a "
        "smaller --batch-size",
    ),
    (
        rf"{WORKER} ended (as it started|with exit code \d+) \(start method",
        f"{WORKER} failed as it started, with the error above; {UNGUARDED}",
    ),
    (_NO_MEMORY, f"out of memory{{wanted}}; {_MEMORY}"),
    (
        r"can't start new thread|[Rr]esource temporarily unavailable",
        "the system refuses more threads; give fewer --workers, or raise `ulimit -u`",
    ),
    (
        r"[Tt]oo many open files",
        "too many open files{files}; raise the limit (`ulimit -n 4096`), or give fewer --workers",
    ),
    (r"database or disk is full", f"the disk is full; {_FREE_SPACE}{_ELSEWHERE}"),
    (
        r"unable to open database file|readonly database|disk I/O error",
        "the database can't be written; make its folder writable and free some space there, or choose another place",
    ),
    (
        "No usable temporary directory",
        "no folder for temporary files (/tmp, …) can be written; free some space there, or set TMPDIR to a folder that "
        "can be written",
    ),
    (r"[Nn]o space left on device", f"the disk is full; {_FREE_SPACE}{_ELSEWHERE}"),
)  # fmt: skip


_MACHINE_FAULTS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE})
_DATABASES = ("sqlite3", "sqlalchemy", "optuna", "mlflow")


def fault_of_machine(error: OSError) -> bool:
    """Return whether `error` is caused by the machine (no memory, too many open files) and not by the file it names."""
    return error.errno in _MACHINE_FAULTS


def no_memory(message: str) -> bool:
    """Return whether `message`, a library's error about an image, says that memory ran out.

    Any other error means that the image is bad.
    """
    return re.search(_NO_MEMORY, message) is not None


def fixable(error: BaseException, path: str | Path | None = None, fix: str | None = None) -> UserError | None:
    """Return a one-line UserError for an error that the user can fix (a full disk, no permission, no memory, …).

    Return None for any other error, and for a FasttrainError. `path` replaces the file that the error names, and `fix`
    replaces the usual fix in the message.
    """
    if isinstance(error, FasttrainError):
        return None
    if isinstance(error, MemoryError):
        detail = one_line(error) if str(error) else ""
        return OutOfMemory(f"out of memory{f' ({detail[:100]})' if detail else ''}; {fix or _MEMORY}")
    if isinstance(error, OSError) and (error.errno in _REASONS or _folder_is_gone(error)):
        return of_os(error, path, fix)
    if isinstance(error, (OSError, RuntimeError)) or type(error).__module__.partition(".")[0] in _DATABASES:
        text = one_line(error)
        for pattern, message in _LIBRARY_MESSAGES:
            if re.search(pattern, text):
                where = f"{path}: " if path else ""
                values = {"shm": _free_space("/dev/shm"), "files": _open_files_limit(), "wanted": _requested(text)}
                kind = OutOfMemory if pattern == _NO_MEMORY else UserError
                return kind(where + message.format(**values))
    return None


def of_os(error: OSError, path: str | Path | None = None, fix: str | None = None) -> UserError:
    """Return a one-line UserError for an OSError: the file, the reason and the fix.

    `path` replaces the file that the error names. `fix` replaces the usual fix, unless the error has a fix of its own,
    such as a limit to raise.
    """
    where = path if path is not None else _file_name(error)
    if _folder_is_gone(error):
        reason = "its folder is gone" if where else "the working directory is gone"
        return UserError(f"{where}: {reason}; choose another place" if where else f"{reason}; cd to an existing folder")
    reason, usual_fix = _REASONS.get(error.errno or 0, (error.strerror or str(error) or type(error).__name__, None))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason += _free_space(where)
        fix = fix or _ELSEWHERE
        usual_fix = _FREE_SPACE + fix if fix.startswith(("choose", "give", "set")) else fix
    elif error.errno in (errno.EACCES, errno.EPERM) and where:
        reason += f" (as user {user_name()})"
    elif error.errno == errno.EEXIST and (name := _file_name(error)) and Path(name).is_file():
        where, reason = name, "is a file, not a folder"
    elif error.errno == errno.EMFILE:
        reason += _open_files_limit()
    line = f"{reason}; {usual_fix or fix or _ELSEWHERE}"
    return UserError(f"{where}: {line}" if where else line)


def _folder_is_gone(error: OSError) -> bool:
    """Return whether a file is missing because its folder, or the working directory, no longer exists."""
    if error.errno != errno.ENOENT:
        return False
    name = _file_name(error)
    try:
        if not Path(name).is_absolute():
            Path.cwd()
        return bool(name) and not Path(name).parent.exists()
    except FileNotFoundError:
        return True
    except OSError:  # no permission to look
        return False


def _file_name(error: OSError) -> str:
    return os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) and error.filename else ""


def _free_space(path: str | Path | None) -> str:
    """Return " (…)" with the free space of the disk that holds `path`, or with a note that it has no free inodes."""
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
        return f" (all its {inodes[1]:,} inodes are in use)"
    return f" ({disk.free / 1e6:,.1f} of {disk.total / 1e6:,.1f} MB are free)"


def _open_files_limit() -> str:
    most = limit("RLIMIT_NOFILE")
    return "" if most is None else f" (the limit of this process is {most:,})"


def _requested(text: str) -> str:
    found = re.search(r"allocate (\d+) bytes", text)
    return f" ({int(found[1]) / 1e6:,.0f} MB more were requested)" if found else ""
