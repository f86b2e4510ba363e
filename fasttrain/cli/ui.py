"""`fasttrain ui`."""

from __future__ import annotations

from typing import Annotated

import typer


def ui(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="where the page is served")] = 5000,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in")] = "127.0.0.1",
) -> None:
    """Serves MLflow's own page on the tracked runs, until Ctrl-C."""
    from rich.console import Console

    from fasttrain.tracking.page import serve
    from fasttrain.tracking.runs import tracking_uri

    console = Console(highlight=False)
    serve(tracking_uri(), host, port, say=lambda line: console.print(line, markup=False, soft_wrap=True))
