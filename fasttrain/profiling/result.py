"""`Profile`: the result of `profile`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fasttrain.profiling.diagnosis import Diagnosis
from fasttrain.profiling.measure import Measured


@dataclass(frozen=True)
class Profile:
    """The result of `profile`: the measurements and their diagnosis.

    `measured`: the times and rates. `diagnosis`: what limits the speed, and what to try. `batch_size`: photographs per
    optimizer step, including accumulated batches. `photographs`: the size of the train split. `loader`: the loader's
    name. `device`: such as "cuda:0".
    """

    measured: Measured
    diagnosis: Diagnosis
    batch_size: int
    photographs: int
    loader: str
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as JSON data: times in seconds, rates in images per second."""
        return {**asdict(self), "split": "train"}
