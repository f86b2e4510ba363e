"""The option `--model` for a model of the user's own: a function that creates it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fasttrain.config.model_name import import_path


def find_own_model(name: str | None) -> str | None:
    """Return `name` unchanged. For an import path ("package.module:function"), add the working folder to Python's path.

    Call this only for names from the command line. A name in a run's files may come from somebody else, and importing
    from the working folder runs code.
    """
    if name is not None and import_path(name):
        sys.path.insert(0, str(Path.cwd()))
    return name


OwnModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="package.module:function that creates the model, needed if the run was trained from Python with an object",
        show_default=False,
        callback=find_own_model,
    ),
]
