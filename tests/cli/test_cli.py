"""The command line: help at once, errors in one line, exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from fasttrain.config.schema import TrainConfig
from tests.support import warm
from tests.support.patience import PATIENCE


def fasttrain(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "fasttrain", *map(str, arguments)],
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.slow
def test_help_lists_the_commands_without_heavy_imports():
    code = (
        "import sys\n"
        "import atexit; atexit.register(lambda: print('HEAVY', [name for name in "
        "('torch', 'mlflow', 'timm', 'torchvision', 'matplotlib', 'nvidia.dali', 'ffcv', 'sklearn', 'numpy', "
        "'pydantic') if name in sys.modules]))\n"
        "from fasttrain.cli import main; main()"
    )
    for line, heavy in (["--help"], "[]"), (["train", "--help"], "['pydantic']"):
        done = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True, timeout=PATIENCE)
        assert f"HEAVY {heavy}" in done.stdout, done.stdout[-300:] + done.stderr[-300:]
    listed = fasttrain("--help").stdout
    for command in ("convert", "train", "evaluate", "predict", "doctor"):
        assert command in listed


@pytest.mark.slow
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
        (["inspect", "/nowhere"], "/nowhere"),
        (["preview", "--data", "/nowhere"], "/nowhere"),
        (["preview", "--scheduler", "cosine"], "--scheduler"),
        (["compare", "/nowhere"], "'/nowhere' is no"),
    ],
)
def test_what_the_user_can_fix_is_one_line_and_exit_code_2(arguments, words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)  # else the quickstart's mlflow.db is the store that `compare` looks into
    code, error = run_here(monkeypatch, capsys, *arguments)
    assert code == 2, error
    assert words in error and "Traceback" not in error
    if error.startswith("fasttrain: "):
        assert error.count("\n") == 1


def run_here(monkeypatch, capsys, *arguments):
    """`main()` in this process, which has paid for its imports already: exit code and standard error."""
    from fasttrain.cli import main

    monkeypatch.setattr(sys, "argv", ["fasttrain", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FASTTRAIN_DEBUG", "")
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize("line", [["--debug", "train", "--epochs", "0"], ["train", "--epochs", "0", "--debug"]])
def test_debug_shows_the_stack_trace_wherever_it_stands(line, monkeypatch, capsys):
    code, error = run_here(monkeypatch, capsys, *line)
    assert code == 2 and "Traceback" in error


def test_a_real_process_ends_with_the_code():
    done = fasttrain("train", "--epochs", "0")
    assert done.returncode == 2
    assert done.stderr == "fasttrain: settings: epochs = 0 is out of range: the nearest valid value is 1, the minimum\n"


def test_an_internal_error_is_exit_code_1():
    code = (
        "import sys, fasttrain.cli as cli\n"
        "sys.argv = ['fasttrain', 'broken']\n"
        "@cli.app.command()\n"
        "def broken(): raise ZeroDivisionError('x')\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stderr == "fasttrain: internal error: ZeroDivisionError: x; --debug shows the traceback\n"


@pytest.fixture(scope="module")
def doctors():
    """Return the findings of `doctor`, run only once because it imports everything."""
    return json.loads(fasttrain("doctor", "--json").stdout)


@pytest.mark.slow
def test_doctor_looks_at_this_machine(doctors):
    findings = {each["part"]: each for each in doctors}
    assert findings["torch"]["present"] and findings["torchvision"]["present"]
    for finding in findings.values():
        assert finding["present"] or finding["fix"], finding
    assert {"DALI", "FFCV", "native (the cut)", "tune", "export", "s3://"} <= findings.keys()
    assert findings["export"]["found"].startswith("onnx ") and "onnxruntime " in findings["export"]["found"]


def test_doctor_tells_what_is_absent_broken_or_not_named_as_it_is_installed(tmp_path, monkeypatch):
    from fasttrain.commands.doctor import Finding, _package

    (tmp_path / "broken_one.py").write_text("import ctypes\nctypes.CDLL('libnone.so')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert _package("x", "broken_one", "fix", thorough=False) == Finding("x", True, "present", "")
    assert _package("x", "broken_one", "fix", thorough=True).found.startswith("does not import: OSError: libnone.so")
    assert _package("x", "no_such.module", "fix", thorough=False) == Finding("x", False, "not installed", "fix")
    several = _package("x", "rich", "fix", "no_such", thorough=False)
    assert several == Finding("x", False, "not installed: no_such", "fix")


@pytest.mark.slow
def test_doctor_imports_torch_at_most():
    from fasttrain.commands.doctor import _has_fast_bf16, _has_nvidia_driver

    code = (
        "import sys; sys.argv = ['fasttrain', 'doctor']\n"
        "import atexit; atexit.register(lambda: print({'torch', 'mlflow', 'timm', 'torchvision', 'ffcv', "
        "'nvidia.dali', 'onnx', 'optuna', 'scipy', 'pandas'} & set(sys.modules)))\n"
        "from fasttrain.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    without = sys.platform == "linux" and not _has_nvidia_driver() and _has_fast_bf16() is not None
    assert done.stdout.endswith("\nset()\n" if without else "\n{'torch'}\n"), done.stdout + done.stderr


@pytest.mark.slow
def test_doctor_finds_the_same_with_torch_and_without():
    code = "import json, sys\nfrom fasttrain.commands.doctor import examine\n"
    code += "print(json.dumps([found.to_dict() for found in examine() if found.part != 'cores']))"
    one, other = (
        json.loads(subprocess.run([sys.executable, "-c", each], capture_output=True, timeout=PATIENCE).stdout)
        for each in (code, f"import torch\n{code}")
    )
    known = next(each for each in one if each["part"] == "torch")
    tried = next(each for each in other if each["part"] == "torch")
    assert tried["found"].startswith(known["found"])
    if fast := next(each for each in other if each["part"] == "CPU abilities")["fix"]:
        assert "no fast bf16" in fast
    assert [each["part"] for each in one] == [each["part"] for each in other]
    assert [each["present"] for each in one] == [each["present"] for each in other]


@pytest.mark.full
@pytest.mark.slow
def test_square_brackets_are_the_users(doctors, photographs, tmp_path):
    shown = warm.run(["-m", "fasttrain", "doctor"], env={**os.environ, "COLUMNS": "400"}, text=True).stdout
    assert any(re.search(r" install .*\[\w+\]'", each["fix"]) for each in doctors), (
        "no extra is missing here: nothing was tested"
    )
    assert all(each["fix"] in shown for each in doctors)
    out = tmp_path / "shards [red]"
    assert f"fasttrain train {out}\n" in fasttrain("convert", "--source", photographs, "--out", out).stdout


@pytest.mark.slow
def test_a_mistyped_checkpoint_is_told_before_torch_is_imported(model_folder, tmp_path):
    for command in (["evaluate"], ["predict", "x.jpg"], ["export"]):
        code = "import sys; from fasttrain.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
        words = [command[0], "--checkpoint", str(model_folder.parent), *command[1:]]
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 2 and done.stdout == "False\n", done.stderr
        assert f"a folder of runs; give one of these, such as {model_folder}" in done.stderr
    done = fasttrain("evaluate", "--checkpoint", tmp_path)
    assert done.stderr.startswith(f"fasttrain: {tmp_path}: no model.safetensors in it; give a run folder")
