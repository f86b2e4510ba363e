"""`--weights`: start a new run from the tensors in a file, whoever wrote it."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from fasttrain.checkpoint.file import load_checkpoint
from fasttrain.checkpoint.folder import CHECKPOINTS, checkpoints_of
from fasttrain.checkpoint.pickled import load_tensors_only
from fasttrain.checkpoint.weights import WEIGHTS
from fasttrain.errors import UserError
from fasttrain.model.classifier import classifier_names
from fasttrain.text import read_text

_AVERAGED = re.compile(r"(^|[._])ema([._]|$)")
_PICKLED = (b"PK", b"\x80")  # a zip, as torch.save writes it, and the format before version 1.6
_GIVE = "give --weights a state_dict, a checkpoint or a run folder"

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class _Origin:
    """The model that a file of weights comes from: timm's name and the classes in label order. None: unknown."""

    model: str | None = None
    classes: tuple[str, ...] | None = None


def load_initial_weights(model: torch.nn.Module, name: str, path: Path, classes: Sequence[str]) -> str:
    """Load the tensors in `path` into `model`. Return a line about what was loaded and about the classifier.

    `name`: the model's timm name. `path`: a state_dict (.safetensors, or a file of `torch.save`), a checkpoint that
    holds a state_dict at any depth and with any prefix, a run's folder or its checkpoint. Among several state_dicts
    the one that fits best is used; among equally good ones, the EMA's. Tensors that timm can resample, such as position
    embeddings for another image size, are resampled.

    The file's classifier is loaded if it has as many outputs as there are `classes`, unless the file's run had other
    classes. Otherwise the model keeps its new classifier. Raises UserError for a file that can't be read, or that lacks
    a tensor of the model outside its classifier.
    """
    path = _file_of(path)
    content = _read(path)
    origin = _origin(path, content)
    own = model.state_dict()
    flat = _without_wrappers(dict(_flattened(content)), own)
    if not flat:
        raise UserError(f"{path}: no tensors in it; {_GIVE}")
    prefix, others = _best_prefix(flat, own)
    raw: Tensors = {key.removeprefix(prefix): value for key, value in flat.items() if key.startswith(prefix)}
    given = raw
    optional = _of_classifier(model, own)
    if _lacking(given, own, optional):
        given = _resampled(given, model)
    if lacking := _lacking(given, own, optional):
        raise UserError(f"{path}: {_misfit(name, raw, own, lacking, origin)}")
    outputs = {key for key in optional if own[key].ndim and len(own[key]) == len(classes)}
    same = origin.classes in (None, tuple(classes))
    kept = same and all(_fits(given, own, key) for key in outputs)
    loaded = {key: given[key] for key in own if _fits(given, own, key) and (kept or key not in outputs)}
    model.load_state_dict(loaded, strict=False)
    resampled = sum(key in raw and raw[key].shape != value.shape for key, value in loaded.items())
    line = f"weights: {len(loaded):,} of {len(own):,} tensors from {path}"
    line += f", where their names begin with '{prefix}'" if prefix else ""
    line += f", {resampled:,} of them resampled" if resampled else ""
    if others:
        kind = "the EMA's weights" if _AVERAGED.search(prefix) else "the first in the file"
        line += f" ({kind}; those with {' and '.join(map(repr, others))} would fit as well)"
    if kept:
        return f"{line}; the classifier is kept"
    had = {len(raw[key]) for key in outputs if key in raw and raw[key].ndim}
    why = "it is for other classes" if not same else f"it has {max(had):,} outputs" if had else "there is none"
    return f"{line}; the classifier is new ({len(classes):,} classes; in the file {why})"


def model_of(path: Path) -> str | None:
    """Return the timm name of the model whose weights are in `path`, or None if `path` doesn't say it.

    `path`: a run folder, a file of weights or a checkpoint. Raises UserError for a file that can't be read.
    """
    path = _file_of(path)
    return _origin(path, {}).model or _origin(path, _read(path)).model


def _file_of(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such file; {_GIVE}")
    for each in (path / WEIGHTS, path / "pytorch_model.bin", *checkpoints_of(path)):
        if each.is_file():
            return each
    raise UserError(f"{path}: no {WEIGHTS} in it; {_GIVE}")


def _read(path: Path) -> Mapping[Any, Any]:
    with path.open("rb") as file:
        pickled = file.read(2).startswith(_PICKLED)
    if pickled:
        content = load_tensors_only(path, "file of weights")
        return content if isinstance(content, Mapping) else {}
    try:
        with safe_open(path, "pt") as file:
            of_a_run = "schema" in (file.metadata() or {})
        return load_checkpoint(path) if of_a_run else load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: neither safetensors nor a file of torch.save ({error}); {_GIVE}") from error


def _origin(path: Path, content: Mapping[Any, Any]) -> _Origin:
    """Return the model that the file `path` is from, according to its run's `model.json` or, without it, `content`."""
    run = path.absolute().parents[1 if path.absolute().parent.name == CHECKPOINTS else 0]
    try:
        spec = json.loads(read_text(run / "model.json"))
        return _Origin(str(spec["model"]), tuple(map(str, spec["classes"])))
    except (OSError, UserError, ValueError, KeyError, TypeError):  # not one of our runs
        config = content.get("config")
        named = content.get("arch") or (config.get("model") if isinstance(config, Mapping) else None)
        return _Origin(named if isinstance(named, str) else None)


def _flattened(content: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            yield f"{path}{key}", value
        elif isinstance(value, Mapping):
            yield from _flattened(value, f"{path}{key}.")


def _without_wrappers(flat: Tensors, own: Tensors) -> Tensors:
    """Return `flat` without the parts of names that torch's wrappers add, such as `_orig_mod`.

    `own`: the model's tensors. A part that occurs in their names is not removed.
    """
    parts = {part for key in own for part in key.split(".")}
    return {
        ".".join(part for part in key.split(".") if not part.startswith("_") or part in parts): value
        for key, value in flat.items()
    }


def _best_prefix(flat: Tensors, own: Tensors) -> tuple[str, list[str]]:
    """Return the prefix of names in `flat` whose tensors fit the model's tensors `own` best, and equally good ones."""
    fitting: Counter[str] = Counter()
    named: Counter[str] = Counter({"": 0})
    for key, value in flat.items():
        parts = key.split(".")
        for first in range(len(parts)):
            name = ".".join(parts[first:])
            if name in own:
                prefix = key.removesuffix(name)
                named[prefix] += 1
                fitting[prefix] += own[name].shape == value.shape
    best = max(named, key=lambda each: (fitting[each], named[each], bool(_AVERAGED.search(each))))
    equal = [each for each in named if each != best and 0 < fitting[best] == fitting[each]]
    return best, equal


def _of_classifier(model: torch.nn.Module, own: Tensors) -> set[str]:
    """Return the names of the classifier's tensors."""
    return {key for key in own if key.startswith(tuple(f"{module}." for module in classifier_names(model)))}


def _fits(given: Tensors, own: Tensors, key: str) -> bool:
    there = given.get(key)
    return (
        there is not None
        and there.shape == own[key].shape
        and there.is_floating_point() == own[key].is_floating_point()
    )


def _lacking(given: Tensors, own: Tensors, optional: set[str]) -> list[str]:
    # Integers are counters and indices, which the model doesn't need from the file.
    needed = (key for key, value in own.items() if value.is_floating_point() and key not in optional)
    return [key for key in needed if not _fits(given, own, key)]


def _resampled(given: Tensors, model: torch.nn.Module) -> Tensors:
    """Return `given` as timm adapts it to `model`, for another image or patch size or from older names of tensors."""
    fit = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if fit is None:
        return given
    try:
        fitted = fit(dict(given), model)
    except Exception:  # the filter may fail on the weights of another model
        return given
    return fitted if isinstance(fitted, Mapping) else given


def _misfit(name: str, given: Tensors, own: Tensors, lacking: list[str], origin: _Origin) -> str:
    fitting = sum(_fits(given, own, key) for key in own)
    first = lacking[0]
    what = "is absent" if first not in given else f"is {list(given[first].shape)}, not {list(own[first].shape)}"
    message = f"it has only {fitting:,} of the {len(own):,} tensors of {name} ('{first}' {what})"
    if origin.model is not None and origin.model.partition(".")[0] != name.partition(".")[0]:
        return f"{message}, because it is for {origin.model}; give --model {origin.model}"
    example = "" if fitting else f"; its names are like '{next(iter(given), '')}'"
    return f"{message}{example}; give --model the name of the model that the file was made for"
