"""The user's own models: a `torch.nn.Module`, a function or class that makes one, or the import path of either."""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from fasttrain.config.model_name import attribute, import_path, is_object, model_name
from fasttrain.errors import FasttrainError, UserError, fixable, one_line

OwnModel = torch.nn.Module | Callable[..., torch.nn.Module]
"""A module, or a function or class `(num_classes) -> torch.nn.Module`."""

_GIVE = "give a function (num_classes) -> torch.nn.Module"


def create_own(
    model: str | OwnModel,
    num_classes: int,
    *,
    pretrained: bool = False,
    drop_rate: float = 0.0,
    drop_path: float = 0.0,
) -> torch.nn.Module:
    """Return the user's own model for `num_classes`.

    `model`: a module, which is returned unchanged; a function or class that is called with the number of classes; or
    the import path of a function or class. If it has parameters named `pretrained`, `drop_rate` or `drop_path`, these
    arguments are passed to it.

    Raises UserError if the function can't be imported, fails or doesn't return a module, or if `drop_rate` or
    `drop_path` is above 0 and `model` has no parameter of that name.
    """
    name = model_name(model)
    maker = find_maker(model) if isinstance(model, str) else model
    parameters = {} if isinstance(maker, torch.nn.Module) else _parameters(maker, name)
    for setting, rate in (("drop_rate", drop_rate), ("drop_path", drop_path)):
        if rate and setting not in parameters:
            raise UserError(
                f"{setting} = {rate:g}: model = {name} takes no argument {setting}; add it, or leave {setting} out"
            )
    if isinstance(maker, torch.nn.Module):
        return maker
    options = {"pretrained": pretrained, "drop_rate": drop_rate, "drop_path": drop_path}
    made = _call(maker, name, num_classes, {key: each for key, each in options.items() if key in parameters})
    if not isinstance(made, torch.nn.Module):
        raise UserError(f"model = {name} returns a {type(made).__name__}, not a torch.nn.Module; {_GIVE}")
    return made


def passed_object(model: str | OwnModel | None) -> OwnModel | None:
    """Return `model` if it is a module, or a function that can't be imported by name. Otherwise return None.

    Such an object can't be made again from its name in a run's settings, so the caller must pass it on.
    """
    return None if model is None or isinstance(model, str) or not is_object(model_name(model)) else model


def find_maker(path: str) -> Callable[..., torch.nn.Module]:
    """Return the function or class at the import path `path`, such as "package.module:function".

    Raises UserError if it can't be imported, or if it is neither a Python function nor a subclass of `torch.nn.Module`.
    Only these may be named in a run's files.
    """
    found = import_path(path)
    if found is None:
        raise UserError(
            f"model = {path} was passed to train() as an object, so it can't be made from its name; "
            "pass the object as model= again, or give --model package.module:function"
        )
    module, name = found
    try:
        maker = attribute(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UserError(
                f"model = {path}: {module} needs {error.name}, which is not installed; install {error.name}"
            ) from error
        raise UserError(
            f"model = {path}: there is no module {error.name} on Python's path; run the command in the module's "
            "folder, or set PYTHONPATH"
        ) from None
    except Exception as error:
        raise UserError(f"model = {path}: importing {module} failed ({_with_type(error)}); fix the module") from error
    if isinstance(maker, types.FunctionType) or (isinstance(maker, type) and issubclass(maker, torch.nn.Module)):
        return maker
    what = "not defined" if maker is None else f"a {type(maker).__name__}, not a function or a class of modules"
    raise UserError(f"model = {path}: {name} is {what}; {_GIVE}")


def require_logits(model: torch.nn.Module, name: str, classes: int, sides: Iterable[int]) -> None:
    """Raise UserError unless `model` returns logits, float [n, `classes`], for square images of each of `sides`, in px.

    It is tried in eval mode on two images, which creates the parameters of lazy layers. Raises UserError if the output
    is probabilities, if no parameter is trainable, or if the state_dict holds anything but tensors. `name`: the model's
    name for the messages.
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for side in sorted(set(sides)):
            _require_logits_of(model, name, classes, side)
    finally:
        for module, flag in training.items():
            module.training = flag
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"model = {name} has no trainable parameter; set requires_grad = True for some of them")
    for key, each in model.state_dict().items():
        if not isinstance(each, torch.Tensor):
            raise UserError(f"model = {name}: '{key}' in its state_dict is not a tensor; remove get_extra_state")


def require_same_structure(model: torch.nn.Module, name: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Raise UserError if the names or shapes of the tensors of `model` differ from those of a checkpoint's `weights`.

    `name`: the model's name for the message.
    """
    own = {key: tuple(each.shape) for key, each in model.state_dict().items()}
    then = {key: tuple(each.shape) for key, each in weights.items()}
    for key in (*then, *own):
        if own.get(key) != then.get(key):
            here, there = ("absent" if key not in each else f"{list(each[key])}" for each in (own, then))
            raise UserError(
                f"model = {name} is not the one that the run began with: '{key}' is {there} in the checkpoint and "
                f"{here} in the model; give the run's own model, or start a new run"
            )


def _parameters(maker: Any, name: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(maker).parameters
    except (TypeError, ValueError):
        raise UserError(f"model = {name} is neither a torch.nn.Module nor a function; {_GIVE}") from None


def _call(maker: Callable[..., Any], name: str, num_classes: int, options: dict[str, Any]) -> Any:
    signature = inspect.signature(maker)
    by_name = "num_classes" in signature.parameters or any(
        each.kind is inspect.Parameter.VAR_KEYWORD for each in signature.parameters.values()
    )
    arguments: tuple[int, ...] = () if by_name else (num_classes,)
    options = {"num_classes": num_classes, **options} if by_name else options
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise UserError(f"model = {name} can't be called with the number of classes ({error}); {_GIVE}") from None
    try:
        return maker(*arguments, **options)
    except FasttrainError:
        raise
    except Exception as error:
        raise fixable(error) or UserError(
            f"model = {name} failed for {num_classes} classes ({_with_type(error)})"
        ) from error


def _require_logits_of(model: torch.nn.Module, name: str, classes: int, side: int) -> None:
    given = next((each for each in model.parameters()), torch.zeros(()))
    pictures = torch.zeros(2, 3, side, side, device=given.device).to(memory_format=torch.channels_last)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            logits = model(pictures)
    except Exception as error:
        raise fixable(error) or UserError(
            f"model = {name} fails on pictures of {side} px, float32 [n, 3, {side}, {side}] in channels_last memory "
            f"({_with_type(error)}); make the model accept such pictures, or give another --image-size"
        ) from error
    wanted = f"return logits, float [n, {classes}]"
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point():
        what = str(logits.dtype) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise UserError(f"model = {name} returns {what}; {wanted}")
    if tuple(logits.shape) != (2, classes):
        raise UserError(
            f"model = {name} returns {list(logits.shape)} for 2 pictures of {side} px, but the data has {classes} "
            f"classes; {wanted}"
        )
    if classes > 1 and bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones(()).to(logits)):
        raise UserError(f"model = {name} returns probabilities, which add up to 1; remove the softmax and {wanted}")


def _with_type(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)[:200]}"
