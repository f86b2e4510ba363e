"""Check the commands of the documentation without running them: programs, options and values must exist."""

from __future__ import annotations

import ast
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import typer

import fasttrain
from fasttrain.cli import app
from fasttrain.cli.train import take_argument
from fasttrain.config.load import resolve
from fasttrain.config.schema import TrainConfig
from tests.docs.blocks import ROOT
from tests.test_distribution import PROJECT

# Programs that every Linux has, and words of the shell.
_SYSTEM = set("base64 cat cd echo export git grep head kill ls sleep source tar trap wait .".split())  # noqa: SIM905
_TOOLS = ("ruff", "mypy", "lint-imports", "mkdocs", "pre-commit", "tensorboard")
_OPTION = re.compile(r"--[a-z][a-z-]*")


@functools.cache
def _command_line() -> Any:
    return typer.main.get_command(app)


def parsed(arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the command's path, such as "train", and its parameters. Raises the parser's error for unknown options."""
    command = _command_line()
    left = [each for each in arguments if each != "--debug"]
    path = []
    while hasattr(command, "commands"):
        name, *left = left
        command = command.commands[name]
        path.append(name)
    context = command.make_context(" ".join(path), left)
    return " ".join(path), context.params


def check_fasttrain(arguments: Sequence[str]) -> None:
    """Parse a command line of fasttrain, and validate its settings, without running it."""
    if not arguments or arguments[0].startswith("-"):  # completions, --version
        assert set(arguments) <= {"--install-completion", "--show-completion", "--version"}
        return
    path, values = parsed(arguments)
    values.pop("config", None)
    if path == "train":
        take_argument(values.pop("data_set", None), values)
    if path in ("train", "profile", "preview", "lr-find", "tune"):
        settings = {name: value for name, value in values.items() if name in TrainConfig.model_fields}
        if path in ("preview", "tune"):  # their --out is a picture or the folder of a search
            settings.pop("out", None)
        resolve({}, settings, origin="the page")


def _pip(arguments: Sequence[str]) -> None:
    packages = [each for each in arguments if not each.startswith("-")]
    assert packages.pop(0) == "install"
    for each in packages:
        extras = re.fullmatch(r"(?:fasttrain-vision|\.)(?:\[([\w,-]+)\])?", each)
        assert extras, f"pip install {each}: downloads another package, so mark the block: needs a network"
        unknown = set((extras[1] or "dev").split(",")) - set(PROJECT["optional-dependencies"])
        assert not unknown, f"pip install {each}: there is no extra {', '.join(unknown)}"


def _pytest(arguments: Sequence[str]) -> None:
    own = {"--dist"}
    for path in (ROOT / "benchmarks" / "conftest.py", ROOT / "tests" / "conftest.py"):
        own |= set(re.findall(r'addoption\(\s*"(--[\w-]+)"', path.read_text("utf-8")))
    for each in arguments:
        assert each in own if each.startswith("--") else "/" not in each or (ROOT / each).exists(), each


def _script(path: Path, arguments: Sequence[str]) -> None:
    """Check that a script of this project exists, and that its text contains the options given to it."""
    assert path.is_file(), path
    text = path.read_text("utf-8")
    if path.name == "__main__.py":
        text += (path.parent / "registry.py").read_text("utf-8")
    for option in _OPTION.findall(" ".join(arguments)):
        assert option in text or option == "--help", f"{path.name} has no {option}"
    if path.suffix == ".sh":
        assert os.access(path, os.X_OK)
        subprocess.run(["bash", "-n", path], check=True)


def _python(arguments: Sequence[str]) -> None:
    first, *rest = arguments
    if first == "-c":
        check_python(rest[0])
    elif first == "-m" and rest[0] == "fasttrain":
        check_fasttrain(rest[1:])
    elif first == "-m":
        _script(ROOT.joinpath(*rest[0].split("."), "__main__.py"), rest[1:])
    else:
        _script(ROOT / first, rest)


def _torchrun(arguments: Sequence[str]) -> None:
    """Check the command that torchrun starts. Its own options have `test_torchrun_and_mlflow_take_their_lines`."""
    _python(arguments[arguments.index("-m") :])


def check_mlflow(arguments: Sequence[str]) -> None:
    from mlflow.cli import cli

    command: Any = cli
    left = list(arguments)
    while hasattr(command, "commands"):
        name, *left = left
        command = command.commands[name]
    command.make_context(command.name, left)


def _timeout(arguments: Sequence[str]) -> None:
    options = [each for each in arguments if each.startswith("--")]
    check(arguments[arguments.index("fasttrain") :])
    assert set(options) >= {"--preserve-status"}


def _development_tool(name: str) -> Callable[[Sequence[str]], None]:
    def check_it(arguments: Sequence[str]) -> None:
        declared = re.sub(r"[-_]", "", " ".join(chain(*PROJECT["optional-dependencies"].values())))
        assert {"lint-imports": "importlinter"}.get(name, name.replace("-", "")) in declared

    return check_it


_PROGRAMS: dict[str, Callable[[Sequence[str]], None]] = {
    "fasttrain": check_fasttrain,
    "pip": _pip,
    "pytest": _pytest,
    "python": _python,
    "torchrun": _torchrun,
    "mlflow": lambda arguments: None,  # `test_torchrun_and_mlflow_take_their_lines` parses these
    "timeout": _timeout,
    "curl": lambda arguments: None,  # test_commands_run.py sends the requests
    **{each: _development_tool(each) for each in _TOOLS},
}


def check(words: Sequence[str]) -> None:
    """Check one command. Raises AssertionError if it is wrong, or if its program is unknown here."""
    program, *arguments = words
    program = program.removeprefix(".venv/bin/")
    if program.startswith("tools/"):
        _script(ROOT / program, arguments)
    elif program in _PROGRAMS:
        _PROGRAMS[program](arguments)
    else:
        assert program in _SYSTEM, (
            f"no test runs {program}: let tests/docs/commands.py check it, or write above the block, as its reason "
            "may be: <!-- not run: needs a network -->"
        )
        assert program in ("cd", "export", "source", "trap", "wait", ".") or shutil.which(program)


def check_python(code: str) -> None:
    """Check that Python code compiles, and that the names and arguments that it uses from fasttrain exist."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "fasttrain":
            assert node.module
            path = ROOT.joinpath(*node.module.split("."))
            source = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
            for each in node.names:
                assert re.search(rf"\b{each.name}\b", source.read_text("utf-8")), f"{node.module} has no {each.name}"
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).removeprefix("fasttrain.")
            if name in fasttrain.__all__ and not name.startswith("Callback"):
                check_keywords(name, [each.arg for each in node.keywords if each.arg])


@functools.cache
def _parameters(name: str) -> set[str] | None:
    """Return the parameter names of a function or class of fasttrain, from its source, or None if it takes any."""
    home = ROOT.joinpath(*fasttrain._MODULES[name].split(".")).with_suffix(".py")
    for node in ast.walk(ast.parse(home.read_text("utf-8"))):  # an import would also import torch
        if isinstance(node, ast.ClassDef) and node.name == name:
            inits = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
            fields = {ast.unparse(each.target) for each in node.body if isinstance(each, ast.AnnAssign)}
            return _names(inits[0].args) if inits else fields or None
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _names(node.args) | (set(TrainConfig.model_fields) if node.args.kwarg else set())
    return None


def _names(arguments: ast.arguments) -> set[str]:
    return {each.arg for each in (*arguments.args, *arguments.kwonlyargs)}


def check_keywords(name: str, given: Sequence[str]) -> None:
    taken = _parameters(name)
    assert taken is None or set(given) <= taken, f"{name} takes no {set(given) - taken}"
