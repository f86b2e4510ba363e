"""Ranks that one process starts: what they get, how they end, and that none is left. See also training/test_gpus.py."""

from __future__ import annotations

import functools
import io
import signal
import threading
import time
import traceback

import pytest
import torch
from rich.console import Console

from fasttrain import launch
from fasttrain.cores import usable_cores
from fasttrain.errors import InternalError, Stopped, UserError
from fasttrain.launch import require_devices, run_in_ranks
from fasttrain.machine import is_running
from fasttrain.ranks import PeerLost
from fasttrain.stop import StopRequest
from tests.support import rank_work
from tests.support.patience import wait_until


def test_each_rank_knows_its_place_and_prints_where_this_process_does(capsys, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    said = io.StringIO()
    found = run_in_ranks(rank_work.place, 2, StopRequest(), Console(file=said, width=77))
    assert found == {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": str(max(usable_cores() // 2, 1)),
        "COLUMNS": "77",
    }
    assert sorted(said.getvalue().splitlines()) == ["rank 0 prints", "rank 1 prints"]
    assert capsys.readouterr().err == "and warns\n" * 2
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert run_in_ranks(rank_work.place, 1, StopRequest())["OMP_NUM_THREADS"] == "7", "what the user has set"
    assert capsys.readouterr().out == "rank 0 prints\n"


def test_questions_are_answered_in_this_process():
    asked = []

    def answer(number: int) -> int:
        asked.append(number)
        if number == 2:
            raise KeyError("of the caller's own")
        return number * 10

    with pytest.raises(KeyError, match="own"):
        run_in_ranks(rank_work.questions, 2, StopRequest(), answer=answer)
    assert asked == [0, 1, 2]


def test_an_error_is_raised_once_with_its_traceback_on_the_rank():
    with pytest.raises(UserError, match="give --data") as caught:
        run_in_ranks(rank_work.refuse, 2, StopRequest())
    assert "in refuse" in "".join(traceback.format_exception(caught.value))
    with pytest.raises(InternalError, match="Peculiar: 1 and 2"):
        run_in_ranks(rank_work.fail, 2, StopRequest())


@pytest.mark.parametrize(
    ("code", "rank", "said"),
    [
        (
            -signal.SIGKILL,
            0,
            "rank 0 was ended by SIGKILL, perhaps by the kernel because memory ran out; --resume auto",
        ),
        (-signal.SIGSEGV, 1, "rank 1 was ended by SIGSEGV; --resume auto"),
        (3, 1, "rank 1 ended with exit code 3 and no error message; --resume auto"),
    ],
)
def test_a_rank_that_ends_takes_along_the_others(monkeypatch, code, rank, said):
    monkeypatch.setattr(launch, "_AFTER_A_KILL_S", 0.2)
    monkeypatch.setattr(launch, "_AFTER_AN_END_S", 0.2)
    with pytest.raises(PeerLost, match=said):
        run_in_ranks(functools.partial(rank_work.end, code=code, number=rank), 2, StopRequest())


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Stopped)])
def test_a_stop_before_the_ranks_listen_for_it_ends_them(tmp_path, number, kind):
    stop = StopRequest()

    def ask() -> None:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        stop.requested = number

    threading.Thread(target=ask).start()
    with pytest.raises(kind):
        run_in_ranks(functools.partial(rank_work.hang, folder=tmp_path, hears=True), 2, stop)
    assert not any(is_running(int(each.name)) for each in tmp_path.iterdir())


def test_a_second_ctrl_c_ends_ranks_that_do_not_hear(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "_INTERRUPTED_S", 0.2)

    def press() -> None:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.3)

    with StopRequest() as stop, pytest.raises(KeyboardInterrupt):
        threading.Thread(target=press).start()
        run_in_ranks(functools.partial(rank_work.hang, folder=tmp_path, hears=False), 2, stop)
    assert not any(is_running(int(each.name)) for each in tmp_path.iterdir())


def test_what_can_not_be_sent_is_refused_by_name():
    with pytest.raises(UserError, match="gpus = 2: the model or a callback can't be pickled for another process"):
        run_in_ranks(functools.partial(rank_work.place, threading.Lock()), 2, StopRequest())


def test_more_gpus_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    require_devices("auto", 4)
    with pytest.raises(UserError, match="gpus = 5: this machine has 4 CUDA devices; use --gpus 4"):
        require_devices("auto", 5)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    require_devices("cpu", 5)
    with pytest.raises(UserError, match="gpus = 1: this machine has 0 CUDA devices; use --device cpu"):
        require_devices("cuda", 1)
