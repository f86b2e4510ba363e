"""One training step of each model, with and without mixed precision and channels-last, on a batch held in memory."""

from __future__ import annotations

import pytest
import torch

from fasttrain.model.factory import create_model
from fasttrain.model.preprocess import Normalise
from fasttrain.training.device import choose_device, mixed_precision

BATCH = 32


@pytest.mark.parametrize("model_name", ["mobilenetv2_100", "efficientnet_b0"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("amp", [False, True], ids=["fp32", "bf16"])
def test_step(model_name, channels_last, amp, benchmark):
    device = choose_device("auto")
    model = create_model(model_name, 101).to(device).train()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    preprocess = Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), channels_last=channels_last).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randint(0, 256, (BATCH, 224, 224, 3), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 101, (BATCH,), device=device)
    autocast, _ = mixed_precision(device, amp, "bf16")

    def step() -> None:
        with autocast():
            loss = torch.nn.functional.cross_entropy(model(preprocess(images)), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(step, rounds=3, warmup_rounds=1)
    benchmark.extra_info["img/s"] = round(BATCH / benchmark.stats["median"], 1)
    print(f"\n{model_name}: {benchmark.extra_info}")
