"""The command `fasttrain register`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(
    run: Annotated[
        Path,
        typer.Argument(
            help="a run folder, or latest (the newest run in runs); --checkpoint is accepted, too", metavar="RUN"
        ),
    ],
    name: Annotated[
        str, typer.Argument(help="name of the registered model; it is created if it doesn't exist", metavar="NAME")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Registers a run's model in MLflow, which can load and serve it. Each call creates a new version."""
    import json

    from fasttrain.checkpoint.weights import newest_if_latest

    run = newest_if_latest(run)
    from fasttrain.commands.register import register as command
    from fasttrain.terminal import make_console

    with make_console(stderr=True).status("registering"):
        result = command(run, name)
    if as_json:
        print(json.dumps(result.to_dict(), indent=2))
        return
    console = make_console()
    console.print(f"{result.uri}, from the MLflow run {result.run_id}", soft_wrap=True)
    console.print(
        f"serve: MLFLOW_TRACKING_URI={result.store} mlflow models serve -m {result.uri} --env-manager local",
        soft_wrap=True,
        markup=False,
    )
