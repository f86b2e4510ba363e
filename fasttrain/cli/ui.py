"""`fasttrain ui`."""

from __future__ import annotations

from typing import Annotated

import typer


def ui(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="where the page is served")] = 5000,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in")] = "127.0.0.1",
) -> None:
    """Serves MLflow's own page on the tracked runs, until Ctrl-C."""

    from fasttrain.terminal import make_console
    from fasttrain.tracking.page import serve
    from fasttrain.tracking.runs import tracking_uri

    console = make_console()
    serve(tracking_uri(), host, port, say=lambda line: console.print(line, soft_wrap=True))
