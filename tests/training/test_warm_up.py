"""Compiling before an epoch's first step: the run stays as it was, and a failure ends in one line."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch._dynamo.backends.common import aot_autograd

from fasttrain import train
from fasttrain.config.load import resolve
from fasttrain.model import compiled
from fasttrain.ranks import Ranks
from fasttrain.training.loop import train_epoch
from fasttrain.training.parts import RunParts
from fasttrain.training.resume import RunStart
from fasttrain.training.setup import make_parts
from fasttrain.training.warm_up import warm_up
from tests.support.runs import SMALL

RUN = {**SMALL, "model": "test_resnet", "image_size": 64, "batch_size": 24, "drop_rate": 0.2, "track": False}


def compile_by(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    monkeypatch.setattr(compiled, "_compile_pays", lambda device: True)


def parts_of(shard_folder: Any, **settings: Any) -> RunParts:
    return make_parts(RunStart(resolve({**RUN, "data": shard_folder, **settings})), Console(quiet=True), Ranks())


@pytest.mark.slow
def test_a_warmed_up_run_trains_as_one_that_is_not_compiled(shard_folder, tmp_path, monkeypatch, capsys):
    settings = {**RUN, "data": shard_folder, "progressive": "32:64", "sam": 0.05}
    plain = train(out=tmp_path / "plain", **settings)
    in_steps: list[bool] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        in_steps.append(torch.is_grad_enabled() and stepping[0])
        return graph.forward

    stepping = [False]

    def watched(*given: Any, **options: Any) -> bool:
        stepping[0] = True
        try:
            return train_epoch(*given, **options)
        finally:
            stepping[0] = False

    monkeypatch.setattr("fasttrain.commands.run.train_epoch", watched)
    compile_by(backend, monkeypatch)
    capsys.readouterr()
    run = train(out=tmp_path / "compiled", compile="on", **settings)
    said = capsys.readouterr().out
    assert [said.count(f"compile: {side} px, ") for side in (32, 64)] == [1, 1]
    assert in_steps and not any(in_steps), "a step had to wait for the compiler"
    ours, theirs = (load_file(each.folder / "model.safetensors") for each in (run, plain))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_a_backward_pass_that_cannot_be_compiled_ends_in_one_line(shard_folder, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("no kernel for it")

    compile_by(aot_autograd(fw_compiler=lambda graph, _: graph.forward, bw_compiler=broken), monkeypatch)
    parts = parts_of(shard_folder, compile="auto")
    said: list[str] = []
    monkeypatch.setattr(parts.model._compiled_call_impl, "warn", said.append)
    before = {name: each.clone() for name, each in parts.model.state_dict().items()}
    generator = torch.get_rng_state()
    warm_up(parts, pytest.fail)
    assert said == [
        "compile: torch.compile failed (RuntimeError: no kernel for it); the model runs uncompiled, which is slower"
    ]
    assert not parts.compiled and parts.model._compiled_call_impl is None
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(before[name], each) for name, each in parts.model.state_dict().items())
    assert all(each.grad is None for each in parts.model.parameters())
    parts.loaders.close()


@pytest.mark.slow
def test_gradients_of_its_passes_are_not_added_up(shard_folder, monkeypatch):
    """A CUDA graph writes each gradient where the last one lay."""
    compile_by(lambda graph, inputs: graph.forward, monkeypatch)
    parts = parts_of(shard_folder, compile="on", drop_rate=0.0)
    (bias,) = (each for name, each in parts.model.named_parameters() if name.endswith("fc.bias"))
    seen: list[torch.Tensor] = []
    bias.register_post_accumulate_grad_hook(lambda each: seen.append(each.grad.clone()))
    warm_up(parts)
    warm_up(parts)  # which has nothing left to do
    assert len(seen) == 3 and seen[0].any() and all(torch.equal(each, seen[0]) for each in seen)
    parts.loaders.close()
