"""Class-activation maps: which parts of a photograph speak for a class (Grad-CAM, Selvaraju et al. 2017)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.errors import UserError
from fasttrain.extras import require

_OPACITY = 0.5


def class_activation(model: torch.nn.Module, inputs: torch.Tensor, labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return a class-activation map for each picture, float32 [n, H, W] in [0, 1].

    `model`: a convolutional model in eval mode. `inputs`: normalized pictures, float [n, 3, H, W]. `labels`: int64 [n],
    the class to explain for each. Raises UserError if the model isn't convolutional, or Captum isn't installed.
    """
    require("--explain", "explain", "captum")
    from captum.attr import LayerAttribution, LayerGradCam

    cam = LayerGradCam(model, _last_spatial_layer(model, inputs[:1]))
    target = torch.from_numpy(labels).to(inputs.device)
    with torch.enable_grad():
        found = cam.attribute(inputs, target=target, relu_attributions=True)
    maps = LayerAttribution.interpolate(found.detach(), inputs.shape[2:], "bilinear")[:, 0]
    highest = maps.amax(dim=(1, 2), keepdim=True)
    scaled: NDArray[np.float32] = (maps / highest.clamp(min=torch.finfo(maps.dtype).tiny)).float().cpu().numpy()
    return scaled


def overlay(pixels: NDArray[np.uint8], maps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the pictures `pixels`, uint8 [n, H, W, 3], with `maps`, [n, H, W] in [0, 1], drawn over them in colour."""
    from matplotlib import colormaps

    colors = colormaps["turbo"](maps)[..., :3] * 255
    mixed: NDArray[np.uint8] = ((1 - _OPACITY) * pixels + _OPACITY * colors).round().astype(np.uint8)
    return mixed


def _last_spatial_layer(model: Any, picture: torch.Tensor) -> torch.nn.Module:
    """Return the last layer whose output has the form [n, C, H, W]. Raises UserError if there is none."""
    seen: list[torch.nn.Module] = []

    def record(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if _is_spatial(output):
            seen.append(module)

    hooks = [module.register_forward_hook(record) for module in model.modules()]
    try:
        with torch.no_grad():
            model(picture)
            features = model.forward_features(picture) if hasattr(model, "forward_features") else None
    finally:
        for hook in hooks:
            hook.remove()
    if not seen or (features is not None and not _is_spatial(features)):
        raise UserError(
            f"--explain: {type(model).__name__} is not convolutional, and other models have no class-activation maps; "
            "leave out --explain"
        )
    return seen[-1]


def _is_spatial(output: Any) -> bool:
    # Transformers return [n, tokens, C] or [n, H, W, C]. Pictures are square, so H = W tells the layouts apart.
    return isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3] > 1
