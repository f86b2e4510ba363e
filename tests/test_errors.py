"""The message of an internal error: its kind, and where its traceback is."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasttrain import train
from fasttrain.errors import InternalError, internal


def test_without_a_log_it_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTTRAIN_DEBUG", raising=False)
    assert internal(ValueError("a\nb")) == "internal error: ValueError: a b; --debug shows the traceback"
    assert internal(KeyError()) == "internal error: KeyError; --debug shows the traceback"
    assert internal(InternalError("a")) == "internal error: a; --debug shows the traceback"
    monkeypatch.setenv("FASTTRAIN_DEBUG", "1")
    assert internal(ValueError("a")) == "internal error: ValueError: a; the traceback is above"


def test_of_a_run_it_names_the_log(shard_folder: Path, tmp_path: Path) -> None:
    small = {"model": "test_convnext", "pretrained": False, "image_size": 32, "batch_size": 8, "limit_batches": 1}
    with pytest.raises(ZeroDivisionError) as error:
        train(data=shard_folder, **small, workers=0, device="cpu", epochs=1, track=False, out=tmp_path,
              after_epoch=lambda record: 1 / 0)  # fmt: skip
    (log,) = tmp_path.glob("*/train.log")
    assert internal(error.value) == f"internal error: ZeroDivisionError: division by zero; the traceback is in {log}"
    assert "ZeroDivisionError" in log.read_text() and "Traceback" in log.read_text()
