"""Makes a timm model with a classifier for the classes at hand, from pretrained, given or random weights."""

from __future__ import annotations

import contextlib
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
import timm
import torch
from timm.models import load_state_dict

from fasttrain.config.load import nearest
from fasttrain.errors import UserError
from fasttrain.model.classifier import start_classifier
from fasttrain.model.zipped import require_honest_sizes


@dataclass(frozen=True)
class ModelSpec:
    """What rebuilds a model: timm's name, the classes in label order, the input side in px, mean and std of RGB
    in [0, 1]."""

    name: str
    classes: tuple[str, ...]
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def create_model(
    name: str,
    num_classes: int,
    *,
    pretrained: bool = False,
    weights: Path | None = None,
    drop_rate: float = 0.0,
) -> torch.nn.Module:
    """A timm model on the CPU, in fp32, its classifier made for `num_classes`.

    `weights` (.safetensors or .pth, a state_dict) wins over `pretrained`; its classifier is kept where it has
    `num_classes` outputs. Raises UserError for an unknown name, a file that does not fit, or no network.
    """
    if not timm.is_model(name):
        raise UserError(f"model = '{name}' is not known to timm{nearest(name, timm.list_models())}")
    arguments: dict[str, Any] = {"num_classes": num_classes, "drop_rate": drop_rate}
    if weights is not None:
        return _from_file(name, weights, arguments)
    if not pretrained:
        model = timm.create_model(name, **arguments)
        start_classifier(model)
        return model
    try:
        with _cache_only_without_network():
            model = timm.create_model(name, pretrained=True, **arguments)
    except RuntimeError as error:  # timm's own word for "there are none"
        raise UserError(f"model = '{name}': {_first_line(error)}; give --weights FILE or --no-pretrained") from error
    except Exception as error:  # the hub client raises a dozen kinds: httpx's, requests', its own
        raise UserError(
            f"model = '{name}': its pretrained weights can't be downloaded ({type(error).__name__}); "
            "give --weights FILE or --no-pretrained"
        ) from error
    if num_classes != model.pretrained_cfg.get("num_classes"):  # else timm has loaded the pretrained classifier
        start_classifier(model)
    return model


def enable_grad_checkpointing(model: torch.nn.Module) -> None:
    """Has timm's `model` keep the activations between its blocks only, and compute the others again in the backward
    pass (Chen et al. 2016). UserError where it can't."""
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError):  # timm's word for "not supported" is an assertion
        name = type(model).__name__
        raise UserError(f"grad_checkpointing: timm's {name} does not have it; use --no-grad-checkpointing") from None


def model_spec(model: torch.nn.Module, name: str, classes: Sequence[str], image_size: int) -> ModelSpec:
    """The spec of a model that `create_model` made."""
    data = timm.data.resolve_model_data_config(model)
    return ModelSpec(name, tuple(classes), image_size, data["mean"], data["std"])


def _from_file(name: str, weights: Path, arguments: dict[str, Any]) -> torch.nn.Module:
    if not weights.is_file():
        raise UserError(f"{weights}: no such file; give --weights a .safetensors or .pth state_dict")
    require_honest_sizes(weights)
    try:
        state = load_state_dict(str(weights), weights_only=True)
    except Exception as error:  # pickle, zip, safetensors and torch each have their own
        raise UserError(f"{weights}: not a readable state_dict ({_first_line(error)})") from error
    model = timm.create_model(name, **arguments)
    own = model.state_dict()
    head = {key for key in own if key.startswith(model.default_cfg["classifier"] + ".")}
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    unfilled = [key for key in own if key not in fitting and key not in head]
    if unfilled:
        raise UserError(
            f"{weights}: does not fit {name}: {len(unfilled)} of its {len(own)} tensors are absent or of another "
            f"shape ('{unfilled[0]}' first); give the --model these weights were made for"
        )
    model.load_state_dict(fitting, strict=False)
    if not head <= fitting.keys():
        start_classifier(model)
    return model


@contextlib.contextmanager
def _cache_only_without_network() -> Iterator[None]:
    # The hub client retries for 45 s where there is no network; one look first, then its local cache only.
    hub = urlsplit(huggingface_hub.constants.ENDPOINT)
    offline_before = huggingface_hub.constants.HF_HUB_OFFLINE
    if not urllib.request.getproxies():
        try:
            socket.create_connection((hub.hostname or "", hub.port or 443), timeout=5).close()
        except OSError:
            huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = offline_before


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
