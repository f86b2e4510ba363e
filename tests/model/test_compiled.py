"""torch.compile: a static graph for each shape of full batches, and one line where it fails."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch

from fasttrain.errors import UserError
from fasttrain.model import compiled
from fasttrain.model.compiled import compile_in_place

CPU = torch.device("cpu")
FULL = 5


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(images)).relu().mean((2, 3))


def compile_net(choice: str, monkeypatch: pytest.MonkeyPatch, backend: Any) -> tuple[torch.nn.Module, list[str]]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, said = Net(), []
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    monkeypatch.setattr(compiled, "_compile_pays", lambda device: True)
    assert compile_in_place(model, CPU, choice, "default", False, batch_size=FULL, warn=said.append)
    return model, said


def test_each_size_of_full_batches_has_a_static_graph_and_short_ones_have_none(monkeypatch):
    shapes = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        assert all(isinstance(size, int) for each in inputs for size in each.shape), "a dynamic shape"
        shapes.append(next(tuple(each.shape) for each in inputs if each.ndim == 4 and len(each) == FULL))
        return graph.forward

    model, _ = compile_net("on", monkeypatch, backend)
    plain = copy.deepcopy(model)
    for side in (8, 12):  # two sizes, like progressive resizing
        for _ in range(2):  # epochs, whose last batch is short
            for count in (FULL, FULL, 3):
                images = torch.randn(count, 3, side, side)
                torch.testing.assert_close(model(images), plain(images))
    assert shapes == [(FULL, 3, 8, 8), (FULL, 3, 12, 12)]


@pytest.mark.slow
def test_compile_shares_parameters_and_keeps_names():
    torch._dynamo.reset()
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    names, inputs = list(model.state_dict()), torch.randn(FULL, 4)
    expected = model(inputs)
    compile_model = functools.partial(compile_in_place, model, CPU, batch_size=FULL, warn=pytest.fail)
    assert not compile_model("auto", "default", False)
    assert not compile_model("off", "default", False)
    assert compile_model("on", "default", False)
    torch._dynamo.utils.counters.clear()
    torch.testing.assert_close(model(inputs), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "it did not run compiled"
    assert list(model.state_dict()) == names
    twin = copy.deepcopy(model)  # ModelEmaV3 copies models like this
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(1.0)
    assert model(inputs).eq(1).all() and not twin(inputs).eq(1).all()


def broken(*_: object) -> None:
    raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable.")


def test_where_compiling_fails_one_line_says_why_and_the_model_runs_as_it_is(monkeypatch):
    model, said = compile_net("auto", monkeypatch, broken)
    plain, images = copy.deepcopy(model), torch.randn(FULL, 3, 8, 8)
    for _ in range(2):
        assert torch.equal(model(images), plain(images))
    assert said == [
        "compile: torch.compile failed (RuntimeError: Failed to find C compiler. Please specify via CC environment "
        "variable.); the model runs uncompiled, which is slower"
    ]


def test_where_it_was_asked_for_a_failure_is_an_error(monkeypatch):
    model, said = compile_net("on", monkeypatch, broken)
    with pytest.raises(UserError, match=r"^compile = 'on': torch.compile failed \(RuntimeError: Failed to find C comp"):
        model(torch.randn(FULL, 3, 8, 8))
    assert not said


def test_a_gpu_that_torch_does_not_compile_for_is_said_to_run_uncompiled(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla P100")
    for capability, triton in (((9, 0), None), ((6, 0), "a spec")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        monkeypatch.setattr("importlib.util.find_spec", lambda name, found=triton: found)
        gpu = torch.device("cuda", 0)
        assert not compile_in_place(Net(), gpu, "auto", "default", False, batch_size=FULL, warn=said.append)
        assert not compile_in_place(Net(), gpu, "auto", "default", True, batch_size=FULL, warn=pytest.fail)
    assert said == [
        "compile: triton, which torch.compile needs on a GPU, is not installed; the model runs uncompiled, which is "
        "slower",
        "compile: triton does not compile for Tesla P100; the model runs uncompiled, which is slower",
    ]
