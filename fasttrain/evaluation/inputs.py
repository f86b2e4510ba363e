"""Find the photographs that `predict` was given as files, folders or globs."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fasttrain.config.location import user_path
from fasttrain.photos.walk import Found, walk
from fasttrain.text import printable


@dataclass(frozen=True)
class Refused:
    """A file that gives no prediction, and why.

    broken: it should have given one; else it isn't a photograph, by its name. missing: it is broken since nothing is
    there.
    """

    path: str
    reason: str
    broken: bool = True
    missing: bool = False

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.reason}"


def find_photographs(given: Iterable[str | Path]) -> Iterator[Path | Refused]:
    """Each photograph that `given` means, in its order, those of a folder or a glob by name; found as it is asked for.

    A folder means all photographs below it, by their names or first bytes, hidden ones passed over. What exists under
    a name with `*`, `?` or `[` in it is that file, else the name is a glob, `**` any depth. What is named alone is
    taken for a photograph, whatever its name.
    """
    for each in given:
        path = user_path(each)
        if path.is_dir():
            yield from _below(path)
        elif not _is_missing(path):
            yield path
        elif not glob.has_magic(str(each)):
            yield Refused(str(path), "no such file", missing=True)
        else:
            yield from _matching(str(path))


def _is_missing(path: Path) -> bool:
    """Return whether nothing is there; a link that leads nowhere, and what can't be looked at, is something."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _below(folder: Path) -> Iterator[Path | Refused]:
    empty = True
    try:
        for entry in walk(folder, "", set()):
            if isinstance(entry, Found):
                empty = False
                yield folder / entry.path
            else:
                relative, reason = entry
                yield Refused(str(folder / relative), reason, broken=False)
    except OSError as error:
        yield Refused(str(error.filename or folder), error.strerror or str(error))
        return
    if empty:
        yield Refused(str(folder), "no photograph in this folder", missing=True)


def _matching(pattern: str) -> Iterator[Path | Refused]:
    matches = sorted(glob.iglob(pattern, recursive=True))  # noqa: PTH207 - pathlib takes no absolute pattern
    if not matches:
        yield Refused(pattern, "nothing has such a name", missing=True)
    # `**` names a folder and all that lies below it: the files alone say it once.
    everything = "**" in pattern
    for match in matches:
        path = Path(match)
        if not path.is_dir():
            yield path
        elif not everything:
            yield from _below(path)
