"""`fasttrain …` that pauses once, right after the checkpoint of a given step, until a file appears.

    python tests/support/paused_at.py STEP FOLDER train …

FOLDER/reached is made at the pause, FOLDER/go ends it: what a test does in between meets the run at that very step,
however slow or fast the machine is.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from in_ranks import first  # beside this program

from fasttrain.checkpoint.writer import CheckpointWriter
from fasttrain.cli import main


def pause_at(step: int, folder: Path) -> None:
    save = CheckpointWriter.save

    def save_and_pause(self: CheckpointWriter, state: dict[str, Any]) -> None:
        save(self, state)
        self.wait()
        if state["step"] != step or (folder / "go").exists():
            return
        (folder / "reached").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)

    CheckpointWriter.save = save_and_pause


if __name__ == "__main__":
    first(partial(pause_at, int(sys.argv.pop(1)), Path(sys.argv.pop(1))))
    main()
