"""What `export` prints: it fits into 80 columns, and says what a difference means and what to do next."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fasttrain.export.accuracy import Accuracy
from fasttrain.export.export import ExportResult
from fasttrain.export.printed import facts, figures, next_steps
from fasttrain.export.speed import Speed


@pytest.fixture
def result() -> ExportResult:
    metadata = {"input": "uint8 [n, 224, 224, 3]", "output": "logits, float32 [n, 101]"}
    accuracy = Accuracy("top1", 340, 0.856, (0.818, 0.894), 0.853, (0.815, 0.891), -0.003, (-0.012, 0.006))
    speeds = [Speed(1, 104.0, 51.0), Speed(32, 1234.0, 987.0)]
    return ExportResult(
        path=Path("runs/a b/model.int8.onnx"),
        bytes=26_400_000,
        model_bytes=105_300_000,
        metadata=metadata,
        photographs=64,
        source="of the 1,200 in shards/sample",
        max_difference=1.62,
        max_logit=9.6,
        tolerance=None,
        same_top1=63,
        accuracy=accuracy,
        unchecked=None,
        runtime="ONNX Runtime",
        threads=16,
        speeds=speeds,
    )


def shown(table: object) -> str:
    printed = io.StringIO()
    Console(file=printed, width=80).print(table)
    return printed.getvalue()


def test_each_row_of_the_table_is_one_line(result: ExportResult) -> None:
    head, torch, file = shown(figures(result)).splitlines()
    assert "85.6 (81.8–89.4)" in torch and "85.3 (81.5–89.1)" in file
    assert head.split()[-1] == "img/s" and max(map(len, (head, torch, file))) <= 80


def test_a_difference_is_told_with_what_is_allowed(result: ExportResult) -> None:
    said = " ".join(shown(facts(result)).split())
    assert "largest logit difference 1.6, 17 % of the greatest logit; allowed: any, as the accuracy counts" in said
    exact = " ".join(shown(facts(replace(result, max_difference=1.1e-5, tolerance=1e-3))).split())
    assert "difference 1.1e-05, under 0.01 % of the greatest logit; allowed: 0.1 %" in exact


def test_the_next_steps_are_those_that_can_run_the_file(result: ExportResult) -> None:
    steps = next_steps(result)
    assert steps is not None
    said = " ".join(shown(steps).split())
    file = "'runs/a b/model.int8.onnx'"
    assert said == f"next fasttrain predict --checkpoint {file} PHOTOGRAPH fasttrain serve {file}"
    assert next_steps(replace(result, path=Path("model.tflite"))) is None
