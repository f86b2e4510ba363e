"""The command `fasttrain models`."""

from __future__ import annotations

from typing import Annotated

import typer

from fasttrain.model.published import complete_model

_SORTS = ("top1", "parameters", "size", "name", "img/s")


def models(
    pattern: Annotated[
        str | None,
        typer.Argument(help="part of a name (resnet), or a pattern (mobilenet*_100.*)", autocompletion=complete_model),
    ] = None,
    sort: Annotated[str, typer.Option(help="top1, parameters, size, name, or with --measure img/s")] = "top1",
    limit: Annotated[int, typer.Option(min=1, help="greatest number of models to list")] = 20,
    max_parameters: Annotated[
        float | None, typer.Option(min=0, help="list only models with at most this many million parameters")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="measure training steps of the listed models here; seconds for each")
    ] = False,
    device: Annotated[str, typer.Option(help="with --measure: auto, cpu, cuda, cuda:N or mps")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="with --measure: images per step")] = 32,
    amp: Annotated[bool, typer.Option("--amp", help="with --measure: use mixed precision (bf16)")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Lists timm's models: parameters, input size, published ImageNet top-1, and with --measure the speed here."""
    import json
    from dataclasses import asdict

    from rich.table import Table

    from fasttrain.errors import UserError
    from fasttrain.model.published import find_models, source
    from fasttrain.terminal import make_console
    from fasttrain.text import nearest

    if sort not in _SORTS:
        raise UserError(f"--sort {sort} is not one of {', '.join(_SORTS)}{nearest(sort, list(_SORTS))}")
    if sort == "img/s" and not measure:
        raise UserError("--sort img/s: speeds are only known with --measure; add --measure")
    keys = {"parameters": "parameters", "size": "image_size", "name": "name"}
    matching = find_models(pattern, max_parameters=max_parameters)
    matching.sort(key=lambda each: getattr(each, keys[sort]) if sort in keys else -each.top1)
    listed = matching[:limit]
    rates: dict[str, float | None] = {}
    if measure:
        from fasttrain.device import choose_device
        from fasttrain.model.step_speed import training_rate

        on = choose_device(device)
        with make_console(stderr=True).status("measuring") as status:
            for number, each in enumerate(listed, 1):
                status.update(f"measuring {number} of {len(listed)}: {each.name}")
                rates[each.name] = training_rate(each.name, each.image_size, on, batch_size=batch_size, amp=amp)
        if sort == "img/s":
            listed.sort(key=lambda each: -(rates[each.name] or 0.0))
    date, address = source()
    if as_json:
        print(json.dumps([{**asdict(each), "img/s": rates.get(each.name)} for each in listed], indent=2))
        return
    table = Table("model", box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("parameters", "input", "top-1", *(("img/s",) if measure else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in listed:
        cells = [each.name, f"{each.parameters:,.1f} M", f"{each.image_size} px", f"{each.top1:.2f} %"]
        rate = rates.get(each.name)
        table.add_row(*cells, *([f"{rate:,.0f}" if rate else "no memory"] if measure else []))
    console = make_console()
    console.print(table)
    if len(matching) > limit:
        console.print(f"and {len(matching) - limit:,} more (increase --limit, now {limit})", style="dim")
    console.print(f"top-1 on ImageNet: timm's results of {date}, {address}", style="dim", soft_wrap=True)
    if measure:
        console.print(f"img/s: training steps of {batch_size} random images on {on}", style="dim")
