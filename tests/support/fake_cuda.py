"""Training steps on CUDA tensors without data, on a machine without a GPU, and the work that each gives to the GPU.

An operation counts where it runs kernels or copies on CUDA. Views, allocations and other changes of metadata don't. A
multi-tensor operation (`_foreach_…`, `_fused_…`) counts as often as torch launches it: a launch takes at most so many
tensors and blocks. Any other operation counts once, though some launch several kernels: cuDNN's convolution backward
computes the gradients of inputs and weights by one each.

A synchronization is what makes the host wait for the device: a value read on the host, a shape that depends on values,
a copy to the host, and a copy from memory that is not page-locked.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _foreach_utils
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from fasttrain.config.load import resolve
from fasttrain.model.freeze import keep_frozen
from fasttrain.ranks import Ranks, StepAgreement
from fasttrain.terminal import make_console
from fasttrain.training import optim
from fasttrain.training.image_size import with_fitting_sizes
from fasttrain.training.resume import RunStart
from fasttrain.training.setup import make_parts
from fasttrain.training.step import StepBatch

_ROOT = Path(__file__).resolve().parents[2]
_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
_METADATA = {"_unsafe_view", "_reshape_alias", "detach", "lift_fresh", "as_strided_", "set_", "resize_", "prim::device"}
_READS_VALUES = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount"}
_COMPARISONS = {"equal", "allclose"}
_RANDOM = {"normal_", "uniform_"}  # they fill a new model's weights, which have no memory here
_COPIES = {"_to_copy", "copy_"}
# From ATen/native/cuda/MultiTensorApply.cuh: tensors a launch by the number of lists, blocks a launch, values a block.
_TENSORS = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
_BLOCKS, _CHUNK = 320, 65_536


class Launches(TorchDispatchMode):
    """Count what runs on CUDA tensors, by the name of the operation, in `operations` and `synchronizations`."""

    def __init__(self, operations: Counter[str] | None = None, synchronizations: Counter[str] | None = None) -> None:
        super().__init__()
        self.operations: Counter[str] = operations or Counter()
        self.synchronizations: Counter[str] = synchronizations or Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        if name in _RANDOM:
            return args[0]
        lists = [each for each in args if isinstance(each, (list, tuple)) and _is_cuda(*each)]
        if name.startswith(("_foreach_", "_fused_", "_amp_foreach_")) and lists:
            self.operations[name] += _multi_tensor_launches(lists)
            if not function._schema.returns:  # in place: the fused ones have no kernel for fake tensors
                return None
            return function(*args, **kwargs)
        given = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
        given += [each for list_ in lists for each in list_]
        if _is_cuda(*given) and self._reads_values(name, args):
            self.synchronizations[name] += 1
            if name in _COMPARISONS or name == "_local_scalar_dense":  # comparisons hold, and each number is 0
                return name in _COMPARISONS or args[0].dtype == torch.bool
        result = function(*args, **kwargs)
        made = result if isinstance(result, (list, tuple)) else [result]
        if not _is_cuda(*given) and not _is_cuda(*made):
            return result
        if name in _COPIES:
            source = args[1] if name == "copy_" else args[0]
            target = args[0] if name == "copy_" else result
            if source.is_cuda != target.is_cuda and source.ndim + target.ndim:
                waits = not source.is_cuda and not hasattr(source, "page_locked")
                if source.is_cuda or waits:
                    self.synchronizations["copy to the host" if source.is_cuda else "copy from pageable memory"] += 1
        metadata_only = function.is_view or name in _ALLOCATIONS or name in _METADATA
        if not metadata_only and any(each.numel() for each in made if isinstance(each, torch.Tensor)):
            self.operations[name] += 1
        return result

    @staticmethod
    def _reads_values(name: str, args: Any) -> bool:
        if name in ("index", "index_put_"):
            return any(each is not None and each.dtype == torch.bool for each in args[1])
        return name in _READS_VALUES | _COMPARISONS


def _is_cuda(*values: Any) -> bool:
    return any(isinstance(each, torch.Tensor) and each.is_cuda for each in values)


def _multi_tensor_launches(lists: Sequence[Sequence[torch.Tensor]]) -> int:
    """Return how often `multi_tensor_apply` launches its kernel for these lists of tensors, walked side by side."""
    launches = tensors = blocks = 0
    for tensor in lists[0]:
        tensors += 1
        chunks = -(-tensor.numel() // _CHUNK)
        for chunk in range(chunks):
            blocks += 1
            last = chunk == chunks - 1
            if blocks == _BLOCKS or (last and tensors == _TENSORS[len(lists)]):
                launches, blocks, tensors = launches + 1, 0, 0 if last else 1
    return launches + bool(blocks)


def _backward(loss: torch.Tensor, *_: Any, **__: Any) -> None:
    """Do what `loss.backward()` does, node by node: torch's engine asks the driver for its streams.

    A gradient becomes that of a parameter without a copy where it is the first and lies in memory as the parameter.
    """
    waits_for: Counter[Any] = Counter()
    found, todo = {loss.grad_fn}, [loss.grad_fn]
    while todo:
        for node, _ in todo.pop().next_functions:
            if node is not None:
                waits_for[node] += 1
                if node not in found:
                    found.add(node)
                    todo.append(node)
    gradients: dict[Any, dict[int, torch.Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    ready = [loss.grad_fn]
    while ready:
        node: Any = ready.pop()
        given = gradients.pop(node, {})
        if hasattr(node, "variable"):
            _accumulate(node.variable, given[0])
            continue
        with torch.no_grad():
            results = node(*(given.get(at) for at in range(len(node._input_metadata))))
        results = results if isinstance(results, tuple) else (results,)
        for (following, at), gradient in zip(node.next_functions, results, strict=True):
            if following is None:
                continue
            if gradient is not None:
                with torch.no_grad():
                    gradient = _as_expected(gradient, following._input_metadata[at])
                    known = gradients.setdefault(following, {})
                    known[at] = known[at] + gradient if at in known else gradient
            waits_for[following] -= 1
            if not waits_for[following]:
                ready.append(following)


def _as_expected(gradient: torch.Tensor, metadata: Any) -> torch.Tensor:
    return gradient.sum_to_size(metadata.shape).to(metadata.dtype)


def _accumulate(parameter: torch.Tensor, gradient: torch.Tensor) -> None:
    with torch.no_grad():
        if parameter.grad is not None:
            parameter.grad += gradient
        else:
            alike = gradient.stride() == parameter.stride()
            parameter.grad = gradient if alike else torch.empty_like(parameter).copy_(gradient)


def _page_locked(tensor: torch.Tensor) -> torch.Tensor:
    """Stand for `Tensor.pin_memory`, which needs a driver."""
    copy: Any = tensor.clone()
    copy.page_locked = True
    return copy


def _numpy(tensor: torch.Tensor, *, of: Any = torch.Tensor.numpy) -> Any:
    """Stand for `Tensor.numpy`, which would take the address of a fake copy."""
    with no_dispatch():
        return of(tensor)


def _moved(model: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
    """Stand for `Module.to`, which can't swap the contents of fake tensors: new ones take their place."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                moved = torch.nn.Parameter(_on(parameter.detach(), *args, **kwargs), parameter.requires_grad)
                module._parameters[name] = moved
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else _on(buffer, *args, **kwargs)
    return model


def _on(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return tensor.to(*args, **kwargs) if tensor.ndim == 4 or "memory_format" not in kwargs else tensor


@contextlib.contextmanager
def fake_cuda() -> Iterator[None]:
    """Have tensors on CUDA, which hold no data, and one device there.

    Only what asks the driver is replaced: the states of random generators, page-locked memory, the autograd engine, and
    the choice of a convolution, which reads the properties of a device that isn't there.
    """
    state, generator = torch.zeros(16, dtype=torch.uint8), torch.Generator()
    with contextlib.ExitStack() as stack:
        for target, name, value in (
            (torch.cuda, "device_count", lambda: 1),
            (torch.cuda, "set_device", lambda *_: None),
            (torch.cuda, "is_bf16_supported", lambda *_: True),
            (torch.cuda, "get_device_capability", lambda *_: (9, 0)),
            (torch.cuda, "get_rng_state", lambda *_: state),
            (torch.cuda, "set_rng_state", lambda *_: None),
            (torch, "Generator", lambda *_, **__: generator),
            (torch._C, "_select_conv_backend", lambda *_, **__: torch._C._ConvBackend.Cudnn),
            (torch._C, "_conv_determine_backend_memory_format", lambda *_: torch.channels_last),
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (torch.Tensor, "pin_memory", _page_locked),
            (torch.Tensor, "is_pinned", lambda tensor, *_: hasattr(tensor, "page_locked")),
            (torch.Tensor, "numpy", _numpy),
            (torch.Tensor, "backward", _backward),
            (torch.nn.Module, "to", _moved),
            (_foreach_utils, "_foreach_supported_types", [torch.Tensor, torch.nn.Parameter, FakeTensor]),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


def counted_steps(data: Path, cases: Sequence[dict[str, Any]]) -> list[Launches]:
    """Return what a training step of a run on `data` with each of the settings `cases` launches.

    It happens in a process of its own, as torch never takes the stand-in for CUDA's driver away again.
    """
    command = [sys.executable, "-m", __name__, str(data)]
    answer = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, cwd=_ROOT, timeout=600)
    assert answer.returncode == 0, answer.stderr
    return [Launches(*map(Counter, counts)) for counts in json.loads(answer.stdout.splitlines()[-1])]


def counted_step(data: Path, *, batch_size: int = 16, image_size: int = 64, **settings: Any) -> Launches:
    """Return what the second training step launches, when all state exists. It leaves this process without CUDA."""
    settings = {"data": data, "pretrained": False, "workers": 0, "compile": "off", "loader": "torchvision", **settings}
    config = resolve({**settings, "batch_size": batch_size, "image_size": image_size, "device": "cuda"})
    with_fitting_sizes(config)  # remembers the sizes that the model takes, which fake tensors are slow to find
    with fake_cuda(), Launches(), mock.patch.object(optim, "require_usable"):
        parts = make_parts(RunStart(config), make_console(quiet=True), Ranks())
        parts.fold_frozen()
        parts.loaders.close()
    ids = torch.from_numpy(parts.loaders.train.ids[:batch_size].copy())  # the loader's: on the host, with data
    labels, launches = torch.zeros(batch_size, dtype=torch.int64), Launches()
    with fake_cuda():
        images = torch.empty((batch_size, image_size, image_size, 3), dtype=torch.uint8, device="cuda")
        batches = [StepBatch(images, labels, ids, 0, batch_size)] * parts.step.accumulate
        for counted in (Launches(), launches):
            parts.state.model.train()
            keep_frozen(parts.step.frozen)
            with counted:
                parts.step(parts.state, batches, StepAgreement(*parts.step.size(batches), None))
    return launches


if __name__ == "__main__":
    gc.disable()  # the remaining tensors are on a device that doesn't exist and can't be freed
    counted = [counted_step(Path(sys.argv[1]), **case) for case in json.load(sys.stdin)]
    print(json.dumps([(each.operations, each.synchronizations) for each in counted]), flush=True)
    os._exit(0)
