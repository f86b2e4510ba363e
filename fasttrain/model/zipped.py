"""Check that a `.pt` or `.pth` file, which is a zip, unpacks to no more than its own size."""

from __future__ import annotations

import zipfile
from pathlib import Path

from fasttrain.errors import UserError


def require_honest_sizes(path: Path) -> None:
    """torch stores without compression; a zip that would unpack to more than it is was made to fill the memory.

    Raises UserError for such a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(each.file_size for each in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError):  # torch itself says what is wrong with it
        return
    if declared > path.stat().st_size:
        raise UserError(f"{path}: refused, as it would unpack to {declared:,} bytes, more than it has")
