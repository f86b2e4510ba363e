"""Connect the processes (ranks) that train one model together, so that they can exchange decisions, sums and errors."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from fasttrain.device import choose_device, choose_workers, make_current
from fasttrain.environment import place, rank_variables
from fasttrain.errors import Diverged, FasttrainError, InternalError, OutOfMemory, Stopped, UserError, one_line
from fasttrain.text import counted

T = TypeVar("T")

_JOINING = timedelta(minutes=10)
_PATIENCE = timedelta(days=7)  # rank 0 may be converting a data set; a dead rank is noticed by its closed socket
_FAREWELL = timedelta(seconds=15)  # less than the 30 s after which torchrun kills the other ranks
_SILENT_S = 20.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ERRORS: dict[str, type[FasttrainError]] = {kind.__name__: kind for kind in (Diverged, OutOfMemory, Stopped, UserError)}
_TRANSPORTS = ("gloo", "nccl")  # torch names one of them in its error if a peer's socket closes
_LOST = "another rank ended without an error message; see the output of torchrun, or what started the ranks"
_calls = itertools.count()


@dataclass(frozen=True)
class StepAgreement:
    """The result of `Ranks.agree` for one training step. It is the same on every rank.

    `samples`: number of photographs in the step, over all ranks. `weight`: the sum of the photographs' weights; a sum
    of losses divided by it is the mean loss. `stop`: the signal that asked a rank to stop, or None if no rank got one.
    `overdue`: whether at least one rank is due to write a checkpoint. `ended`: whether at least one rank ends the run
    early.
    """

    samples: int
    weight: float
    stop: signal.Signals | None
    overdue: bool = False
    ended: bool = False


@dataclass(frozen=True)
class _Failure:
    """An error on a rank, as plain data for the other ranks."""

    rank: int
    kind: str
    exit_code: int
    message: str
    trace: str

    @staticmethod
    def of(rank: int, error: Exception) -> _Failure:
        message = one_line(error)
        if not isinstance(error, FasttrainError):
            message = f"{type(error).__name__}: {message}"
        kind = next((name for name, each in _ERRORS.items() if isinstance(error, each)), "")
        trace = "".join(traceback.format_exception(error))
        return _Failure(rank, kind, getattr(error, "exit_code", 1), message, trace)


class PeerLost(InternalError):
    """Raised if another rank has ended without an error message."""


class Ranks:
    """The processes that train together, and the rank of this process. A `with` block keeps the ranks connected.

    An exception on one rank inside the block ends all ranks. Rank 0 raises the same error, and the others raise
    SystemExit with its exit code, so that the message is printed once.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        self._control: Any = None
        self._data: Any = None
        self._stopping = self._failure_known = False
        self._key = f"fasttrain/run/{next(_calls)}"

    @staticmethod
    def of_environment() -> Ranks:
        """Return the ranks that torchrun's environment variables describe, or a single rank if they are not set.

        Raises UserError if the variables are invalid.
        """
        return Ranks(*(place() or ()))

    @property
    def main(self) -> bool:
        """Return whether this is rank 0, the only one that prints and writes."""
        return self.rank == 0

    def __enter__(self) -> Ranks:
        if self.size > 1:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            waiting = threading.Timer(_SILENT_S, self._print_waiting, (where,))
            waiting.start()
            try:
                self._join()
                self._control = dist.new_group(backend="gloo", timeout=_PATIENCE)
            except (RuntimeError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"rank {self.rank} of {self.size} can't join the others at {where} ({reason}); check that rank 0 "
                    "runs at this address, and that no firewall blocks it"
                ) from error
            finally:
                waiting.cancel()
        return self

    def _print_waiting(self, where: str) -> None:
        line = (
            f"rank {self.rank} of {self.size} is waiting for the others at {where}; if you did not start them, unset "
        )
        print(f"fasttrain: {line}the variables of another tool: {rank_variables()}", file=sys.stderr, flush=True)

    def _join(self) -> None:
        if (store := _agents_store()) is None:
            dist.init_process_group("gloo", timeout=_JOINING)
            return
        # With "env://" restarted ranks may read the addresses of the ranks before them, and can't connect.
        attempt = f"fasttrain/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{self.size}"
        store = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.size, timeout=_JOINING)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size == 1:
            return
        if error is None:
            self.agree()  # rank 0 may fail while it writes the report
            dist.destroy_process_group()
        elif self._stopping and isinstance(error, (Stopped, KeyboardInterrupt)):
            dist.destroy_process_group()
            if isinstance(error, Stopped) and not self.main:
                raise SystemExit(error.exit_code)
        elif isinstance(error, Exception):
            self._end_with(error)

    def device(self, name: str) -> torch.device:
        """Return this rank's device, made torch's current one, and create the process group for its gradients.

        `name` is as in `choose_device`. Raises UserError if this machine lacks the device, or if there are several
        ranks and `name` is one numbered CUDA device or MPS.
        """
        chosen = choose_device(name)
        if self.size == 1:
            return make_current(chosen)
        if chosen.type == "cuda":
            if ":" in name:
                raise UserError(
                    f"device = '{name}': each of the {self.size} ranks needs a GPU of its own; use --device cuda"
                )
            if self.local_rank >= (have := torch.cuda.device_count()):
                raise UserError(
                    f"{self.local_size} ranks on a machine with {counted(have, 'CUDA device')}; give torchrun "
                    f"--nproc-per-node {have}"
                )
            chosen = make_current(torch.device("cuda", self.local_rank))
        elif chosen.type != "cpu":
            raise UserError(f"device = '{chosen}': {self.size} ranks can't train on it; use --device cpu")
        self._data = dist.new_group(backend=self.backend(chosen), timeout=_JOINING)
        return chosen

    @staticmethod
    def backend(device: torch.device) -> str:
        """Return torch's communication backend for gradients on `device`: nccl for CUDA, gloo for a CPU."""
        return "nccl" if device.type == "cuda" else "gloo"

    def workers(self, asked: int | None) -> int:
        """Return the number of loader workers: `asked`, or if it is None this rank's share of the machine's cores."""
        return choose_workers(asked) if asked is not None else max(choose_workers(None) // self.local_size, 1)

    def agree(
        self,
        stop: signal.Signals | None = None,
        samples: int = 0,
        weight: float = 0.0,
        overdue: bool = False,
        ended: bool = False,
    ) -> StepAgreement:
        """Combine the arguments of all ranks by one small all-reduce: add numbers, and join conditions by "or".

        Every rank must call this. All get the same result; see `StepAgreement` for its fields. If another rank has
        failed, raises that rank's error.
        """
        if self.size == 1:
            return StepAgreement(samples, weight, stop, overdue, ended)
        sums = self._reduce([*(float(stop == each) for each in _SIGNALS), 0.0, samples, weight, overdue, ended])
        if sums[2]:
            self._raise_failure(self._failures(None))
        stop = next((each for each, count in zip(_SIGNALS, sums[:2], strict=True) if count), None)
        self._stopping |= stop is not None
        return StepAgreement(int(sums[3]), sums[4], stop, bool(sums[5]), bool(sums[6]))

    def gather(self, value: T) -> list[T]:
        """Return the list of all ranks' values, by rank, on all ranks. Each `value` must be picklable."""
        if self.size == 1:
            return [value]
        self.agree()
        values: list[Any] = [None] * self.size
        self._exchange(lambda: dist.all_gather_object(values, value, group=self._control))
        return values

    def from_main(self, make: Callable[[], T]) -> T:
        """Call `make` on rank 0 only, and return its result, which must be picklable, on all ranks."""
        if self.size == 1:
            return make()
        value = [make() if self.main else None]
        self.agree()
        self._exchange(lambda: dist.broadcast_object_list(value, src=0, group=self._control))
        return value[0]  # type: ignore[return-value]

    def in_turn(self, make: Callable[[], T]) -> T:
        """Call `make` on rank 0, then on the first rank of each machine, then on all others. Return this rank's result.

        The later ranks find the files that `make` has written on the earlier ones, and needn't write them again.
        """
        turn = 0 if self.main else 1 if self.local_rank == 0 else 2
        for number in range(3):
            if number == turn:
                value = make()
            self.agree()
        return value

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite `tensors`, which are on this rank's device, with the values of rank 0."""
        if self.size == 1:
            return
        self.agree()
        with torch.no_grad():
            works: list[Any] = [dist.broadcast(each, src=0, group=self._data, async_op=True) for each in tensors]
        self._exchange(lambda: [work.wait() for work in works])

    def sync_batch_norm(self, model: torch.nn.Module) -> torch.nn.Module:
        """Return `model` with each BatchNorm layer computed over the samples of all ranks.

        It uses torch's SyncBatchNorm, or timm's for layers that include an activation.
        """
        from timm.layers import convert_sync_batchnorm

        converted: torch.nn.Module = convert_sync_batchnorm(model, process_group=self._data)
        return converted

    def parallel(self, model: torch.nn.Module) -> DistributedDataParallel | None:
        """Return `model` wrapped in DistributedDataParallel, or None if there is only one rank.

        Gradients are the mean over the ranks. An empty batch gives zero gradients and leaves BatchNorm's statistics
        unchanged. Each rank keeps BatchNorm statistics of its own until `share` is called. Other buffers are copied
        from rank 0 before each forward pass.
        """
        if self.size == 1:
            return None
        wrapped = _AcceptsEmptyBatch(model)
        made = DistributedDataParallel(wrapped, process_group=self._data, gradient_as_bucket_view=True)
        # The argument broadcast_buffers=False would skip the first copy as well.
        made.broadcast_buffers = _has_other_buffers(model)
        return made

    def restarted_run(self) -> Path | None:
        """Return the folder of the interrupted run, if torchrun has restarted these processes to continue it.

        Return None otherwise.
        """
        store = _agents_store() if self.main else None
        return Path(store.get(self._key).decode()) if store and store.check([self._key]) else None

    def remember_run(self, folder: Path) -> None:
        """Store the run's folder for `restarted_run`, in case torchrun restarts the ranks."""
        if self.main and (store := _agents_store()):
            store.set(self._key, str(folder.resolve()))

    def _reduce(self, values: list[float], timeout: timedelta = _PATIENCE) -> list[float]:
        sums = torch.tensor(values, dtype=torch.float64)
        self._exchange(lambda: dist.all_reduce(sums, group=self._control, async_op=True).wait(timeout))
        return sums.tolist()

    def _exchange(self, collective: Callable[[], Any]) -> None:
        """Call a collective operation. Raise PeerLost if it fails because another rank is gone."""
        try:
            collective()
        except RuntimeError as error:
            raise PeerLost(_LOST) from error

    def _failures(self, own: _Failure | None) -> list[_Failure]:
        """Return the failures of all ranks, given this rank's `own`, if it has failed."""
        failures: list[_Failure | None] = [None] * self.size
        self._exchange(lambda: dist.all_gather_object(failures, own, group=self._control))
        return [each for each in failures if each is not None]

    def _raise_failure(self, failures: list[_Failure]) -> None:
        first = failures[0]
        self._failure_known = True
        if not self.main:
            raise SystemExit(first.exit_code)
        kind = _ERRORS.get(first.kind, InternalError)
        raise kind(f"rank {first.rank}: {first.message}") from RuntimeError(first.trace)

    def _end_with(self, error: Exception) -> None:
        """Send `error` to the other ranks, unless one of them sent it first, or they have ended."""
        if self._failure_known:
            dist.destroy_process_group()
            return
        exit_code = PeerLost.exit_code
        if not isinstance(error, FasttrainError) and any(name in str(error).lower() for name in _TRANSPORTS):
            if self.main:
                raise PeerLost(_LOST) from error
        elif not isinstance(error, PeerLost):
            try:
                self._reduce([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0], _FAREWELL)
                exit_code = self._failures(_Failure.of(self.rank, error))[0].exit_code
            except PeerLost:
                return  # the others wait for this rank's gradients: they will see its socket close
            dist.destroy_process_group()
        if not self.main:
            raise SystemExit(exit_code) from error


def _has_other_buffers(model: torch.nn.Module) -> bool:
    """Return whether `model` has buffers that a training step may read: any except BatchNorm's running statistics."""
    norms = {id(each) for norm in model.modules() if isinstance(norm, _BatchNorm) for each in norm.buffers()}
    return any(id(each) not in norms for each in model.buffers())


class _AcceptsEmptyBatch(torch.nn.Module):
    """Wraps a model so that it accepts an empty batch: a rank may get no samples of the last batch."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.synced = any(isinstance(each, torch.nn.SyncBatchNorm) for each in model.modules())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) or self.synced:  # SyncBatchNorm accepts empty batches, and waits for all ranks
            return self.model(images)
        trained = (each for each in self.parameters() if each.requires_grad)
        return torch.stack([each.sum() for each in trained]).sum().reshape(1, 1)[:0]


def _agents_store() -> Any:
    """Return torchrun's key-value store, which survives a restart of the ranks; None without torchrun."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(host, port, is_master=False, timeout=_JOINING)  # type: ignore[attr-defined]
