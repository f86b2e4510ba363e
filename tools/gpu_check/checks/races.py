"""Check 6: no loader passes on a batch that is still being filled, or reuses memory that the GPU still reads."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

from tools.gpu_check.findings import Findings, Skipped
from tools.gpu_check.registry import Setting, check

_SLEEP_CYCLES = 20_000_000
"""The number of GPU clock cycles that the consumer sleeps for each batch, at least 10 ms."""

_PASSES = 2
_SAME_DECODER = ("native", "torchvision", "ffcv")
"""The loaders that decode on the CPU for batches on the GPU."""


@check(6, "races: pixels for a consumer that sleeps on the GPU, with poisoned buffers", limit=75)
def races(setting: Setting, findings: Findings) -> None:
    """Compare each loader's pixels for a consumer that is late with the pixels for a consumer that isn't."""
    for name in ("native", "torchvision", "ffcv", "dali"):
        with findings.part(name):
            if name == "ffcv" and importlib.util.find_spec("ffcv") is None:
                raise Skipped("not installed")
            if name == "dali" and importlib.util.find_spec("nvidia.dali") is None:
                raise Skipped("not installed")
            if name == "ffcv" and not setting.cuda:
                raise Skipped("left out of the rehearsal: it compiles for half a minute")
            _loader(setting, findings, name)


def _loader(setting: Setting, findings: Findings, name: str) -> None:
    import torch

    where = "cpu" if name in _SAME_DECODER else setting.device  # nvJPEG rounds in its own way
    expected = _pixels(setting, name, where, hurry=True)
    found = _pixels(setting, name, setting.device, hurry=False)
    assert len(found) == len(expected) > 0, f"there were {len(found)} batches, not {len(expected)}"
    differing = [number for number, pair in enumerate(zip(found, expected, strict=True)) if not torch.equal(*pair)]
    findings.figure(f"{name}: batches", len(found))
    worst = max(int((one.int() - other.int()).abs().max()) for one, other in zip(found, expected, strict=True))
    assert not differing, f"batches {differing} of {len(found)} differ by up to {worst} from those of the {where}"


def _pixels(setting: Setting, name: str, device: str, *, hurry: bool) -> list[Any]:
    """Return the pixels of all batches of some passes over the loader `name`, copied to the CPU.

    With `hurry` each batch is copied at once. Otherwise the consumer lets it wait, copies it, frees it, and fills new
    memory of the same size with other values, on the host and on another stream of the GPU.
    """
    import torch

    from fasttrain import Loader, RandomResizedCrop

    side = 224 if setting.cuda else 48
    workers = 4 if setting.cuda else 1
    copies: list[Any] = []
    poison: list[Any] = []
    cuda = device.startswith("cuda")
    other = torch.cuda.Stream() if cuda else None
    with Loader(
        setting.shards,
        batch_size=32,
        crop=RandomResizedCrop(side),
        loader=name,
        workers=workers,
        device=device,
        seed=3,
    ) as loader:
        for _ in range(_PASSES if setting.cuda else 1):
            for images, _ in loader:
                if hurry:
                    copies.append(images.clone())
                    continue
                if cuda:
                    torch.cuda._sleep(_SLEEP_CYCLES)
                else:
                    time.sleep(0.01)
                copies.append(images.clone())
                shape = images.shape
                del images
                poison.append(torch.empty(shape, dtype=torch.uint8, pin_memory=cuda).fill_(0x55))
                if other is not None:
                    with torch.cuda.stream(other):
                        poison.append(torch.empty(shape, dtype=torch.uint8, device=device).fill_(0xAA))
                del poison[:-4]
    if cuda:
        torch.cuda.synchronize()
    return [each.cpu() for each in copies]
