"""timm's published ImageNet results, read from a table in the package. Nothing here imports torch or timm."""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from fasttrain.errors import UserError
from fasttrain.text import nearest

_TABLE = Path(__file__).with_name("published.csv")


@dataclass(frozen=True)
class PublishedModel:
    """timm's published result of a model with ImageNet weights.

    `parameters`: their number in millions. `top1`: the accuracy on ImageNet in percent, for images of `image_size` px.
    """

    name: str
    parameters: float
    image_size: int
    top1: float


@functools.cache
def published_models() -> tuple[PublishedModel, ...]:
    """Return all models for which timm has published ImageNet results, sorted by name."""
    with _TABLE.open(newline="", encoding="utf-8") as file:
        next(file)
        return tuple(
            PublishedModel(row["model"], float(row["parameters"]), int(row["image_size"]), float(row["top1"]))
            for row in csv.DictReader(file)
        )


def source() -> tuple[str, str]:
    """Return the date and the URL of timm's results from which the table was made."""
    with _TABLE.open(encoding="utf-8") as file:
        _, date, address = file.readline().split(" ")[:3]
    return date, address.rstrip(",")


def find_models(pattern: str | None = None, *, max_parameters: float | None = None) -> list[PublishedModel]:
    """Return the published models whose name contains `pattern`. If `pattern` has a wildcard (*, ? or [), match it.

    `pattern`: None stands for all models. `max_parameters`: the greatest number of parameters, in millions. Raises
    UserError if no name matches, with the nearest name, or if all matching models have more parameters.
    """
    everything = published_models()
    found: Sequence[PublishedModel] = everything
    if pattern is not None:
        tidy = pattern.strip().lower()
        wild = tidy if set("*?[") & set(tidy) else f"*{tidy}*"
        # A pattern that matches the architecture alone ("resnet5?") selects all of its weights.
        found = [each for each in everything if any(fnmatchcase(name, wild) for name in _names(each))]
        if not found:
            names = sorted({name for each in everything for name in _names(each)})
            raise UserError(f"'{pattern}' matches no model with published ImageNet results{nearest(tidy, names)}")
    found = [each for each in found if max_parameters is None or each.parameters <= max_parameters]
    if not found:
        raise UserError(f"--max-parameters {max_parameters:g}: each matching model has more; give a larger number")
    return list(found)


def complete_model(incomplete: str) -> list[str]:
    """Return the values of `--model` that begin with `incomplete`: architectures, or names with tags after a dot."""
    names = (each.name if "." in incomplete else each.name.partition(".")[0] for each in published_models())
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def _names(model: PublishedModel) -> tuple[str, str]:
    return model.name, model.name.partition(".")[0]
