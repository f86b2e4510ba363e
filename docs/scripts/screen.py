"""Draw a session in a terminal as a picture: run commands in a folder, and write what they print as an SVG.

python docs/scripts/screen.py OUT.svg FOLDER COMMAND...

What follows " | " in a command is run and not shown. docs/pictures/run.svg leaves lines out so that it fits on a
screen: `| grep -v -e ^as -e ^next` after `convert`, and after `train`
`| grep -E '^data|minutes: .;|try [1-3]/|test split,|best try|top-1|baseline'`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 100
SHOWN_FOLDER = "/home/you"  # not ~, which no sqlite:/// address takes
_CLIP = re.compile(r'(clip-terminal">\s*<rect [^>]*height=")([\d.]+)')
_FEET = 6  # px, which fit between the last line and the window's edge
_MOVING = re.compile("[━⠀-⣿]")  # progress bars and spinners, of which a terminal keeps nothing


def draw(out: Path, folder: Path, commands: list[str]) -> None:
    """Run `commands` in `folder` one after another, and draw them with their output to `out`.

    Raises subprocess.CalledProcessError for a command that fails.
    """
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "PYTHONWARNINGS": "ignore"}
    with Path(os.devnull).open("w") as nothing:
        console = Console(record=True, width=COLUMNS, file=nothing, force_terminal=True, color_system="truecolor")
        for command in commands:
            print(command, flush=True)
            shell = ["bash", "-c", f"set -o pipefail; {command}"]
            done = subprocess.run(shell, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True)
            console.print(Text.assemble(("$ ", "bold green"), (command.partition(" | ")[0], "bold")))
            printed = done.stdout.decode().replace(str(folder), SHOWN_FOLDER)
            lines = [line for line in printed.split("\n") if not _MOVING.search(line)]
            console.print(Text.from_ansi("\n".join(lines)))
    # A page that shows the picture loads no fonts for it.
    picture = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="fasttrain"), flags=re.DOTALL)
    out.write_text(with_complete_last_line(picture), "utf-8")


def with_complete_last_line(picture: str) -> str:
    """Return Rich's SVG with a taller clipping rectangle, which otherwise cuts the feet off the last line's letters."""
    return _CLIP.sub(lambda found: f"{found[1]}{float(found[2]) + _FEET:g}", picture)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
