"""The command `fasttrain replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def replay(
    run: Annotated[Path, typer.Argument(help="the folder of a run that diverged, or a file in it", metavar="RUN")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    sheet: Annotated[
        Path | None, typer.Option(help="the image file for the batch; default: next to the saved step, as .png")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
) -> None:
    """Repeats the step at which a run's loss became NaN or infinite, finds the cause, and says what to change."""
    import json

    from fasttrain.commands.replay import replay as again
    from fasttrain.report.contact_sheet import picture_format
    from fasttrain.report.replayed import replay_summary
    from fasttrain.terminal import make_console
    from fasttrain.training.diverged import find_diverged

    file = find_diverged(run)
    sheet = sheet or file.with_suffix(".png")
    picture_format(sheet)  # refuse a wrong file name before the work
    found = again(file, device=device, sheet=sheet)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        make_console().print(replay_summary(found))
