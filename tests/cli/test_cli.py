"""The command line: help at once, errors in one line, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from fasttrain.config.schema import TrainConfig


def fasttrain(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "fasttrain", *map(str, arguments)],
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_help_lists_the_commands_without_heavy_imports():
    code = (
        "import sys; sys.argv = ['fasttrain', 'train', '--help']\n"
        "import atexit; atexit.register(lambda: print('HEAVY', [name for name in "
        "('torch', 'mlflow', 'timm', 'torchvision', 'matplotlib', 'nvidia.dali', 'ffcv', 'sklearn', 'numpy') "
        "if name in sys.modules]))\n"
        "from fasttrain.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "HEAVY []" in done.stdout, done.stdout[-300:] + done.stderr[-300:]
    listed = fasttrain("--help").stdout
    for command in ("convert", "train", "evaluate", "predict", "doctor"):
        assert command in listed


def test_every_setting_is_an_option_with_its_help():
    shown = " ".join(fasttrain("train", "--help").stdout.split())
    for name in TrainConfig.model_fields:
        assert "--" + name.replace("_", "-") in shown, name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--data", "/nowhere"], "/nowhere"),
        (["train", "--epochs", "0"], "nearest valid value is 1"),
        (["train", "--scheduler", "cosin"], "did you mean 'cosine'"),
        (["train", "--learning-rat", "1"], "--learning-rate"),
        (["train", "--config", "/none.toml"], "/none.toml"),
        (["train", "--resume", "/none"], "/none"),
        (["evaluate", "--checkpoint", "/none"], "/none"),
        (["predict", "--checkpoint", "/none", "x.jpg"], "/none"),
        (["convert", "--source", "/nowhere"], "/nowhere"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(arguments, words, tmp_path):
    done = fasttrain(*arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    if done.stderr.startswith("fasttrain: "):
        assert done.stderr.count("\n") == 1


def test_debug_shows_the_stack_trace_wherever_it_stands():
    for line in (["--debug", "train", "--epochs", "0"], ["train", "--epochs", "0", "--debug"]):
        done = fasttrain(*line)
        assert done.returncode == 2 and "Traceback" in done.stderr


def test_a_fault_of_ours_is_exit_code_1():
    code = (
        "import sys, fasttrain.cli as cli\n"
        "sys.argv = ['fasttrain', 'broken']\n"
        "@cli.app.command()\n"
        "def broken(): raise ZeroDivisionError('x')\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "fasttrain: a fault of ours: ZeroDivisionError: x; --debug shows where\n"


def test_doctor_looks_at_this_machine():
    done = fasttrain("doctor", "--json")
    findings = {each["part"]: each for each in json.loads(done.stdout)}
    assert findings["torch"]["present"] and findings["torchvision"]["present"]
    for finding in findings.values():
        assert finding["present"] or finding["mend"], finding
    table = fasttrain("doctor").stdout
    assert "torchvision" in table and "DALI" in table
