"""The runners of the contest and the ablation: records that survive a kill, tables, and a contender's whole way."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import ablation
import accuracy
import from_scratch
import numpy as np
import pytest
import records
from contest import CONTENDERS, Contender
from PIL import Image

from fasttrain.config.load import resolve

CLASSES = ("hat", "shoes")
ALWAYS_A_HAT = """
from job import report

def train(job):
    sum(range(20_000_000))  # takes time that can be measured
    assert job.epochs == 3 and job.seed in (2, 3) and job.options == {"rate": 1}
    return lambda: {path.stem: "hat" for path in job.evaluated()}

report(train)
"""


def run_of(contender: str, seed: int, right: str, minutes: float = 2.0, seconds: float = 100.0) -> records.Record:
    key = {"contender": contender, "minutes": minutes, "seed": seed}
    return {**key, "epochs": 3, "seconds": seconds, "cpu_seconds": 200.0, "right": right}


@pytest.fixture
def contest(tmp_path: Path) -> accuracy.Contest:
    """A contest on two classes, with 2 hats and 1 shoe each to validate and to test on."""
    for split in ("train", "validation", "test"):
        for name, count in zip(CLASSES, (2, 1), strict=True):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8)).save(tmp_path / "set" / split / name / f"{split}-{name}-{number}.jpg")
    (tmp_path / "weights").touch()
    parser = argparse.ArgumentParser()
    accuracy.add_options(parser, tmp_path / "results.jsonl")
    given = ["--photographs", str(tmp_path / "set"), "--weights", str(tmp_path / "weights")]
    return accuracy.Contest(parser.parse_args([*given, "--scratch", str(tmp_path / "scratch")]))


def test_a_contender_runs_as_a_process_and_is_recorded_once(contest, tmp_path, monkeypatch):
    script = tmp_path / "always_a_hat.py"
    contenders = Path(accuracy.__file__).parent / "contenders"
    script.write_text(f"import sys\nsys.path.insert(0, {str(contenders)!r})\n{ALWAYS_A_HAT}")
    monkeypatch.setitem(CONTENDERS, "hats", Contender(str(script), "json", {"rate": 1}))
    records.append(contest.rates, {"contender": "hats", "side": 160, "start": 10.0, "epoch": 30.0})
    for _ in range(2):
        contest.run("hats", 2.0, 2)
    found = records.read(contest.results)
    assert len(found) == 1 and found[0]["right"] == "110110", "validation first, each split in order of its paths"
    assert found[0]["epochs"] == 3, "as many as fit into 120 s"
    assert 0 < found[0]["seconds"] < 90 and found[0]["cpu_seconds"] > 0
    assert accuracy.next_run(found) != ("hats", 2.0, 2)
    contest.run("hats", 1.9, 2)
    same = records.read(contest.results)[1]
    assert same == {**found[0], "minutes": 1.9}, "three epochs fit into both budgets: it isn't run again"
    contest.shared = True
    contest.run("hats", 1.9, 3)
    shared = records.read(contest.results)[2]
    assert shared["seconds"] == 100 and 0 < shared["shared_seconds"] < 90


def test_a_line_that_a_kill_tore_is_no_record_and_spoils_no_other(tmp_path):
    path = tmp_path / "runs.jsonl"
    records.append(path, {"seed": 1})
    with path.open("a") as file:
        file.write('{"seed": 2, "rig')
    records.append(path, {"seed": 3})
    assert records.read(path) == [{"seed": 1}, {"seed": 3}]


def test_the_interval_is_paired():
    ours, theirs = np.array([True] * 90 + [False] * 10), np.array([True] * 80 + [False] * 20)
    mean, low, high = records.interval([ours], [theirs])
    assert mean == pytest.approx(0.1) and 0 < low < mean < high
    alone = records.interval([ours])
    assert high - low < 2 * (alone[2] - alone[1]), "the same photographs are hard for both"
    assert records.interval([ours], [ours]) == (0, 0, 0)


def test_the_table_compares_ours_with_the_best_peer_and_names_who_is_missing():
    runs = [
        run_of("fasttrain --recipe fast", 1, "1111"),
        run_of("PyTorch loop", 1, "1100"),
        run_of("LogisticRegression", 1, "1000", seconds=140.0),
    ]
    text = accuracy.table(runs)
    ours = next(line for line in text.splitlines() if "**fasttrain --recipe fast**" in line)
    assert "+50.0 (+0.0 to +100.0)" in ours and "minus PyTorch loop" in text
    assert "140*" in text, "over its budget"
    assert "- AutoGluon: could take" in text and "Not run yet: fasttrain --minutes; " in text


def test_calibration_errors_are_listed_where_a_run_recorded_them():
    measured = run_of("fasttrain --minutes", 1, "1111") | {"ece": 0.02, "uncalibrated_ece": 0.134}
    assert accuracy.calibration([run_of("PyTorch loop", 1, "1100")]) == ""
    *_, row = accuracy.calibration([run_of("PyTorch loop", 1, "1100"), measured]).splitlines()
    assert row == "| fasttrain --minutes | 2 | 1 | 13.4 | 2.0 |"


def test_a_contender_below_the_chart_is_named_at_its_foot(tmp_path):
    accuracy.chart([run_of("PyTorch loop", 1, "1110"), run_of("fastai fine_tune", 1, "1000")], tmp_path / "chart.svg")
    drawn = (tmp_path / "chart.svg").read_text()
    assert "<!-- fastai fine_tune: 25.0 %, below -->" in drawn and "<!-- PyTorch loop -->" in drawn


def test_the_chart_has_a_line_for_each_contender(tmp_path):
    names = ("PyTorch loop", "fastai fine_tune")
    runs = [run_of(name, 1, "1110", minutes, 55 * minutes) for name in names for minutes in (2.0, 5.0)]
    accuracy.chart(runs, tmp_path / "chart.svg")
    drawn = (tmp_path / "chart.svg").read_text()
    assert all(f"<!-- {name} -->" in drawn for name in names) and "<!-- AutoGluon -->" not in drawn


def test_next_takes_all_contenders_of_a_seed_and_budget_first(monkeypatch):
    monkeypatch.setattr(accuracy, "left_out", lambda contender: "" if contender.ours else "not here")
    first, second, *_ = (name for name, each in CONTENDERS.items() if each.ours)
    assert accuracy.next_run([]) == (first, 2.0, 1)
    assert accuracy.next_run([run_of(first, 1, "1")]) == accuracy.next_run([], skip=[first]) == (second, 2.0, 1)
    by_the_clock = [name for name, each in CONTENDERS.items() if each.ours and not each.epochs]
    assert accuracy.next_run([], shared=True)[0] not in by_the_clock


def test_settings_that_this_fasttrain_lacks_are_a_reason():
    assert accuracy.left_out(Contender("ours.py", "fasttrain", {"no_such": 1})) == "this fasttrain has no --no-such"
    assert accuracy.left_out(Contender("ours.py", "fasttrain", {"recipe": "fast"})) == ""


@pytest.mark.parametrize("recipe", ablation.RECIPES)
def test_an_ingredient_left_out_has_its_default(recipe):
    full = resolve({"recipe": recipe})
    for name in ablation.ingredients(recipe):
        left = resolve(ablation.without(recipe, name, None).options)
        assert left.changed([name]) == [], name
        others = [each for each in ablation.ingredients(recipe) if each != name]
        assert all(getattr(left, each) == getattr(full, each) for each in others)


def test_sets_are_split_alike_each_time_and_groups_stay_together():
    groups = np.repeat(np.arange(50), 4)
    rows = from_scratch.split(groups)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(200))
    assert [len(each) for each in rows.values()] == [120, 40, 40]
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not set(groups[rows[one]]) & set(groups[rows[other]])


def test_records_are_json_lines(tmp_path):
    records.append(tmp_path / "new" / "runs.jsonl", {"seed": 1})
    assert json.loads((tmp_path / "new" / "runs.jsonl").read_text()) == {"seed": 1}
