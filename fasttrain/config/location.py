"""Parse the locations of data that users write: folders, also with `~`, and URLs."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fasttrain.errors import UserError

_UPLOAD = {"s3": "aws s3 sync", "gs": "gcloud storage rsync --recursive"}


class NoSuchHome(UserError, ValueError):
    """Raised for a path that begins with `~` if there is no such home folder.

    It is also a ValueError, as pydantic requires of the errors that validators raise.
    """


def user_path(path: str | Path) -> Path:
    """Return a user's path as a Path, in which `~` or `~name` at the start is replaced by that home folder.

    An existing file whose name begins with `~`, such as `~$menu.jpg`, is returned unchanged. Raises NoSuchHome if that
    home folder doesn't exist.
    """
    path = Path(path)
    first = path.parts[0] if path.parts else ""
    if not first.startswith("~"):
        return path
    home = os.path.expanduser(first)  # noqa: PTH111 - Path.expanduser raises for a file with such a name
    if Path(home).is_absolute():
        return Path(home, *path.parts[1:])
    if first == "~":
        raise NoSuchHome(f"{path}: this account has no home folder; set HOME, or write the path in full")
    if os.path.lexists(first):
        return path
    raise NoSuchHome(f"{path}: there is no user named '{first[1:]}' here; write the path in full")


def cache_root() -> Path:
    """Return the folder for caches: `$FASTTRAIN_CACHE` or `~/.cache/fasttrain`.

    Raises UserError if there is no home folder.
    """
    if given := os.environ.get("FASTTRAIN_CACHE"):
        return user_path(given)
    try:
        return user_path("~/.cache/fasttrain")
    except NoSuchHome as error:
        raise UserError(
            "this account has no home folder for the cache; set FASTTRAIN_CACHE to a folder that can be written"
        ) from error


def is_url(location: str | Path) -> bool:
    """Return whether `location` is a URL, which fsspec opens: s3://, gs://, https://, file:// or memory://."""
    return isinstance(location, str) and "://" in location


def url_in_path(location: str | Path) -> str | None:
    """Return the URL in `location`, with both slashes even if `Path` has removed one (`s3:/bucket`); None for a
    folder."""
    found = re.match(r"([a-z][a-z0-9+.-]+):/+(?=[^/])", str(location))
    return None if found is None else f"{found[1]}://{str(location)[found.end() :]}"


def upload_command(url: str) -> str | None:
    """Return the shell command that copies the folder `shards` to `url`, or None if no common tool can."""
    tool = _UPLOAD.get(url.partition("://")[0])
    return None if tool is None else f"{tool} shards {url}"


def parse_location(location: str | Path) -> str | Path:
    """Return a URL as a str without trailing slashes, and anything else as a Path with `~` expanded."""
    return location.rstrip("/") if isinstance(location, str) and is_url(location) else user_path(location)


def shown_size(size: int) -> str:
    """Return a size, given in bytes, as text such as "1.4 GB", or "3.0 MB" if it is below 1 GB."""
    return f"{size / 1e9:,.1f} GB" if size >= 10**9 else f"{size / 1e6:,.1f} MB"
