"""Access files behind a URL through fsspec: choose the driver, retry if the network fails, raise one-line errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from fasttrain.errors import UserError
from fasttrain.extras import install

T = TypeVar("T")

WAITS = (0.5, 2.0, 5.0)
"""Seconds to wait before each retry. s3fs itself retries for about ten seconds in each try."""
_STAMPS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "last_modified", "LastModified", "created")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}


class Cancelled(Exception):
    """Raised in the middle of a download if the requested file isn't needed any more."""


def file_system(location: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it without a trailing slash.

    Call this for each access instead of storing the result: fsspec caches file systems, and makes a new one after a
    fork, because connections don't survive a fork. Raises UserError for an unknown protocol or a missing driver.
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
    """Return `work(file_system, path)` for the URL `location`. Try up to three more times if it fails.

    `name`: the path below `location`, for error messages. `stop`: an event that ends the attempts once set. Raises
    FileNotFoundError if `work` raises it, Cancelled if `stop` is set, and UserError if all attempts fail. If the driver
    lacks credentials or the operation, raises UserError after the first attempt.
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
            raise UserError(
                f"{url}: its driver lacks an operation that fasttrain needs; give an s3:// or gs:// URL, or a folder"
            ) from error
        except Exception as error:  # drivers raise errors of their own, without a common base
            message = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
                raise UserError(
                    f"{url}: {message}; give the credentials that its driver looks for (for a public S3 bucket "
                    "FSSPEC_S3_ANON=true)"
                ) from error
            if (wait := next(waits, None)) is None:
                tries = len(WAITS) + 1
                raise UserError(f"{url}: {message} (tried {tries} times); check the URL and the network") from error
            stop.wait(wait)
    raise Cancelled


def stamp_of(info: dict[str, Any]) -> str:
    """Return a string that changes whenever a file changes, given the `info` that its fsspec driver returns.

    The string is the checksum that the store reports for the file. If it reports none, the string is the time of the
    file's last change.
    """
    found = next((info[name] for name in _STAMPS if info.get(name)), "")
    return str(found.timestamp() if isinstance(found, datetime) else found)  # drivers give a datetime or a number
