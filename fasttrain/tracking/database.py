"""MLflow's SQLite file: its path in a URI, and how it is created atomically."""

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
    """Return the path for a URI, in which a ? begins the query, and SQLAlchemy decodes %41 since version 2.1."""
    text = str(path)
    if not {"%", "?"} & set(text) or not _decodes():
        return text
    return text.replace("%", "%25").replace("?", "%3F")


def database_file(uri: str) -> Path | None:
    """Return the file of a `sqlite:///` URI; None for any other."""
    path = uri.removeprefix(_PREFIX).partition("?")[0]
    if not uri.startswith(_PREFIX) or path in ("", ":memory:"):
        return None
    return Path(unquote(path) if "%" in path and _decodes() else path)


def make_database(uri: str) -> None:
    """Make the file of a `sqlite:///` URI with MLflow's tables in it, where there is none.

    MLflow lays the tables out one after the other. What a kill or a full disk ends half-way it refuses for ever
    ("table … already exists"), and with it every later run of that store. Raises the database's errors, and OSError.
    """
    path = database_file(uri)
    if path is None or "?" in uri or path.exists():
        return
    from mlflow.store.db import utils

    if not hasattr(utils, "_initialize_tables"):  # not public: without it MLflow makes them in place, as it always does
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
            with made.open("r+b") as file:  # Windows flushes only what may be written
                sync_file(file.fileno())
            try:
                os.link(made, path)  # not a rename, which would replace one that another run was quicker to make
            except FileExistsError:
                pass
            except OSError:  # no links here, or no room for one
                made.rename(path)
        finally:
            made.unlink(missing_ok=True)


@contextlib.contextmanager
def without_stray_folders(uri: str) -> Iterator[None]:
    """Remove the folders that MLflow makes for a path that is quoted in `uri`: it takes the quoted one for the path."""
    file, literal = database_file(uri), Path(uri.removeprefix(_PREFIX).partition("?")[0])
    stray = [each for each in literal.parents if not each.exists()] if file not in (None, literal) else []
    try:
        yield
    finally:
        for folder in stray:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _decodes() -> bool:
    from sqlalchemy.engine import make_url

    return make_url(f"{_PREFIX}%41").database == "A"
