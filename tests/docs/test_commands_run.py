"""Run commands of the documentation unchanged: all of the tutorial, and others that need no training."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, SHELL, all_blocks, shell_lines, simple_commands
from tests.docs.conftest import RUN
from tests.support import warm
from tests.support.patience import PATIENCE
from tests.support.service import serving

sys.path.insert(0, str(ROOT / "docs" / "scripts"))

import record

# Commands that need only the files of the test folder: photographs, their shards, a run on them, and pictures.
_HERE = (
    r"(predict|similar) --checkpoint (\$run|latest)(/model\.onnx)? [^$]*",
    r"(inspect|preview)( --data)? shards .*|init photographs|doctor|models .*",
    r"convert (--source )?photographs( --out shards)?( --keep-duplicates-together)?",
    r"export --checkpoint \$run --data photographs .*",
    r"evaluate --checkpoint \S+ --data held-out",
)
_ELSEWHERE = r"--precision|--measure|inbox|--explain"  # tests/evaluation, tests/model


def _commands() -> list[list[str]]:
    found = []
    for block in all_blocks():
        for line in shell_lines(block) if block.language in SHELL and block.page != "docs/tutorial.md" else []:
            for program, *arguments in simple_commands(line):
                words = " ".join(arguments)
                here = any(re.fullmatch(each, f"{words} ") or re.fullmatch(each, words) for each in _HERE)
                if program == "fasttrain" and here and not re.search(_ELSEWHERE, words):
                    found.append(arguments)
    return [each for number, each in enumerate(found) if each not in found[:number]]


COMMANDS = _commands()


def test_there_are_commands_to_run() -> None:
    assert len(COMMANDS) > 15
    commands = ["convert", "doctor", "evaluate", "export", "init", "inspect", "models", "predict", "preview", "similar"]
    assert sorted({each[0] for each in COMMANDS}) == commands


@pytest.mark.full
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_ends_well(arguments: list[str], workplace: Path, request: pytest.FixtureRequest) -> None:
    Path("held-out").symlink_to("photographs")
    if arguments[0] == "convert":
        shutil.rmtree("shards")
    words = [each.replace("$run", f"runs/{RUN}") for each in arguments]
    if any("model.onnx" in each for each in words):
        onnx = request.getfixturevalue("onnx_file")
        words = [str(onnx) if each.endswith("model.onnx") else each for each in words]
    if arguments[0] == "export":
        words += ["--out", "model.onnx"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = warm.run(["-m", "fasttrain", *words], env=environment, cwd=workplace, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


@pytest.mark.full
def test_the_tutorial_says_what_its_commands_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    page = tmp_path / "tutorial.md"
    shutil.copy(ROOT / "docs" / "tutorial.md", page)
    record.record(page)
    recorded = page.read_text("utf-8")
    assert not re.search(r"^(fasttrain: (?!stopped by SIGTERM)|Error|Traceback)", recorded, re.MULTILINE), recorded
    before = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
    for shown in (r"^classes .*", r"^photographs +train .*", r"^epoch +\d+/\d+", r"^exit code .*", r"^  top-1 / 3 / 5"):
        assert re.findall(shown, recorded, re.MULTILINE) == re.findall(shown, before, re.MULTILINE), shown
    (top1,) = set(re.findall(r"top-1 / 3 / 5 +([\d.]+)%", recorded))
    assert float(top1) > 90


@pytest.mark.full
def test_the_service_answers_the_requests_of_the_page(workplace: Path, tmp_path: Path) -> None:
    (block,) = (each for each in all_blocks() if "curl -F images" in each.code)
    shutil.copy("dinner.jpg", "lunch.png")
    with serving(workplace / "runs" / RUN, tmp_path) as service:
        for line in shell_lines(block):
            asked = line.replace("http://127.0.0.1:8000/", service.address.rstrip("/") + "/")
            done = subprocess.run(
                ["bash", "-c", asked], cwd=workplace, capture_output=True, text=True, timeout=PATIENCE
            )
            answer = json.loads(done.stdout)
            assert answer.keys() == {"model", "predictions"} and "top" in answer["predictions"][0], answer
    assert len(answer["predictions"]) == 2
