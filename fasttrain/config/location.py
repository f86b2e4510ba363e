"""Parse the locations of data that users write: folders, which may begin with `~`, and URLs."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fasttrain.errors import UserError

_UPLOAD = {"s3": "aws s3 sync", "gs": "gcloud storage rsync --recursive"}


class NoSuchHome(UserError, ValueError):
    """Raised for a path that begins with `~` or `~name` if this user has no home folder.

    It is a ValueError because pydantic requires one of its validators.
    """


def user_path(path: str | Path) -> Path:
    """Return `path` as a Path. At its start, `~` is replaced by this account's home folder, `~name` by that user's.

    An existing file whose name begins with `~`, such as `~$menu.jpg`, is returned unchanged. Raises NoSuchHome if this
    account has no home folder, or if there is no user `name`.
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
    """Return the folder for caches: `$FASTTRAIN_CACHE` if this is set, otherwise `~/.cache/fasttrain`.

    Raises UserError if the variable isn't set and this account has no home folder.
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
    """Return whether `location` is a str with "://" in it, such as s3://, gs://, https://, file:// or memory://."""
    return isinstance(location, str) and "://" in location


def url_in_path(location: str | Path) -> str | None:
    """Return `location` as a URL with two slashes, even if `Path` has removed one of them ("s3:/bucket").

    Return None if `location` is a folder.
    """
    found = re.match(r"([a-z][a-z0-9+.-]+):/+(?=[^/])", str(location))
    return None if found is None else f"{found[1]}://{str(location)[found.end() :]}"


def upload_command(url: str) -> str | None:
    """Return the shell command that copies the local folder "shards" to `url`.

    Return None unless `url` begins with s3:// or gs://.
    """
    tool = _UPLOAD.get(url.partition("://")[0])
    return None if tool is None else f"{tool} shards {url}"


def parse_location(location: str | Path) -> str | Path:
    """Return a URL as a str without trailing slashes, and anything else as a Path.

    `~` at the start of a path is expanded. Raises NoSuchHome if there is no such home folder.
    """
    return location.rstrip("/") if isinstance(location, str) and is_url(location) else user_path(location)


def shown_size(size: int) -> str:
    """Return a `size` in bytes as text: in GB, such as "1.4 GB", or in MB if it is below 1 GB."""
    return f"{size / 1e9:,.1f} GB" if size >= 10**9 else f"{size / 1e6:,.1f} MB"
