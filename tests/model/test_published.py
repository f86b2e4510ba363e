"""`fasttrain models`: timm's published results, their completion, and speeds measured here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import timm

from fasttrain.errors import UserError
from fasttrain.model.published import complete_model, find_models, published_models, source
from tests.support.patience import PATIENCE


def listed(monkeypatch, capsys, *arguments):
    from fasttrain.cli import main

    monkeypatch.setattr(sys, "argv", ["fasttrain", "models", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main()
    out, error = capsys.readouterr()
    return ended.value.code or 0, out, error


def test_the_table_has_timms_models_and_figures():
    models = {each.name: each for each in published_models()}
    assert len(models) > 1000
    resnet = models["resnet50.a1_in1k"]
    assert (resnet.parameters, resnet.image_size, resnet.top1) == (25.56, 288, 81.24)
    known = set(timm.list_models(include_tags=True))
    assert len(known & models.keys()) > 0.9 * len(models)  # timm takes a few out now and then
    date, address = source()
    assert date == "2025-10-30" and address.endswith("results-imagenet.csv")


def test_patterns_and_the_most_parameters_choose_models():
    names = [each.name for each in find_models("mobilenetv2_1?0*")]
    assert {"mobilenetv2_100.ra_in1k", "mobilenetv2_140.ra_in1k"} <= set(names)
    assert {each.name.partition(".")[0] for each in find_models("resnet1?")} == {"resnet18"}
    assert all(each.parameters <= 2 for each in find_models(max_parameters=2))
    with pytest.raises(UserError, match="did you mean 'resnet50'"):
        find_models("resnett50")
    with pytest.raises(UserError, match="--max-parameters"):
        find_models("resnet50", max_parameters=0.01)


def test_completion_offers_architectures_first_and_then_weights():
    assert complete_model("mobilenetv2_14") == ["mobilenetv2_140"]
    assert complete_model("mobilenetv2_140.") == ["mobilenetv2_140.ra_in1k"]
    assert len(complete_model("")) == len(set(complete_model("")))


def test_the_list_is_sorted_and_cut(monkeypatch, capsys):
    code, out, _ = listed(monkeypatch, capsys, "mobilenetv3", "--limit", "2", "--json")
    best = json.loads(out)
    assert code == 0 and len(best) == 2 and best[0]["top1"] >= best[1]["top1"] > 75
    code, out, _ = listed(monkeypatch, capsys, "mobilenetv3", "--sort", "parameters", "--limit", "2")
    assert "mobilenetv3_small_050.lamb_in1k" in out and "more (increase --limit, now 2)" in out and "2025-10-30" in out
    code, _, error = listed(monkeypatch, capsys, "--sort", "top")
    assert code == 2 and "did you mean 'top1'" in error
    code, _, error = listed(monkeypatch, capsys, "--sort", "img/s")
    assert code == 2 and "only known with --measure" in error


@pytest.mark.slow
def test_speeds_are_measured_on_request(monkeypatch, capsys):
    arguments = ("test_resnet", "--measure", "--device", "cpu", "--batch-size", "2", "--sort", "img/s")
    monkeypatch.setattr("fasttrain.model.step_speed.SECONDS", 0.1)
    _, out, _ = listed(monkeypatch, capsys, *arguments, "--json")
    assert [each["name"] for each in json.loads(out)] == ["test_resnet.r160_in1k"]
    assert json.loads(out)[0]["img/s"] > 0


@pytest.mark.slow
def test_the_list_needs_no_torch():
    code = "import sys; from fasttrain.cli import main\ntry: main()\nfinally: print('HEAVY', 'torch' in sys.modules)"
    words = [sys.executable, "-c", code, "models", "resnet18"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert "resnet18.a1_in1k" in done.stdout and "HEAVY False" in done.stdout, done.stdout + done.stderr
