"""MLflow's SQLite file, made whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from fasttrain.files import atomic_folder, make_folder


def make_database(uri: str) -> None:
    """Makes the file of a `sqlite:///` URI with MLflow's tables in it, where there is none.

    MLflow lays the tables out one after the other. What a kill or a full disk ends half-way it refuses for ever
    ("table … already exists"), and with it every later run of that store. Raises the database's errors, and OSError.
    """
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or "?" in uri or ":memory:" in uri or path.exists():
        return
    from mlflow.store.db import utils

    if not hasattr(utils, "_initialize_tables"):  # not public: without it MLflow makes them in place, as it always does
        return
    make_folder(path.parent)
    with atomic_folder(path) as folder:
        made = folder / path.name
        try:
            engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{made}")
            try:
                utils._initialize_tables(engine)
            finally:
                engine.dispose()
            with made.open("rb") as file:
                os.fsync(file.fileno())
            try:
                os.link(made, path)  # not a rename, which would replace one that another run was quicker to make
            except FileExistsError:
                pass
            except OSError:  # no links here, or no room for one
                made.rename(path)
        finally:
            made.unlink(missing_ok=True)
