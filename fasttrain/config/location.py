"""Where data lies, a folder or a URL, and how large a cache may get, as people write them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fasttrain.errors import UserError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_UPLOAD = {"s3": "aws s3 sync", "gs": "gcloud storage rsync --recursive"}


class NoSuchHome(UserError, ValueError):
    """A path begins with `~`, and there is no such home folder. A ValueError, too, since validators of settings raise
    those."""


def user_path(path: str | Path) -> Path:
    """Make a Path of a path that a user wrote: `~` and `~name` at its start become that home folder, as in a shell.

    A file that is really named so (`~$menu.jpg`) stays what it is. Raises NoSuchHome.
    """
    path = Path(path)
    first = path.parts[0] if path.parts else ""
    if not first.startswith("~"):
        return path
    home = os.path.expanduser(first)  # noqa: PTH111 - Path's raises for a file named so
    if Path(home).is_absolute():
        return Path(home, *path.parts[1:])
    if first == "~":
        raise NoSuchHome(f"{path}: this account has no home folder; set HOME, or write the path in full")
    if os.path.lexists(first):
        return path
    raise NoSuchHome(f"{path}: there is no user named '{first[1:]}' here; write the path in full")


def is_url(location: str | Path) -> bool:
    """Whether `location` is one that fsspec opens: s3://, gs://, https://, file://, memory://."""
    return isinstance(location, str) and "://" in location


def url_in_path(location: str | Path) -> str | None:
    """The URL that `Path` took a slash from (`s3:/bucket`) or that is whole; None for a folder."""
    found = re.match(r"([a-z][a-z0-9+.-]+):/+(?=[^/])", str(location))
    return None if found is None else f"{found[1]}://{str(location)[found.end() :]}"


def upload_command(url: str) -> str | None:
    """What copies the folder `shards` to `url`; None where there is no common tool for it."""
    tool = _UPLOAD.get(url.partition("://")[0])
    return None if tool is None else f"{tool} shards {url}"


def parse_location(location: str | Path) -> str | Path:
    """A URL as str, without slashes at its end; anything else as Path, with `~` expanded."""
    return location.rstrip("/") if isinstance(location, str) and is_url(location) else user_path(location)


def parse_size(text: str) -> int:
    """Bytes, above 0, of "50GB", "500 MB", "1.5TiB" or "50" (GB). Raises ValueError, one line, for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt]?)(i?)b?)?", text.strip().lower())
    if not found:
        raise ValueError(f"cache_size = '{text}' is not understood; write 50GB, or 500MB")
    number, unit, binary = found.groups()
    bare = text.strip().lower() == number
    factor = _UNITS["g"] if bare else (_BINARY if binary else _UNITS).get(unit, 1)
    size = int(float(number) * factor)
    if size < 1:
        raise ValueError(f"cache_size = '{text}' holds nothing; write 50GB, or 500MB")
    return size


def shown_size(size: int) -> str:
    """ "1.4 GB", or "3.0 MB" for what is less than one."""
    return f"{size / 1e9:,.1f} GB" if size >= 10**9 else f"{size / 1e6:,.1f} MB"
