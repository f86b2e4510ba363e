"""The location of data: a folder, also below `~`, or a URL."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fasttrain.errors import UserError

_UPLOAD = {"s3": "aws s3 sync", "gs": "gcloud storage rsync --recursive"}


class NoSuchHome(UserError, ValueError):
    """A path begins with `~`, but there is no such home folder.

    It is also a ValueError, which validators of settings must raise.
    """


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


def cache_root() -> Path:
    """Return `$FASTTRAIN_CACHE`, or `~/.cache/fasttrain`. Raises UserError where there is no home folder."""
    if given := os.environ.get("FASTTRAIN_CACHE"):
        return user_path(given)
    try:
        return user_path("~/.cache/fasttrain")
    except NoSuchHome as error:
        raise UserError(
            "this account has no home folder to keep a cache in; set FASTTRAIN_CACHE to a folder that can be written"
        ) from error


def is_url(location: str | Path) -> bool:
    """Return whether fsspec opens `location`: s3://, gs://, https://, file://, memory://."""
    return isinstance(location, str) and "://" in location


def url_in_path(location: str | Path) -> str | None:
    """Return the complete URL, also if `Path` removed one of its slashes (`s3:/bucket`), or None for a folder."""
    found = re.match(r"([a-z][a-z0-9+.-]+):/+(?=[^/])", str(location))
    return None if found is None else f"{found[1]}://{str(location)[found.end() :]}"


def upload_command(url: str) -> str | None:
    """Return a command that copies the folder `shards` to `url`, or None if there is no common tool for it."""
    tool = _UPLOAD.get(url.partition("://")[0])
    return None if tool is None else f"{tool} shards {url}"


def parse_location(location: str | Path) -> str | Path:
    """Return a URL as str, without trailing slashes, and anything else as Path, with `~` expanded."""
    return location.rstrip("/") if isinstance(location, str) and is_url(location) else user_path(location)


def shown_size(size: int) -> str:
    """Return a size as "1.4 GB", or "3.0 MB" if it is less than one."""
    return f"{size / 1e9:,.1f} GB" if size >= 10**9 else f"{size / 1e6:,.1f} MB"
