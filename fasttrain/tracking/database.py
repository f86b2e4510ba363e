"""MLflow's SQLite file: find its path in a URI, and create it atomically."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from fasttrain.files import atomic_folder, make_folder
from fasttrain.machine import sync_file

_PREFIX = "sqlite:///"


def quoted(path: Path) -> str:
    """Return `path` as it is written in a `sqlite:///` URI.

    In such a URI a ? begins the query, and SQLAlchemy decodes sequences such as %41 from version 2.1 on. Older versions
    can't read an escaped path, so under these the path is returned as it is.
    """
    text = str(path)
    if not {"%", "?"} & set(text) or not _sqlalchemy_decodes():
        return text
    return text.replace("%", "%25").replace("?", "%3F")


def database_file(uri: str) -> Path | None:
    """Return the file of a `sqlite:///` URI. Return None for any other URI, or for a database in memory."""
    path = uri.removeprefix(_PREFIX).partition("?")[0]
    if not uri.startswith(_PREFIX) or path in ("", ":memory:"):
        return None
    return Path(unquote(path) if "%" in path and _sqlalchemy_decodes() else path)


def make_database(uri: str) -> None:
    """Create the file of a `sqlite:///` URI with MLflow's tables, if it does not exist. Do nothing for other URIs.

    The file is created completely or not at all. MLflow on its own creates one table after the other. After a kill or a
    full disk between two tables, it refuses the unfinished file forever ("table … already exists"). Raises OSError, or
    an error of SQLAlchemy or MLflow, if the file can't be created.
    """
    path = database_file(uri)
    if path is None or "?" in uri or path.exists():
        return
    from mlflow.store.db import utils

    if not hasattr(utils, "_initialize_tables"):  # a private function; without it, let MLflow create the tables itself
        return
    make_folder(path.parent)
    with atomic_folder(path) as folder:
        made = folder / path.name
        try:
            with without_stray_folders(temporary := f"{_PREFIX}{quoted(made)}"):
                engine = utils.create_sqlalchemy_engine_with_retry(temporary)
            try:
                utils._initialize_tables(engine)
            finally:
                engine.dispose()
            with made.open("r+b") as file:  # Windows only flushes files that are open for writing
                sync_file(file.fileno())
            try:
                os.link(made, path)  # a rename would replace a file that another run has just created
            except FileExistsError:
                pass
            except OSError:  # the file system has no hard links, or is full
                made.rename(path)
        finally:
            made.unlink(missing_ok=True)


@contextlib.contextmanager
def without_stray_folders(uri: str) -> Iterator[None]:
    """Return a context at whose end empty folders are removed that MLflow has created by mistake.

    MLflow takes an escaped path in `uri`, such as one with %20, for the name of a folder, and creates that folder.
    """
    file, literal = database_file(uri), Path(uri.removeprefix(_PREFIX).partition("?")[0])
    stray = [each for each in literal.parents if not each.exists()] if file not in (None, literal) else []
    try:
        yield
    finally:
        for folder in stray:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _sqlalchemy_decodes() -> bool:
    """Return whether the installed SQLAlchemy decodes sequences such as %41 in a URI."""
    from sqlalchemy.engine import make_url

    return make_url(f"{_PREFIX}%41").database == "A"
