"""The command `fasttrain preview`, which shows photographs as the model gets them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fasttrain.cli.late import SettingsCommand
from fasttrain.cli.train import ConfigFile, check_settings


def _settings() -> set[str]:
    """Return the names of the settings that affect the model's input."""
    from fasttrain.config.groups import AugmentationSettings, DataSettings, names_of

    names = names_of(DataSettings, AugmentationSettings) - {"on_bad_sample", "limit_batches"}
    return names | {"model", "recipe", "epochs", "batch_size", "device", "seed"}


def preview_command() -> SettingsCommand:
    """Return the command `preview`, with the options of `train` that affect the model's input."""

    def preview(
        config: ConfigFile = None,
        split: Annotated[
            str, typer.Option(help="train: cropped and augmented as in training; val, test or all: as in evaluation")
        ] = "train",
        epoch: Annotated[int, typer.Option(min=0, help="the epoch whose crops to show, counted from 0")] = 0,
        count: Annotated[
            int | None,
            typer.Option(min=1, max=1000, help="number of photographs; default: 24, or with --compare 8 per loader"),
        ] = None,
        compare: Annotated[
            str | None,
            typer.Option(
                help="compare loaders, such as native,dali,ffcv,torchvision: a row for each with the same photographs"
            ),
        ] = None,
        out: Annotated[Path, typer.Option(help="the image file to write: .png, .jpg or .webp")] = Path("preview.png"),
        **given: Any,
    ) -> None:
        """Draws a contact sheet of photographs as the model sees them, cropped and augmented or as in evaluation."""
        check_settings(config, given)
        from rich.table import Table
        from rich.text import Text

        from fasttrain.config.load import load_config
        from fasttrain.inspection.preview import preview as run
        from fasttrain.report.contact_sheet import picture_format, save_sheet
        from fasttrain.terminal import make_console

        picture_format(out)  # refuse a wrong file name before the work
        loaders = [name.strip() for name in compare.split(",") if name.strip()] if compare else []
        console, status = make_console(), make_console(stderr=True)
        resolved = load_config(config, given)
        with status.status("reading photographs" + (" through each loader" if loaders else "")):
            seen = run(resolved, split=split, epoch=epoch, count=count or (8 if loaders else 24), compare=loaders)
        save_sheet(seen.sheet, out)
        if loaders:
            table = Table("loader", box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
            for name in ("mean difference", "worst photograph"):
                table.add_column(name, justify="right")
            for name, each in seen.differences.items():
                table.add_row(name, f"{each.mean:.2f}", f"{each.worst:.2f}")
            console.print(table)
            console.print(
                f"difference of {len(seen.captions):,} crops from torchvision's, in grey levels from 0 to 255, before "
                "augmentation"
            )
        else:
            console.print(f"loader: {seen.why}", soft_wrap=True)
        for name, reason in seen.unavailable.items():
            console.print(Text.assemble((f"{name} is not available: ", "yellow"), reason), soft_wrap=True)
        size = f"{len(seen.captions):,} photographs, {seen.sheet.width} x {seen.sheet.height} px"
        console.print(f"{size}: {out}", soft_wrap=True)

    return SettingsCommand(preview, _settings)
