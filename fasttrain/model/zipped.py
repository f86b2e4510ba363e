"""Check that a `.pt` or `.pth` file, which is a zip, unpacks to no more than its own size."""

from __future__ import annotations

import zipfile
from pathlib import Path

from fasttrain.errors import UserError


def require_honest_sizes(path: Path) -> None:
    """Raise UserError if the zip file `path` would unpack to more bytes than its own size.

    torch writes its files without compression, so a file that grows was made to fill the memory. Nothing is raised for
    a file that is not a zip.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(each.file_size for each in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError):  # torch reports the error when it reads the file
        return
    if declared > path.stat().st_size:
        raise UserError(
            f"{path}: refused, because it would unpack to {declared:,} bytes, more than its own size, but torch.save "
            "doesn't compress; get the file from its author again"
        )
