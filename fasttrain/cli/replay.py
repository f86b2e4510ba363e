"""`fasttrain replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def replay(
    run: Annotated[Path, typer.Argument(help="the folder of a run that diverged, or a file in it", metavar="RUN")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    sheet: Annotated[
        Path | None, typer.Option(help="where the batch is drawn; default: beside the file, as .png")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
) -> None:
    """Runs the step again at which a run's loss was not finite, and says where it breaks and what to change."""
    import json

    from fasttrain.commands.replay import replay as again
    from fasttrain.report.contact_sheet import picture_format
    from fasttrain.report.replayed import replay_summary
    from fasttrain.terminal import make_console
    from fasttrain.training.diverged import find_diverged

    file = find_diverged(run)
    sheet = sheet or file.with_suffix(".png")
    picture_format(sheet)  # a name that won't do is told before the work
    found = again(file, device=device, sheet=sheet)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        make_console().print(replay_summary(found))
