"""DALI that can't start: `auto` goes on without it and says why, `--loader dali` is an error of one line."""

from __future__ import annotations

import pytest
import torch

from fasttrain.errors import UserError
from fasttrain.loaders import dali_graph
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.dali import DaliLoader
from fasttrain.loaders.dali_graph import reason_of, start_problem
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.registry import choose_loader, loader_class
from fasttrain.shards.reader import ShardSet

pytest.importorskip("nvidia.dali")

no_driver = pytest.mark.skipif(torch.cuda.is_available(), reason="here DALI can start")


@pytest.fixture(scope="module")
def shards(shard_folder):
    return ShardSet.open(shard_folder)


@no_driver
@pytest.mark.parametrize("device", ["cuda:0", "cuda"])
def test_asked_for_by_name_it_is_an_error_of_one_line(shards, device):
    with pytest.raises(UserError, match=rf"^loader = 'dali': DALI can't start on {device} \(.+\)$"):
        choose_loader("dali", shards, device)


@no_driver
def test_auto_goes_on_without_it_and_says_so(shards, monkeypatch):
    for name in ("native", "ffcv"):
        monkeypatch.setattr(loader_class(name), "unavailable", lambda shards, device: "not here")
    chosen, why = choose_loader("auto", shards, "cuda:0")
    assert chosen.name == "torchvision" and "; not dali: DALI can't start on cuda:0 (" in why and "\n" not in why


@no_driver
def test_a_pipeline_that_fails_later_is_an_error_of_one_line_too(shards, monkeypatch):
    loader = DaliLoader(shards, shards.ids("train"), LoaderSettings(16, 48, Crop(), workers=1, device="cuda:0"))
    monkeypatch.setattr(loader, "_stream", lambda: None)
    with pytest.raises(UserError, match=r"^loader = 'dali': DALI can't start on cuda:0 \(.+\); use another --loader$"):
        list(loader._load([loader.plan().batch(0, 16)]))
    loader.close()


def test_what_is_broken_on_import_is_told(monkeypatch):
    def broken(**options):
        raise OSError("libnvjpeg.so.12: cannot open shared object file")

    monkeypatch.setattr(dali_graph, "make_pipeline", broken)
    monkeypatch.setattr(dali_graph, "_works", set())
    assert start_problem("cpu") == "DALI can't start on cpu (libnvjpeg.so.12: cannot open shared object file)"


def test_what_works_is_tried_once(monkeypatch):
    monkeypatch.setattr(dali_graph, "_works", set())
    assert start_problem("cpu") is None
    monkeypatch.setattr(dali_graph, "make_pipeline", None)
    assert start_problem("cpu") is None


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "Critical error in pipeline:\nError in mixed operator\nencountered:\n\nNo room. At all.\nnot valid.",
            "No room",
        ),
        ('Assert on "initialized()" failed: There is no driver. Please install one.\n[frame 1]', "There is no driver"),
        ("", "RuntimeError"),
    ],
)
def test_the_sentence_that_matters_is_found(said, reason):
    assert reason_of(RuntimeError(said)) == reason
