"""The names of the trackers, such as MLflow. To add a tracker, write its module and add a line to `TRACKERS`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fasttrain.config.values import InvalidValue, ParsedValue
from fasttrain.text import nearest

MLFLOW = "mlflow"
TRACKERS = {
    MLFLOW: "fasttrain.tracking.tracker:Tracker",
    "wandb": "fasttrain.tracking.wandb:Wandb",
    "tensorboard": "fasttrain.tracking.tensorboard:TensorBoard",
}
_NONE = "none"


@dataclass(frozen=True)
class Trackers(ParsedValue):
    """The trackers of a run, to which its metrics are sent: their `names`, without repetition.

    Written "mlflow", "mlflow,tensorboard" or "none". True stands for "mlflow", False for "none".
    """

    names: tuple[str, ...]

    written_as: ClassVar[Any] = bool | str

    @classmethod
    def parse(cls, text: bool | str) -> Trackers:
        if isinstance(text, bool):
            return cls((MLFLOW,) if text else ())
        names = tuple(dict.fromkeys(each.strip().lower() for each in text.split(",")))
        if names == (_NONE,):
            return cls((), text=text)
        for name in names:
            if name not in TRACKERS:
                known = [*TRACKERS, _NONE]
                if name == _NONE:
                    raise InvalidValue(f"track = '{text}': 'none' can't be combined with trackers; leave 'none' out")
                raise InvalidValue(f"track = '{text}': '{name}' is not one of {', '.join(known)}{nearest(name, known)}")
        return cls(names)

    def canonical(self) -> str:
        return ",".join(self.names) or _NONE

    def __bool__(self) -> bool:
        return bool(self.names)
