"""`fasttrain runs` and `fasttrain compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def runs(
    experiment: Annotated[str | None, typer.Option(help="only this MLflow experiment's")] = None,
    sort: Annotated[
        str, typer.Option(help="start, val_top1, test_top1, img/s, duration, epochs, name or model")
    ] = "start",
    limit: Annotated[int, typer.Option(min=1, help="at most this many")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Lists the runs that MLflow tracks, with their metrics; the newest first."""
    import json

    from rich.console import Console

    from fasttrain.report.runs_table import runs_table
    from fasttrain.tracking.runs import list_runs, tracking_uri
    from fasttrain.tracking.store import shown

    console, uri = Console(highlight=False), tracking_uri()
    with Console(stderr=True).status("asking MLflow"):
        found = list_runs(uri, experiment=experiment, sort=sort, limit=limit + 1)
    listed = found[:limit]
    if as_json:
        print(json.dumps([run.to_dict() for run in listed], indent=2))
        return
    if not listed:
        console.print(f"no runs in {shown(uri)} yet", markup=False, soft_wrap=True)
        return
    console.print(runs_table(listed, console.width), soft_wrap=True)
    if len(found) > limit:
        console.print(f"[dim]and more (--limit {limit} now)[/]")


def compare(
    names: Annotated[list[str], typer.Argument(help="run folders, run names, or MLflow run ids", metavar="RUN")],
    out: Annotated[Path, typer.Option(help="where the curves are drawn: .png, .svg or .pdf")] = Path("compare.png"),
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Shows runs side by side: the settings that differ, the metrics, and the curves as a picture."""
    import json

    from rich.console import Console

    from fasttrain.report.comparison import comparison_dict, comparison_table
    from fasttrain.report.comparison_figure import write_comparison
    from fasttrain.tracking.runs import find_runs

    with Console(stderr=True).status("reading the runs"):
        found = find_runs(names)
    write_comparison(found, out)
    if as_json:
        print(json.dumps(comparison_dict(found), indent=2))
        return
    console = Console(highlight=False)
    console.print(comparison_table(found))
    console.print(f"curves: {out}", markup=False, soft_wrap=True)
