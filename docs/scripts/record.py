"""Run the commands of docs/tutorial.md in an empty folder and write their output below them.

python docs/scripts/record.py [PAGE]: takes five minutes on two cores. In ```console blocks a line that begins with
"$ " is a command; the rest of a block is replaced. The run's pictures are copied beside the page.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
SHOWN_FOLDER, SHOWN_CLONE = "/home/you/food", "/home/you/fasttrain"
_BLOCK = re.compile(r"(^```console\n)(.*?)(^```$)", re.MULTILINE | re.DOTALL)
_END = "=== end of command ==="
_LIMIT_S = 3600.0  # after which the shell is killed


def record(page: Path) -> None:
    """Rewrite `page`. Raises OSError if the shell can't be run."""
    with tempfile.TemporaryDirectory(prefix="fasttrain-docs-") as name:
        folder = Path(name).resolve()
        text = _recorded(page.read_text("utf-8"), folder)
        page.write_text(text, "utf-8")
        for picture in re.findall(rf"\({page.stem}/([\w-]+\.png)\)", text):
            found = sorted([*folder.glob(picture), *folder.glob(f"runs/*/{picture}")])
            (page.parent / page.stem).mkdir(exist_ok=True)
            shutil.copy(found[-1], page.parent / page.stem / picture)


def _recorded(text: str, folder: Path) -> str:
    """Run the commands of `text` in a shell in `folder`, and return `text` with their new output."""
    shutil.copy(DOCS.parent / "tools" / "sample.toml", folder)
    cache = str(folder / ".cache")  # an empty one: the sample is drawn, as on a new machine
    environment = {**os.environ, "COLUMNS": "92", "PYTHONWARNINGS": "ignore", "FASTTRAIN_CACHE": cache}
    environment.pop("MLFLOW_TRACKING_URI", None)
    shell = subprocess.Popen(
        ["bash"],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    limit = threading.Timer(_LIMIT_S, os.killpg, (shell.pid, signal.SIGKILL))
    limit.start()
    try:
        return _BLOCK.sub(lambda block: block[1] + _run(shell, block[2], folder) + block[3], text)
    finally:
        limit.cancel()
        shell.communicate()


def _run(shell: subprocess.Popen[str], block: str, folder: Path) -> str:
    lines = []
    for command in (line for line in block.splitlines() if line.startswith("$ ")):
        print(command, flush=True)
        assert shell.stdin is not None and shell.stdout is not None
        shell.stdin.write(f"{command[2:]}\necho '{_END}'\n")
        shell.stdin.flush()
        lines.append(command)
        for line in shell.stdout:
            if line.rstrip().endswith(_END):
                break
            shown = line.rstrip().replace(str(folder), SHOWN_FOLDER)
            lines.append(shown.replace(str(DOCS.parent), SHOWN_CLONE))
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    record(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "tutorial.md")
