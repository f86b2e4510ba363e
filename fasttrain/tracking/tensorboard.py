"""Track runs in TensorBoard: event files in the run's folder, where `tensorboard --logdir runs` finds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fasttrain.tracking.mirror import Mirror, shorter_path
from fasttrain.tracking.record import Entry

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_SUFFIX = ".fasttrain"
_PICTURES = (".png", ".jpg")


class TensorBoard(Mirror):
    """Writes all epochs of the run into a new event file, and then removes the event files of earlier processes.

    So no epoch of a killed process stays partly written. If a run resumes from an earlier epoch, the epochs that follow
    it in the old files disappear.
    """

    title = "TensorBoard"
    needs = ("tensorboard",)

    def open(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._earlier = list(self.record.folder.glob(f"events.out.tfevents.*{_SUFFIX}"))
        # `purge_step` makes a running TensorBoard forget what it has read from the earlier files.
        self._writer: SummaryWriter = SummaryWriter(str(self.record.folder), purge_step=0, filename_suffix=_SUFFIX)

    def write(self, entries: Sequence[Entry]) -> None:
        step = 0
        for kind, value in entries:
            if kind in ("params", "tags"):
                rows = "".join(f"| {name} | {each} |\n" for name, each in value.items())
                self._writer.add_text(kind, f"| name | value |\n| --- | --- |\n{rows}", 0)
            elif kind == "metrics":
                step = max(step, value["step"])
                for name, number in value["metrics"].items():
                    self._writer.add_scalar(name, number, value["step"], walltime=value["time"] / 1000)
            elif kind == "artifact" and (path := self.record.folder / value["name"]).suffix in _PICTURES:
                self._add_picture(path, step)
        self._writer.flush()
        while self._earlier:
            self._earlier.pop().unlink(missing_ok=True)

    def close(self, status: str) -> None:
        self._writer.close()

    def place(self) -> str:
        return f"tensorboard --logdir {shorter_path(self.record.folder)}"

    def _add_picture(self, path: Path, step: int) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as picture:
            self._writer.add_image(path.stem, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
