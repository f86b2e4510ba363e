"""`fasttrain preview`: those of `train`'s options that shape what the model sees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fasttrain.cli.late import SettingsCommand
from fasttrain.cli.train import ConfigFile, check_settings, with_settings


def _settings() -> set[str]:
    """Return the names of the settings that shape what the model sees."""
    from fasttrain.config.groups import AugmentationSettings, DataSettings, names_of

    names = names_of(DataSettings, AugmentationSettings) - {"on_bad_sample", "limit_batches"}
    return names | {"model", "recipe", "epochs", "batch_size", "device", "seed"}


def preview_command() -> SettingsCommand:
    """`preview`, with the options of `train` that matter to it."""

    def preview(
        config: ConfigFile = None,
        split: Annotated[
            str, typer.Option(help="train: cropped and augmented; val, test or all: as in evaluation")
        ] = "train",
        epoch: Annotated[int, typer.Option(min=0, help="which epoch's crops, counted from 0")] = 0,
        count: Annotated[
            int | None, typer.Option(min=1, max=1000, help="photographs; default: 24, or 8 of each loader")
        ] = None,
        compare: Annotated[
            str | None, typer.Option(help="native,dali,ffcv,torchvision: the same photographs from each, in rows")
        ] = None,
        out: Annotated[Path, typer.Option(help="where the picture is written: .png, .jpg or .webp")] = Path(
            "preview.png"
        ),
        **given: Any,
    ) -> None:
        """Draws a contact sheet of photographs as the model sees them: cropped and augmented, or as in evaluation."""
        check_settings(config, given)
        from rich.table import Table
        from rich.text import Text

        from fasttrain.config.load import load_config
        from fasttrain.inspection.preview import preview as run
        from fasttrain.report.contact_sheet import picture_format, save_sheet
        from fasttrain.terminal import make_console

        picture_format(out)  # a name that won't do is told before the work
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
                f"of {len(seen.captions):,} crops from torchvision's, in grey levels of 255, before augmentation"
            )
        else:
            console.print(f"loader: {seen.why}", soft_wrap=True)
        for name, reason in seen.unavailable.items():
            console.print(Text.assemble((f"not {name}: ", "yellow"), reason), soft_wrap=True)
        size = f"{len(seen.captions):,} photographs, {seen.sheet.width} x {seen.sheet.height} px"
        console.print(f"{size}: {out}", soft_wrap=True)

    return SettingsCommand(preview, lambda command: with_settings(command, _settings()))
