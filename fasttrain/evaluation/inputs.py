"""Find photographs by path, folder or glob pattern, for `predict`."""

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
    """A path without a prediction, and the reason.

    `broken`: False for a file in a folder that is not a photograph, which `predict` skips; True for a path that the
    user gave and for a photograph that can't be read. `missing`: True if there is no such file, or no photograph in a
    folder.
    """

    path: str
    reason: str
    broken: bool = True
    missing: bool = False

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.reason}"


def find_photographs(given: Iterable[str | Path]) -> Iterator[Path | Refused]:
    """Yield each photograph that the paths in `given` name, in the order of `given`.

    A path that can't be used is yielded as a `Refused`, which has the reason. A file is always taken as a photograph,
    whatever its name. A folder stands for all photographs at any depth in it, sorted by name; they are recognized by
    their names or first bytes, and hidden ones are skipped. A path that doesn't exist and contains `*`, `?` or `[` is a
    glob pattern, in which `**` matches any depth.
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
    """Return whether nothing exists at `path`. A broken link counts as existing, and so does a path without permission
    to read it."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _below(folder: Path) -> Iterator[Path | Refused]:
    """Yield the photographs at any depth in `folder`, and files that aren't photographs."""
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
    """Yield the files that match the glob `pattern`, and the photographs in folders that match it."""
    matches = sorted(glob.iglob(pattern, recursive=True))  # noqa: PTH207 - pathlib takes no absolute pattern
    if not matches:
        yield Refused(pattern, "no file matches this pattern", missing=True)
    # `**` matches a folder and also everything below it, so folders are skipped to yield each file once.
    everything = "**" in pattern
    for match in matches:
        path = Path(match)
        if not path.is_dir():
            yield path
        elif not everything:
            yield from _below(path)
