"""Have something done first in each rank of `train --gpus`, which are new Pythons without this one's patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fasttrain.commands import train


def first(prepare: Callable[[], object]) -> None:
    """Call `prepare`, a function of the program that runs, here and in each rank that this process starts."""
    as_rank = train._rank

    def prepared(*arguments: Any) -> Any:
        prepare()
        return as_rank(*arguments)

    prepared.__module__ = "__main__"  # pickled with all it uses
    train._rank = prepared
    prepare()
