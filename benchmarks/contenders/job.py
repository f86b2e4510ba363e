"""The job of a contender and the report that it writes: `python benchmarks/contenders/NAME.py JOB.json`.

`benchmarks/accuracy.py` starts each contender as a process of its own, with the Python that has its packages. So this
file imports nothing but the standard library.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODEL = "tf_efficientnet_lite0"
EVALUATED = ("validation", "test")

Predict = Callable[[], dict[str, str]]
"""Returns the class of each photograph of `EVALUATED`, by its file name without the suffix."""


@dataclass(frozen=True)
class Job:
    """One run of a contender.

    photographs: a folder with `train`, `validation` and `test`, each of class folders. weights: a safetensors file of
    `MODEL`'s state_dict. side: of the evaluated pictures, px. epochs: None where the contender needs none or follows
    `seconds`, what the run may take from `began` (`time.time()`) on. scratch: an empty folder. out: the report's file.
    """

    photographs: str
    weights: str
    side: int
    seed: int
    epochs: int | None
    seconds: float
    began: float
    scratch: str
    out: str
    options: dict[str, Any] = field(default_factory=dict)

    def folder(self, split: str) -> Path:
        """Return the folder of `split`: train, validation or test."""
        return Path(self.photographs) / split

    def classes(self) -> list[str]:
        """Return the classes in label order."""
        return sorted(each.name for each in self.folder("train").iterdir())

    def evaluated(self) -> list[Path]:
        """Return the photographs that the result is about, validation first, each split in order of its paths."""
        return [path for split in EVALUATED for path in sorted(self.folder(split).glob("*/*"))]


def report(train: Callable[[Job], Predict], figures: Mapping[str, float] | None = None) -> None:
    """Do the job that the command line names, and write its report. `train` returns how the trained model predicts.

    The clocks stop when `train` returns: evaluating the 713 photographs isn't part of any contender's time. `figures`
    are added to the report; `train` may fill them in.
    """
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    predict = train(job)
    seconds = time.time() - job.began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    found = {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(sum(each.ru_utime + each.ru_stime for each in used), 1),
        **(figures or {}),
        "predicted": predict(),
    }
    Path(job.out).write_text(json.dumps(found))
