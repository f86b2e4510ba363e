"""People type these by habit: short options, underscores, arguments in place of options, `latest`."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from fasttrain.checkpoint.weights import weights_file
from fasttrain.cli import main
from fasttrain.errors import UserError
from fasttrain.version import __version__


@pytest.fixture
def fasttrain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return a function that runs a command line in this process: exit code, standard output and error output."""

    def run(*line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fasttrain", *line])
        monkeypatch.setenv("COLUMNS", "300")
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(fasttrain, flag):
    assert fasttrain(flag) == (0, f"fasttrain {__version__}\n", "")


@pytest.mark.parametrize("line", [["-h"], ["train", "-h"], ["lr-find", "-h"], ["lr_find", "--help"]])
def test_help(fasttrain, line):
    code, out, err = fasttrain(*line)
    assert code == 0 and "Usage: fasttrain" in out and not err


def test_help_lists_choices_and_defaults_as_they_are_typed(fasttrain):
    _, out, _ = fasttrain("train", "--help")
    option = {found[1]: line for line in out.splitlines() if (found := re.match(r"│ (--[\w-]+)", line))}
    assert "crop|squash|letterbox" in option["--resize-mode"] and "[default: crop]" in option["--resize-mode"]
    assert "--lr" in option["--learning-rate"] and "[default: 0.0" in option["--learning-rate"]
    assert "--imgsz" in option["--image-size"] and "--batch " in option["--batch-size"]
    assert "default: (" not in out


@pytest.mark.parametrize("command", ["serve", "push", "register"])
@pytest.mark.parametrize("given", [["nowhere"], ["--checkpoint", "nowhere"], ["--checkpoint=nowhere"]])
def test_a_run_may_be_given_as_an_option(fasttrain, command, given):
    rest = ["--port", "0"] if command == "serve" else ["owner/name"]
    for line in [given + rest] if given == ["nowhere"] else [given + rest, rest + given]:
        code, _, err = fasttrain(command, *line)
        assert code == 2 and err.startswith("fasttrain: nowhere: no such file")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["train", "--learning-rat", "1"], "No such option: --learning-rat; did you mean --learning-rate? See"),
        (["train", "--lr", "fast"], "Invalid value for '--learning-rate' / '--lr'"),
        (["train", "--imgsz"], "Option '--imgsz' requires an argument; see fasttrain train --help"),
        (["serve"], "CHECKPOINT is missing; give a run folder, or latest for the newest run; see fasttrain serve"),
        (["serve", "one", "--checkpoint", "two"], "Got unexpected extra argument"),
        (["predict", "hat.jpg"], "--checkpoint is missing; give a run folder, or latest for the newest run; see"),
        (
            ["evaluate"],
            "--checkpoint is missing; give a run folder, or latest for the newest run; see fasttrain evaluate",
        ),
        (["trian"], "No such command 'trian'; did you mean 'train'? See fasttrain --help"),
    ],
)
def test_a_mistyped_line_is_told_in_one_line(fasttrain, line, said):
    code, out, err = fasttrain(*line)
    assert code == 2 and not out
    assert err.startswith(f"fasttrain: {said}") and err.count("\n") == 1


def test_a_model_given_without_its_option_is_told_with_the_right_command(fasttrain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/a b/model.safetensors", "model.onnx"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    right = {
        ("export", "runs/a b", "--format", "onnx"): "export --checkpoint 'runs/a b' --format onnx",
        ("predict", "model.onnx", "hat.jpg"): "predict --checkpoint model.onnx hat.jpg",
        ("evaluate", "latest"): "evaluate --checkpoint latest",
    }
    for line, meant in right.items():
        code, out, err = fasttrain(*line)
        said = f"--checkpoint is missing; did you mean `fasttrain {meant}`? See fasttrain {line[0]} --help\n"
        assert (code, out, err) == (2, "", f"fasttrain: {said}")


def test_without_a_command_the_help_is_shown(fasttrain):
    code, out, err = fasttrain()
    assert code == 2 and "Usage: fasttrain" in out + err and "Error" not in err


@pytest.mark.parametrize("line", [["train", "shards/pets"], ["train", "--data", "shards/pets"]])
def test_the_data_set_may_be_an_argument(fasttrain, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    assert fasttrain(*line)[2].startswith("fasttrain: shards/pets does not exist")


def test_two_data_sets_or_sources_are_one_too_many(fasttrain):
    assert "two data sets were given; give only one" in fasttrain("train", "a", "--data", "b")[2]
    assert "two sources were given; give only one" in fasttrain("convert", "a", "--source", "b")[2]


def test_convert_downloads_nothing_unasked(fasttrain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for line in (["convert"], ["convert", ""], ["convert", "--out", "shards"]):
        said = "fasttrain: no photographs to convert; give a folder, an archive, a table, a URL, food101 or sample\n"
        assert fasttrain(*line) == (2, "", said)
    assert not any(tmp_path.iterdir())


def test_convert_takes_the_photographs_as_an_argument_and_names_the_shards(
    fasttrain, photographs, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photographs, tmp_path / "pets")
    code, out, _ = fasttrain("convert", "pets")
    assert code == 0 and "next: fasttrain train shards/pets" in out
    assert (tmp_path / "shards" / "pets" / "manifest.json").is_file()


def test_an_unknown_optimizer_is_told_before_anything_is_read(fasttrain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = fasttrain("train", "nowhere", "--optimizer", "adamx", "--no-track")
    assert code == 2 and err.startswith("fasttrain: optimizer = 'adamx' is not known to timm; did you mean")


def test_latest_is_the_newest_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="latest: runs holds no run"):
        weights_file(Path("latest"))
    for number, name in enumerate(("b", "a")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        save_file({}, tmp_path / "runs" / name / "model.safetensors")
        os.utime(tmp_path / "runs" / name / "model.safetensors", (number, number))
    assert weights_file(Path("latest")) == Path("runs/a/model.safetensors")


@pytest.mark.parametrize("command", ["push", "register"])
def test_latest_is_taken_by_what_takes_a_run_folder(fasttrain, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    save_file({}, tmp_path / "runs" / "a" / "model.safetensors")
    code, _, err = fasttrain(command, "--checkpoint", "latest", "owner/name")
    assert code == 2 and "runs/a" in err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--batchsize", "--batch-size"),
        ("--bs", "--batch-size"),
        ("--num-workers", "--workers"),
        ("--num_epochs", "--epochs"),
        ("--img-size", "--image-size"),
        ("--lear-rate", "--learning-rate"),
        ("--wd", "--weight-decay"),
        ("--output-dir", "--out"),
        ("--smoothing", "--label-smoothing"),
        ("--warmup", "--warmup-epochs"),
        ("--optim", "--optimizer"),
        ("--optimiser=sgd", "--optimizer"),
        ("--no-pretraned", "--no-pretrained"),
    ],
)
def test_a_mistyped_option_names_the_one_that_is_meant(fasttrain, typed, meant):
    code, out, err = fasttrain("train", typed, "1")
    said = typed.partition("=")[0].replace("_", "-")
    assert (code, out) == (2, "") and err == (
        f"fasttrain: No such option: {said}; did you mean {meant}? See fasttrain train --help\n"
    )


def test_an_option_like_no_other_gets_no_suggestion(fasttrain):
    assert fasttrain("predict", "x.jpg", "--zzz") == (
        2,
        "",
        "fasttrain: No such option: --zzz; see fasttrain predict --help\n",
    )
