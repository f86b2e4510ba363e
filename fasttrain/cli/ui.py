"""The command `fasttrain ui`."""

from __future__ import annotations

from typing import Annotated

import typer


def ui(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="the port to listen on")] = 5000,
    host: Annotated[
        str, typer.Option(help="the address to listen on; 0.0.0.0 accepts requests from other machines")
    ] = "127.0.0.1",
) -> None:
    """Serves MLflow's web page for the tracked runs, until Ctrl-C."""

    from fasttrain.terminal import make_console
    from fasttrain.tracking.page import serve
    from fasttrain.tracking.runs import tracking_uri

    console = make_console()
    serve(tracking_uri(), host, port, say=lambda line: console.print(line, soft_wrap=True))
