"""The command `fasttrain doctor`."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    thorough: Annotated[
        bool, typer.Option("--thorough", help="also import each package, which takes a while, to find broken ones")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Shows what this machine offers for training, and what to install for more."""
    import json

    from rich.table import Table
    from rich.text import Text

    from fasttrain.commands.doctor import examine
    from fasttrain.terminal import make_console

    findings = examine(thorough)
    if as_json:
        print(json.dumps([finding.to_dict() for finding in findings], indent=2))
        return
    table = Table("part", "here", "for more", box=None, header_style="bold")
    for finding in findings:
        mark = ("✓", "green") if finding.present else ("–", "yellow")
        table.add_row(Text.assemble(mark, f" {finding.part}"), finding.found, finding.fix)
    make_console().print(table)
