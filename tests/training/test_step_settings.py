"""Settings of one step: accumulation, compile, fused optimizers, checkpointed activations, precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from fasttrain import train
from fasttrain.device import fast_math
from fasttrain.errors import UserError
from fasttrain.model.factory import create_model, enable_grad_checkpointing
from fasttrain.training.optim import Schedule, create_optimizer
from tests.support.runs import SMALL, killed_after, last_state

TINY = {**SMALL, "image_size": 32, "track": False, "deterministic": True}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_accumulated_batches_train_as_one_large_batch(shard_folder, tmp_path):
    """LayerNorm only, so that batches do not matter to the model; the last group and its last batch are short."""
    settings = {**TINY, "model": "test_convnext", "optimizer": "sgd", "learning_rate": 0.1, "epochs": 1}
    whole = train(data=shard_folder, out=tmp_path / "a", **{**settings, "batch_size": 32})
    parts = train(data=shard_folder, out=tmp_path / "b", **{**settings, "batch_size": 8, "grad_accumulation": 4})
    begun = create_model("test_convnext", 6).state_dict()
    steps = [last_state(run.folder)["step"] for run in (whole, parts)]
    assert steps[0] == steps[1] == -(-whole_split(shard_folder) // 32)
    for name, tensor in weights(whole.folder).items():
        torch.testing.assert_close(weights(parts.folder)[name], tensor, atol=2e-5, rtol=1e-3)
    assert begun.keys() == weights(parts.folder).keys()
    assert parts.history[0]["train_loss"] == pytest.approx(whole.history[0]["train_loss"], rel=1e-3)


def whole_split(shard_folder: Path) -> int:
    from fasttrain.shards.reader import ShardSet

    return len(ShardSet.open(shard_folder).ids("train"))


@pytest.mark.slow
def test_killed_between_groups_and_resumed_bit_for_bit(shard_folder, tmp_path):
    settings: dict[str, Any] = {**TINY, "batch_size": 8, "grad_accumulation": 3, "save_every": 1, "drop_rate": 0.2}
    settings |= {"scheduler": "cosine", "ema_decay": 0.9}
    alone = train(data=shard_folder, out=tmp_path / "alone", **settings)
    with killed_after(lambda state: state["loader"]["samples"] == 48):
        train(data=shard_folder, out=tmp_path / "killed", **settings)
    resumed = train(resume="auto", out=tmp_path / "killed")
    for part in ("model", "ema"):
        ours, theirs = (last_state(run.folder)[part] for run in (resumed, alone))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_torchs_optimizers_are_fused():
    model = torch.nn.Linear(4, 2)
    for name in ("adam", "adamw", "sgd"):
        assert create_optimizer(model, name, 0.1, 0.0, 0.9).defaults["fused"], name
    assert "fused" not in create_optimizer(model, "lamb", 0.1, 0.0, 0.9).defaults


@pytest.mark.parametrize("kind", ["constant", "cosine", "onecycle", "plateau"])
def test_layer_decay_slows_the_first_blocks_under_every_schedule(kind):
    model = create_model("mobilenetv2_035", 3)
    optimizer = create_optimizer(model, "sgd", 0.1, 1e-4, 0.9, layer_decay=0.5)
    made = Schedule(
        optimizer,
        kind,
        learning_rate=0.1,
        epochs=4,
        steps_per_epoch=10,
        patience=1,
        factor=0.5,
        warmup_epochs=0,
    )
    rates = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
    head, before, stem = (
        rates[id(each)] for each in (model.classifier.weight, model.blocks[6][0].conv_pw.weight, model.conv_stem.weight)
    )
    assert before == pytest.approx(head / 2) and stem == pytest.approx(head * 0.5**18)
    assert made.learning_rate == pytest.approx(head)
    for _ in range(3):
        optimizer.step()
        made.after_step()
    rates = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
    assert rates[id(model.conv_stem.weight)] == pytest.approx(rates[id(model.classifier.weight)] * 0.5**18)


def test_grad_checkpointing_recomputes_the_same_gradients_with_less_kept():
    def gradients(checkpointed: bool) -> tuple[list[torch.Tensor], int]:
        torch.manual_seed(0)
        model = timm.create_model("mobilenetv2_035", num_classes=3)  # its classifier is not zero
        if checkpointed:
            enable_grad_checkpointing(model)
        kept = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tensor.numel())
            return tensor

        inputs = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model.train()(inputs).square().sum()
        loss.backward()
        return [each.grad for each in model.parameters()], sum(kept)

    plain, much = gradients(False)
    ours, little = gradients(True)
    for one, other in zip(plain, ours, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert little < much / 2


def test_a_model_without_grad_checkpointing_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"^grad_checkpointing: \w+ does not support it; use --no-grad-checkp"):
        enable_grad_checkpointing(create_model("dla34", 2))


def test_deterministic_runs_use_full_precision():
    def settings() -> tuple[str, bool, str]:
        cudnn = torch.backends.cudnn
        newer = cudnn.conv.fp32_precision if hasattr(cudnn, "conv") else {True: "tf32", False: "ieee"}[cudnn.allow_tf32]
        return torch.get_float32_matmul_precision(), cudnn.allow_tf32, newer

    try:
        fast_math(deterministic=False)
        assert settings() == ("high", True, "tf32")
        fast_math(deterministic=True)
        assert settings() == ("highest", False, "ieee")
    finally:
        fast_math(deterministic=False)
        torch.set_float32_matmul_precision("highest")
