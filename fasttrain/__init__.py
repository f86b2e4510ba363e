"""fasttrain: image-classification training whose data pipeline never makes the accelerator wait.

`from fasttrain import convert, train, evaluate, predict` gives the same commands as the command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fasttrain.evaluation.checkpoint import evaluate as evaluate
    from fasttrain.evaluation.predict import predict as predict
    from fasttrain.shards.convert import convert as convert
    from fasttrain.training.train import train as train

__version__ = "0.1.0"
__all__ = ["convert", "evaluate", "predict", "train"]

_HOMES = {
    "convert": "fasttrain.shards.convert",
    "evaluate": "fasttrain.evaluation.checkpoint",
    "predict": "fasttrain.evaluation.predict",
    "train": "fasttrain.training.train",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: `fasttrain --help` must not pay for it.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fasttrain' has no attribute '{name}'")
