"""Files behind a URL, through fsspec: the driver, another try where the network fails, errors of one line."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from fasttrain.errors import UserError
from fasttrain.extras import install

T = TypeVar("T")

WAITS = (0.5, 2.0, 5.0)
"""Seconds before another try; s3fs itself tries for some ten seconds each time."""
_STAMPS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "last_modified", "LastModified", "created")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}


class Cancelled(Exception):
    """The requester of a file fetched ahead doesn't need it any more."""


def file_system(location: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it without a slash at its end. Raises UserError.

    Ask for it each time: fsspec keeps them, and makes a new one after a fork, which its connections don't survive.
    """
    from fsspec.core import url_to_fs

    protocol = location.partition("://")[0]
    try:
        files, root = url_to_fs(location)
    except ImportError as error:
        if extra := _EXTRAS.get(protocol):
            raise UserError(f"{location} needs a driver: {install(extra)}") from error
        raise UserError(f"{location} needs a driver: {error}") from error
    except ValueError as error:
        raise UserError(f"{location}: {error}; give a folder, or an s3://, gs:// or https:// URL") from error
    return files, root.rstrip("/")


def retried(location: str, name: str, work: Callable[[Any, str], T], stop: threading.Event | None = None) -> T:
    """Return what `work` makes of fsspec's file system and the path of `location`; try again while the network fails.

    name: of a file below, for the error. FileNotFoundError passes through. Raises UserError for all else that a driver
    raises, and Cancelled once `stop` is set.
    """
    stop = stop or threading.Event()
    url = f"{location}/{name}" if name else location
    waits = iter(WAITS)
    while not stop.is_set():
        files, root = file_system(location)
        try:
            return work(files, root)
        except FileNotFoundError:
            raise
        except NotImplementedError as error:
            raise UserError(f"{url}: its driver can't do this; give an s3:// or gs:// URL, or a folder") from error
        except Exception as error:  # each driver has its own, without a common base
            said = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
                raise UserError(
                    f"{url}: {said}; give the credentials that its driver looks for (for a public S3 bucket "
                    "FSSPEC_S3_ANON=true)"
                ) from error
            if (wait := next(waits, None)) is None:
                tries = len(WAITS) + 1
                raise UserError(f"{url}: {said} (tried {tries} times); check the URL and the network") from error
            stop.wait(wait)
    raise Cancelled


def stamp_of(info: dict[str, Any]) -> str:
    """Return a text that changes when another file takes the place of the one that a driver's `info` describes.

    It is the store's checksum where it tells one, else a time.
    """
    found = next((info[name] for name in _STAMPS if info.get(name)), "")
    return str(found.timestamp() if isinstance(found, datetime) else found)  # drivers give times in either form
