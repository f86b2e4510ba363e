"""Choose the tag of timm's pretrained weights for a new run whose `--model` has no tag."""

from __future__ import annotations

import timm

from fasttrain.checkpoint.initial_weights import model_of
from fasttrain.config.model_name import is_own
from fasttrain.config.schema import TrainConfig

DEFAULT_WEIGHTS = {
    # 79.4 % ImageNet top1 at 256 px and 78.6 % at 224 px; timm's default, ra_in1k, has 77.7 % at 224 px
    "efficientnet_b0": "ra4_e3600_r224_in1k",
}
"""The tag of the best weights for each model that has better ones than timm's default.

The accuracies come from timm's results/results-imagenet.csv. mobilenetv2_100 has only one tag: ra_in1k, 72.9 %.
"""


def with_default_weights(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """Return `config` with a tag of pretrained weights added to its model name, and lines to print about the choice.

    A tag is the part of a timm name after the dot, such as `a1_in1k`. A tag in `config.model` is kept. Without
    `config.weights`, the tag of the best weights in `DEFAULT_WEIGHTS` is added; if the installed timm lacks that tag,
    none is added, and timm uses its own default. With `config.weights`, the tag of the run that made those weights is
    added, because the tag decides how pixels are normalized.
    """
    name, tag = config.model, DEFAULT_WEIGHTS.get(config.model)
    if config.weights is not None:
        tagged = keep_weights(model_of(config.weights) or name, name)
        if tagged == name:
            return config, []
        return config.model_copy(update={"model": tagged}), [f"model: {tagged}, that of {config.weights}"]
    if tag is None or not config.pretrained:
        return config, []
    tagged = f"{name}.{tag}"
    if tagged not in timm.list_pretrained(f"{name}.*"):
        return config, [f"weights: timm's default, as timm {timm.__version__} has no {tagged}; try a newer timm"]
    note = f"weights: {tagged}, better on ImageNet than timm's default; others: --model {name}.TAG"
    return config.model_copy(update={"model": tagged}), [note]


def keep_weights(then: str, now: str) -> str:
    """Return the model name for a resumed run: `then` if `now` is the same model without a tag, otherwise `now`.

    `then`: the name with which the run began. `now`: the name in the settings given now.
    """
    same = not is_own(then) and then.partition(".")[0] == now
    return then if same else now
