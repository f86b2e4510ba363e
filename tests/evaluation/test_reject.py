""" "unknown" below a reject threshold, which a target precision chooses on the validation split."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from fasttrain.errors import UserError
from fasttrain.evaluation.predict import Prediction, Predictor
from fasttrain.evaluation.printed import print_predictions
from fasttrain.evaluation.reject import Rejection, best_rejection

SURE = Prediction(Path("a.jpg"), ("pizza", "soup"), (0.9, 0.1), unknown=False)
UNSURE = Prediction(Path("b.jpg"), ("soup", "pizza"), (0.6, 0.4), unknown=True)


def test_the_threshold_answers_as_many_photographs_as_the_precision_allows():
    confidence = np.array([0.5, 0.9, 0.7, 0.8, 0.7, 0.6])
    right = np.array([True, True, False, True, True, True])
    assert best_rejection(confidence, right, 0.75) == Rejection(0.25, 6, 6, 5)
    assert best_rejection(confidence, right, 0.9) == Rejection(pytest.approx(0.75), 6, 2, 2)
    assert best_rejection(confidence, ~right, 0.5) is None
    alike = best_rejection(np.array([0.9, 0.7, 0.7, 0.1]), np.array([True, True, False, False]), 1.0)
    assert alike == Rejection(pytest.approx(0.8), 4, 1, 1), "the two of 0.7 are both answered or neither"
    said = str(best_rejection(confidence, right, 0.9))
    assert said.startswith("reject threshold 0.7500: of 6 validation photographs it answers 2 (33.3%), 100.0% of them")


@pytest.mark.slow
def test_a_target_precision_is_stored_and_used(model_folder, shard_folder, photographs, tmp_path, monkeypatch, capsys):
    from fasttrain.cli import main

    run = shutil.copytree(model_folder, tmp_path / "run")
    (run / "config.toml").write_text(f'data = "{shard_folder}"\n')
    before = json.loads((run / "model.json").read_text())
    line = ["predict", "--checkpoint", str(run), "--format", "jsonl", "--device", "cpu", str(photographs)]
    monkeypatch.setattr(sys, "argv", ["fasttrain", *line, "--precision", "0.999"])
    with pytest.raises(SystemExit):
        main()
    most = float(capsys.readouterr().err.split("highest possible precision is ")[1].split("%")[0]) / 100
    monkeypatch.setattr(sys, "argv", ["fasttrain", *line, "--precision", str(most - 0.01)])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr()
    stored = json.loads((run / "model.json").read_text())
    threshold = stored.pop("reject_threshold")
    assert stored == before and f"reject threshold {threshold:.4f}: of" in shown.err
    answers = [json.loads(each) for each in shown.out.splitlines()]
    for each in answers:
        likeliest = each["top"][0]
        assert each["answer"] == ("unknown" if likeliest["probability"] < threshold else likeliest["class"])
    assert {each["answer"] == "unknown" for each in answers} == {True, False}
    a_photograph = next(photographs.rglob("*.jpg"))
    assert next(Predictor(run, device="cpu").stream([a_photograph])).unknown is not None
    assert next(Predictor(run, device="cpu", reject=0).stream([a_photograph])).unknown is None
    with pytest.raises(UserError, match=r"reject = 1\.5"):
        Predictor("nowhere", reject=1.5)  # before the model is looked for


def written(format: str) -> str:
    out = io.StringIO()
    print_predictions([UNSURE, SURE], format, out, width=None)
    return out.getvalue()


def test_every_format_says_unknown_and_what_it_would_have_been():
    assert [each["answer"] for each in json.loads(written("json"))] == ["unknown", "pizza"]
    assert [each["top"][0]["class"] for each in json.loads(written("json"))] == ["soup", "pizza"]
    rows = list(csv.DictReader(io.StringIO(written("csv"))))
    assert [(row["answer"], row["class_1"]) for row in rows] == [("unknown", "soup"), ("pizza", "pizza")]
    _, unsure, sure = written("table").splitlines()
    assert unsure.split() == ["b.jpg", "unknown", "soup", "60.0%,", "pizza", "40.0%"]
    assert sure.split() == ["a.jpg", "pizza", "90.0%", "soup", "10.0%"]
