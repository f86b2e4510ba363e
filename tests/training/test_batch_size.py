"""`--batch-size auto`, and what is offered where a batch is too large."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from fasttrain import cgroups, memory, train
from fasttrain.config.load import read_toml, resolve
from fasttrain.device import choose_device
from fasttrain.errors import UserError
from fasttrain.ranks import Ranks
from fasttrain.training import batch_size
from fasttrain.training.batch_size import (
    fastest_that_fits,
    fitting,
    largest_below,
    largest_by_growth,
    with_fitting_batch,
)
from fasttrain.training.loop import Step
from fasttrain.training.resume import RunStart
from fasttrain.training.setup import make_parts
from tests.support.runs import SMALL, killed_after, last_state

RUN = {**SMALL, "model": "test_convnext", "image_size": 32, "track": False, "deterministic": True, "drop_rate": 0.2}


def up_to(limit: int, tried: list[int]) -> Callable[[int], float]:
    """A device that takes any batch up to `limit` in the same time."""

    def fits(size: int) -> float:
        tried.append(size)
        return float(size) if size <= limit else 0.0

    return fits


@pytest.mark.parametrize(
    ("limit", "most", "found"),
    [(50, 4096, 48), (63, 4096, 48), (64, 4096, 64), (95, 4096, 64), (5, 4096, 4), (1, 4096, 1), (10**6, 24, 24)],
)
def test_it_doubles_and_tries_the_one_in_between(limit, most, found):
    tried: list[int] = []
    assert fastest_that_fits(up_to(limit, tried), most) == found
    assert len(tried) == len(set(tried)) and max(tried) <= most
    assert found in tried, "nothing is promised that was not tried"


@pytest.mark.parametrize(("saturated", "found"), [(8, 8), (64, 64), (100, 128), (150, 256)])
def test_a_batch_that_is_no_faster_is_left_to_others(saturated, found):
    tried: list[int] = []

    def rate(size: int) -> float:
        tried.append(size)
        return 1000.0 * min(size, saturated) * (1 + 0.02 * (size % 3))  # a little noise

    assert fastest_that_fits(rate, 4096) == found
    assert max(tried) <= 4 * saturated


def test_what_fits_below_a_batch_that_did_not():
    tried: list[int] = []
    assert largest_below(up_to(20, tried), 64) == 16
    assert tried == [48, 32, 24, 16]
    with pytest.raises(UserError, match="even with a batch of one photograph"):
        largest_below(up_to(0, []), 64)


@pytest.mark.parametrize(("room", "found"), [(5.0, 32), (8.5, 64), (3.0, 16), (1.9, 8), (100.0, 512)])
def test_a_cpu_reckons_from_the_growth_of_small_batches(room, found):
    """1 GB before any step, 0.1 GB a photograph: what is taken stays below the room, and nothing large is tried."""
    taken, tried = [1.0], []

    def fits(size: int) -> bool:
        tried.append(size)
        taken.append(1.0 + 0.1 * size)
        return True

    size = largest_by_growth(fits, 512, peak=lambda: int(max(taken) * 1e9), limit=lambda: int(room * 1e9))
    assert size == found and 1.0 + 0.1 * size <= room
    assert max(tried) <= 8 and max(taken) <= room


@pytest.mark.parametrize("before", [1.5, 2.2, 3.0])
def test_a_peak_from_before_the_steps_hides_no_growth(before):
    """0.1 GB a photograph beside 1 GB, once the process has taken `before` GB for other things."""
    taken = [before]

    def fits(size: int) -> bool:
        taken.append(1.0 + 0.1 * size)
        return True

    size = largest_by_growth(fits, 512, peak=lambda: int(max(taken) * 1e9), limit=lambda: int(14e9))
    assert 96 <= size <= 130


def test_nothing_is_tried_that_might_not_fit():
    taken = [1.0]

    def fits(size: int) -> bool:
        taken.append(1.0 + 0.05 * size)
        return True

    assert largest_by_growth(fits, 512, peak=lambda: int(max(taken) * 1e9), limit=lambda: int(1.35e9)) == 4
    assert max(taken) <= 1.35


def test_the_gpus_memory_is_bounded_while_sizes_are_tried(monkeypatch):
    """Torch refuses to bound the memory of a CUDA device without a number."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    bounds: list[tuple[float, int]] = []
    monkeypatch.setattr(torch._C, "_cuda_setMemoryFraction", lambda *bound: bounds.append(bound), raising=False)
    monkeypatch.setattr(batch_size, "release_memory", lambda device: None)
    monkeypatch.setattr(batch_size, "fastest_that_fits", lambda fits, most: min(48, most))
    loaders = SimpleNamespace(train=SimpleNamespace(ids=range(1000)), close=lambda: None)
    parts = SimpleNamespace(ranks=Ranks(), device=choose_device("auto"), loaders=loaders)
    start, line = with_fitting_batch(RunStart(resolve({"batch_size": "auto"})), lambda start: parts)
    assert start.config.batch_size == 48 and line == "batch size: 48 (the fastest tried on cuda:0)"
    assert bounds == [(0.92, 0), (1.0, 0)]


def small_memory(monkeypatch: pytest.MonkeyPatch, limit: int, after: int = 0) -> None:
    """Steps with more photographs than `limit` raise what CUDA raises, from optimizer step `after` on."""
    forward = Step.forward

    def limited(self: Step, model: torch.nn.Module, inputs: torch.Tensor) -> object:
        made = forward(self, model, inputs)
        if len(inputs) > limit and limited.calls >= after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        limited.calls += 1
        return made

    limited.calls = 0
    monkeypatch.setattr(Step, "forward", limited)


@pytest.mark.slow
def test_real_steps_are_tried_and_errors_of_other_kinds_are_not_swallowed(shard_folder, monkeypatch):
    config = resolve({**RUN, "data": shard_folder, "scheduler": "onecycle", "epochs": 1, "limit_batches": 1})
    parts = make_parts(RunStart(config), Console(quiet=True), Ranks())
    small_memory(monkeypatch, limit=20)
    before = [each.clone() for each in parts.model.parameters()]
    assert [bool(fitting(parts)(size)) for size in (4, 16, 24, 20)] == [True, True, False, True]
    assert any(not torch.equal(a, b) for a, b in zip(before, parts.model.parameters(), strict=True)), "real steps"
    assert all(each.grad is None for each in parts.model.parameters())

    def broken(*_: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(Step, "forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        fitting(parts)(4)


@pytest.mark.slow
def test_the_loaders_memory_is_held_while_a_batch_is_tried(shard_folder, monkeypatch):
    config = resolve({**RUN, "data": shard_folder, "epochs": 1, "limit_batches": 1})
    parts = make_parts(RunStart(config), Console(quiet=True), Ranks())
    told: list[object] = []

    @contextmanager
    def held(batch_size: int) -> Iterator[None]:
        told.append(batch_size)
        yield
        told.append("let go")

    forward = Step.forward
    monkeypatch.setattr(Step, "forward", lambda *given: told.append("step") or forward(*given))
    monkeypatch.setattr(parts.loaders.train._back_end, "holding_memory", held)
    assert fitting(parts)(4)
    assert told == [4, "step", "step", "let go"]
    parts.loaders.close()


@pytest.mark.parametrize(
    ("free", "reserved", "share"),
    [(80, 0, 0.92), (76, 4, 0.92), (60, 4, 0.72), (8, 0, 0.02), (1, 2, 0.0)],
    ids=["all free", "torch's own", "DALI's and others' 16 of 80", "nearly full", "full"],
)
def test_torch_is_left_what_others_do_not_hold(monkeypatch, free, reserved, share):
    given = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved << 30)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *each: given.append(each))
    device, train = torch.device("cuda:1"), SimpleNamespace(holding_memory=lambda size: nullcontext())
    with batch_size._loader_memory_held(SimpleNamespace(device=device, loaders=SimpleNamespace(train=train)), 8):
        assert given == [(pytest.approx(share), device)]
    assert given[1:] == [(1.0, device)]


@pytest.mark.slow
def test_a_run_with_auto_is_one_with_the_number_and_goes_on_with_it(shard_folder, tmp_path, capsys, monkeypatch):
    settings = {**RUN, "epochs": 1, "save_every": 2, "data": shard_folder}
    given = train(**{**settings, "batch_size": 8, "out": tmp_path / "given"})
    with killed_after(lambda state: state["step"] == 4):
        train(**{**settings, "batch_size": "auto", "out": tmp_path / "auto"})
    assert "batch size: 8 (more would leave fewer than 8 steps an epoch)" in " ".join(capsys.readouterr().out.split())
    (run,) = (tmp_path / "auto").iterdir()
    assert last_state(run)["config"]["batch_size"] == read_toml(run / "config.toml")["batch_size"] == 8
    monkeypatch.setattr(batch_size, "_STEPS_AN_EPOCH", 1)  # it would find another one now
    resumed = train(resume="auto", out=tmp_path / "auto", batch_size="auto")
    assert "batch_size: " not in capsys.readouterr().out
    ours, theirs = last_state(resumed.folder), last_state(given.folder)
    assert ours["config"]["batch_size"] == 8 and ours["step"] == theirs["step"] == 10
    assert all(torch.equal(ours["model"][name], each) for name, each in theirs["model"].items())


@pytest.mark.slow
def test_where_memory_runs_out_a_batch_is_offered_that_was_tried(shard_folder, tmp_path, monkeypatch):
    small_memory(monkeypatch, limit=5, after=4)
    with pytest.raises(UserError) as caught:
        train(data=shard_folder, out=tmp_path, **{**RUN, "scheduler": "onecycle", "save_every": 2})
    (run,) = tmp_path.iterdir()
    said = str(caught.value)
    assert said.startswith("batch_size = 16 is too large for the memory of cpu: 4 fits; resume with: ")
    assert f"fasttrain train --resume {run} --batch-size 4" in said and "\n" not in said
    assert last_state(run)["step"] == 4, "the trials are in no checkpoint"
    monkeypatch.undo()
    assert train(resume=str(run), batch_size=4, epochs=1).history


def test_auto_is_a_setting_like_the_others():
    assert resolve({"batch_size": "auto"}).batch_size == "auto" and resolve({"batch_size": "32"}).batch_size == 32
    for value, said in (
        ("atuo", "write a number, or auto"),
        ("0", "nearest valid value is 1"),
        (1.5, "batch_size = 1.5"),
    ):
        with pytest.raises(UserError) as caught:
            resolve({"batch_size": value}, origin="food.toml")
        assert str(caught.value).startswith("food.toml: batch_size = ") and said in str(caught.value)


def test_free_memory_is_the_least_of_all_limits(tmp_path, monkeypatch):
    inner = tmp_path / "memory" / "job"
    inner.mkdir(parents=True)
    for folder, limit, used, cached in ((inner.parent, 10**10, 10**9, 0), (inner, 5 * 10**6, 4 * 10**6, 10**6)):
        (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"cache 1\ntotal_inactive_file {cached}\n")
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path)
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/job\n1:cpu:/\n0::/\n")
    real = cgroups.Path
    monkeypatch.setattr(cgroups, "Path", lambda path: own if path == "/proc/self/cgroup" else real(path))
    assert memory.free_memory() == 2 * 10**6
    (inner / "memory.limit_in_bytes").write_text("max\n")
    assert memory.free_memory() > 10**7
