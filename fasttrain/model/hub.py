"""Models from the Hugging Face Hub, `hf-hub:owner/name`, whose `config.json` names a timm architecture."""

from __future__ import annotations

import contextlib
import re
import socket
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
import timm

from fasttrain.errors import UserError, first_line

_NAME = re.compile(r"hf[-_]hub:(?P<repository>[\w.-]+/[\w.-]+(?:@[\w./-]+)?)")
CONFIGURED = (
    "input_size",
    "interpolation",
    "mean",
    "std",
    "crop_pct",
    "num_classes",
    "classifier",
    "first_conv",
    "fixed_input_size",
    "pool_size",
)
"""The fields of timm's PretrainedCfg that describe the model and its input, and not the source of its weights."""

# Arguments that a downloaded file must not set: they decide where weights come from and how the model is used.
_RESERVED = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "features_only"}
_RESERVED |= {"scriptable", "exportable", "no_jit", "num_classes", "drop_rate", "drop_path_rate"}


@dataclass(frozen=True)
class HubModel:
    """A hub repository's description of its model.

    `architecture`: timm's name of the architecture. `arguments`: keyword arguments for timm's constructor.
    `pretrained_cfg`: those fields of timm's PretrainedCfg that `CONFIGURED` names, such as mean and input size.
    """

    architecture: str
    arguments: dict[str, Any]
    pretrained_cfg: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON data, which `remember` accepts again."""
        return asdict(self)


_known: dict[str, HubModel] = {}


def repository(name: str) -> str | None:
    """Return `name` without its prefix "hf-hub:", such as "owner/name" or "owner/name@revision".

    Return None for a name without this prefix.
    """
    found = _NAME.fullmatch(name)
    return found["repository"] if found else None


def hub_model(name: str) -> HubModel:
    """Return the description of the model `name`, "hf-hub:OWNER/NAME", which is downloaded once per process.

    Raises UserError if it can't be downloaded, or if it doesn't describe a model of this timm.
    """
    found = repository(name)
    assert found is not None
    if found not in _known:
        _known[found] = _fetch(name, found)
    return _known[found]


def remember(name: str, described: Mapping[str, Any]) -> None:
    """Store the description of the hub model `name` that a run's files hold, so that `hub_model` needs no network.

    `described`: a result of `HubModel.to_dict`. Raises ValueError if `name` has no prefix "hf-hub:". Raises TypeError,
    KeyError, ValueError or UserError if `described` is damaged, and UserError if this timm lacks the architecture.
    """
    found = repository(name)
    if found is None:
        raise ValueError(f"'{name}' is not a name like hf-hub:OWNER/NAME")
    _known[found] = _checked(name, str(described["architecture"]), described["arguments"], described["pretrained_cfg"])


@contextlib.contextmanager
def cache_only_without_network() -> Iterator[None]:
    """Use only the local cache in this context if the hub can't be reached. The hub's client would retry for 45 s."""
    hub = urlsplit(huggingface_hub.constants.ENDPOINT)
    offline_before = huggingface_hub.constants.HF_HUB_OFFLINE
    if not urllib.request.getproxies():
        try:
            port = hub.port or (80 if hub.scheme == "http" else 443)
            socket.create_connection((hub.hostname or "", port), timeout=5).close()
        except OSError:
            huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = offline_before


def _fetch(name: str, found: str) -> HubModel:
    try:
        with cache_only_without_network():
            config, architecture, arguments = timm.models.load_model_config_from_hf(found)
    except KeyError as error:
        raise UserError(
            f"model = '{name}': its config.json lacks {error}, so timm can't make it; choose another model"
        ) from error
    except RuntimeError as error:  # timm could not import the client
        versions = f"timm {timm.__version__} does not work with huggingface_hub {huggingface_hub.__version__}"
        raise UserError(f"model = '{name}': {versions}; upgrade timm") from error
    except Exception as error:  # the hub client raises errors of httpx, of requests and its own
        reason = first_line(error)
        raise UserError(
            f"model = '{name}': its config.json can't be downloaded ({type(error).__name__}: {reason}); check the "
            "name, log in with `hf auth login`, or give timm's name of the architecture as --model with --weights FILE"
        ) from error
    return _checked(name, architecture, arguments or {}, config)


def _checked(name: str, architecture: str, arguments: Any, config: Any) -> HubModel:
    if not timm.is_model(architecture):
        raise UserError(f"model = '{name}': timm {timm.__version__} has no {architecture}; try a newer timm")
    own = {key: each for key, each in dict(arguments).items() if key not in _RESERVED}
    return HubModel(architecture, own, {key: config[key] for key in CONFIGURED if config.get(key) is not None})
