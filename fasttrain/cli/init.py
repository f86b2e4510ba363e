"""The command `fasttrain init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    data: Annotated[
        str, typer.Argument(help="photographs in any form that `convert` accepts (a folder, a table, …), or shards")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="the TOML file to write; default: NAME.toml, named after the data", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the TOML file if it exists")] = False,
) -> None:
    """Inspects photographs and writes settings that suit them, with reasons, into a TOML file for `train --config`."""
    from rich.text import Text

    from fasttrain.inspection.starter import facts
    from fasttrain.inspection.starter import init as run
    from fasttrain.terminal import make_console

    path, found = run(data, out, overwrite=overwrite)
    console = make_console()
    for line in facts(found):
        console.print(line, soft_wrap=True)
    console.print(f"settings: {path}", soft_wrap=True)
    console.print(Text.assemble("next: ", (f"fasttrain train --config {path}", "bold")), soft_wrap=True)
