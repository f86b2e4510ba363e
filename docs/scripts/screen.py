"""Draw a session in a terminal as a picture: run commands in a folder, and write what they print as an SVG.

python docs/scripts/screen.py OUT.svg FOLDER COMMAND...

A line that follows a command's output is cut from it by `COMMAND | head -5`, which isn't shown.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 100


def draw(out: Path, folder: Path, commands: list[str]) -> None:
    """Run `commands` in `folder` one after another, and draw them with their output to `out`.

    Raises subprocess.CalledProcessError for a command that fails.
    """
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "PYTHONWARNINGS": "ignore"}
    with Path(os.devnull).open("w") as nothing:
        console = Console(record=True, width=COLUMNS, file=nothing, force_terminal=True, color_system="truecolor")
        for command in commands:
            print(command, flush=True)
            shell = f"set -o pipefail; {command}"
            done = subprocess.run(
                ["bash", "-c", shell], cwd=folder, env=environment, stdout=subprocess.PIPE, check=True
            )
            console.print(Text.assemble(("$ ", "bold green"), (command.partition(" | ")[0], "bold")))
            console.print(Text.from_ansi(done.stdout.decode()))
    out.write_text(console.export_svg(title="fasttrain"), "utf-8")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
