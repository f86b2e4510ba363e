"""fasttrain: image-classification training that decodes only the part of a photograph under its crop.

`from fasttrain import convert, train, evaluate, predict` imports the commands of the command line as functions.
`Loader` is the data pipeline alone, for your own training loop.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fasttrain.version import __version__ as __version__

if TYPE_CHECKING:
    from fasttrain.commands.evaluate import evaluate as evaluate
    from fasttrain.commands.folds import train_folds as train_folds
    from fasttrain.commands.lr_find import lr_find as lr_find
    from fasttrain.commands.profile import profile as profile
    from fasttrain.commands.train import train as train
    from fasttrain.commands.tune import tune as tune
    from fasttrain.config.values import RandAugment as RandAugment
    from fasttrain.data.crops import CenterCrop as CenterCrop
    from fasttrain.data.crops import RandomResizedCrop as RandomResizedCrop
    from fasttrain.data.crops import Resize as Resize
    from fasttrain.data.decode import decode as decode
    from fasttrain.data.loader import Loader as Loader
    from fasttrain.data.transforms import ColorJitter as ColorJitter
    from fasttrain.data.transforms import CutMix as CutMix
    from fasttrain.data.transforms import Mixup as Mixup
    from fasttrain.data.transforms import Normalize as Normalize
    from fasttrain.data.transforms import RandomErasing as RandomErasing
    from fasttrain.data.transforms import TrivialAugment as TrivialAugment
    from fasttrain.evaluation.predict import predict as predict
    from fasttrain.shards.convert import convert as convert
    from fasttrain.training.callback import Callback as Callback
    from fasttrain.training.callback import RunView as RunView

__all__ = [
    "Callback",
    "CenterCrop",
    "ColorJitter",
    "CutMix",
    "Loader",
    "Mixup",
    "Normalize",
    "RandAugment",
    "RandomErasing",
    "RandomResizedCrop",
    "Resize",
    "RunView",
    "TrivialAugment",
    "convert",
    "decode",
    "evaluate",
    "lr_find",
    "predict",
    "profile",
    "train",
    "train_folds",
    "tune",
]

_MODULES = {
    "RandAugment": "fasttrain.config.values",
    "ColorJitter": "fasttrain.data.transforms",
    "CutMix": "fasttrain.data.transforms",
    "Mixup": "fasttrain.data.transforms",
    "Normalize": "fasttrain.data.transforms",
    "RandomErasing": "fasttrain.data.transforms",
    "TrivialAugment": "fasttrain.data.transforms",
    "CenterCrop": "fasttrain.data.crops",
    "Loader": "fasttrain.data.loader",
    "RandomResizedCrop": "fasttrain.data.crops",
    "Resize": "fasttrain.data.crops",
    "Callback": "fasttrain.training.callback",
    "RunView": "fasttrain.training.callback",
    "convert": "fasttrain.shards.convert",
    "decode": "fasttrain.data.decode",
    "evaluate": "fasttrain.commands.evaluate",
    "lr_find": "fasttrain.commands.lr_find",
    "predict": "fasttrain.evaluation.predict",
    "profile": "fasttrain.commands.profile",
    "train": "fasttrain.commands.train",
    "train_folds": "fasttrain.commands.folds",
    "tune": "fasttrain.commands.tune",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: `fasttrain --help` must not pay for it.
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'fasttrain' has no attribute '{name}'")
