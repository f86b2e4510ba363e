"""The commands `fasttrain runs` and `fasttrain compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="with --deliver: run folders, or folders that contain them", metavar="FOLDER"),
    ] = None,
    deliver: Annotated[
        bool,
        typer.Option(
            "--deliver",
            help="send runs to MLflow that could not be sent while they trained; searches runs, or the given folders",
        ),
    ] = False,
    experiment: Annotated[str | None, typer.Option(help="list only the runs of this MLflow experiment")] = None,
    sort: Annotated[
        str, typer.Option(help="start, val/top1, test/top1, speed/images_per_second, duration, epochs, name or model")
    ] = "start",
    limit: Annotated[int, typer.Option(min=1, help="greatest number of runs to list")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Lists the runs that MLflow tracks with their metrics, the newest first."""
    import json

    from fasttrain.errors import UserError
    from fasttrain.report.runs_table import runs_table
    from fasttrain.terminal import make_console
    from fasttrain.tracking.runs import TrackedRun, list_runs, tracking_uri, waiting_runs
    from fasttrain.tracking.store import shown
    from fasttrain.tracking.sync import RUNS, deliver_runs

    console, found, uri = make_console(), list[TrackedRun](), ""
    if deliver:
        deliver_runs(folders or [RUNS], say=lambda line: console.print(line, soft_wrap=True))
        return
    if folders:
        raise UserError(
            f"{folders[0]}: folders can only be given with --deliver; to show certain runs, use `fasttrain compare`"
        )
    waiting = [run for run in waiting_runs(RUNS) if experiment in (None, run.experiment)]
    try:
        uri = tracking_uri()
        with make_console(stderr=True).status("asking MLflow"):
            found = list_runs(uri, experiment=experiment, sort=sort, limit=limit + 1)
    except UserError as error:
        if not waiting:
            raise
        make_console(stderr=True).print(str(error), style="yellow", soft_wrap=True)
    folders_waiting = {run.folder for run in waiting}
    found = waiting + [run for run in found if run.folder not in folders_waiting]
    listed = found[:limit]
    if as_json:
        print(json.dumps([run.to_dict() for run in listed], indent=2))
        return
    if not listed:
        console.print(f"no runs in {shown(uri)} yet", soft_wrap=True)
        return
    console.print(runs_table(listed, console.width), soft_wrap=True)
    if len(found) > limit:
        console.print(f"and more (increase --limit, now {limit})", style="dim")


def compare(
    names: Annotated[list[str], typer.Argument(help="run folders, run names, or MLflow run ids", metavar="RUN")],
    out: Annotated[Path, typer.Option(help="the file for the curves: .png, .svg or .pdf")] = Path("compare.png"),
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Compares runs: differing settings, metrics, McNemar's test on the same photographs, and curves."""
    import json

    from fasttrain.report.comparison import comparison_dict, comparison_table
    from fasttrain.report.comparison_figure import write_comparison
    from fasttrain.terminal import make_console
    from fasttrain.tracking.runs import find_runs

    with make_console(stderr=True).status("reading the runs"):
        found = find_runs(names)
    write_comparison(found, out)
    if as_json:
        print(json.dumps(comparison_dict(found), indent=2))
        return
    console = make_console()
    console.print(comparison_table(found))
    console.print(f"curves: {out}", soft_wrap=True)
