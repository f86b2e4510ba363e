"""fasttrain: image-classification training whose data pipeline never makes the accelerator wait.

`from fasttrain import convert, train, evaluate, predict` gives the same commands as the command line; `Loader` is the
data pipeline alone, for a training loop of one's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fasttrain.version import __version__ as __version__

if TYPE_CHECKING:
    from fasttrain.commands.decode import decode as decode
    from fasttrain.commands.evaluate import evaluate as evaluate
    from fasttrain.commands.loader import CenterCrop as CenterCrop
    from fasttrain.commands.loader import Loader as Loader
    from fasttrain.commands.loader import RandomResizedCrop as RandomResizedCrop
    from fasttrain.commands.lr_find import lr_find as lr_find
    from fasttrain.commands.profile import profile as profile
    from fasttrain.commands.train import train as train
    from fasttrain.commands.tune import tune as tune
    from fasttrain.evaluation.predict import predict as predict
    from fasttrain.shards.convert import convert as convert
    from fasttrain.training.callback import Callback as Callback
    from fasttrain.training.callback import RunView as RunView

__all__ = [
    "Callback",
    "CenterCrop",
    "Loader",
    "RandomResizedCrop",
    "RunView",
    "convert",
    "decode",
    "evaluate",
    "lr_find",
    "predict",
    "profile",
    "train",
    "tune",
]

_HOMES = {
    "Callback": "fasttrain.training.callback",
    "CenterCrop": "fasttrain.commands.loader",
    "Loader": "fasttrain.commands.loader",
    "RandomResizedCrop": "fasttrain.commands.loader",
    "RunView": "fasttrain.training.callback",
    "convert": "fasttrain.shards.convert",
    "decode": "fasttrain.commands.decode",
    "evaluate": "fasttrain.commands.evaluate",
    "lr_find": "fasttrain.commands.lr_find",
    "predict": "fasttrain.evaluation.predict",
    "profile": "fasttrain.commands.profile",
    "train": "fasttrain.commands.train",
    "tune": "fasttrain.commands.tune",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: `fasttrain --help` must not pay for it.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fasttrain' has no attribute '{name}'")
