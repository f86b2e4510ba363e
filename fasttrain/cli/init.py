"""`fasttrain init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    data: Annotated[
        str, typer.Argument(help="photographs as `convert` takes them (a folder, a table, an archive), or shards")
    ],
    out: Annotated[
        Path | None, typer.Option(help="the TOML file; default: the data's name with .toml", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the file")] = False,
) -> None:
    """Looks at photographs and writes a commented TOML for `train --config`: each setting with the reason for it."""
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
