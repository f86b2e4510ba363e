"""Every fenced block of the README and the pages is run or checked, or carries a mark that says what it needs.

Commands of fasttrain and of other Python programs are parsed by those programs' own parsers. TOML, YAML and JSON are
read by the code that reads them in earnest. `test_snippets.py` runs the Python, `test_runs.py` runs commands. What no
test can do is marked in the page by a comment in the line above the block: `<!-- not run: needs a GPU -->`.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import fasttrain
from fasttrain.cli import app
from fasttrain.cli.train import take_argument
from fasttrain.config.load import resolve, tomllib
from fasttrain.config.schema import TrainConfig
from tests.docs.blocks import MARK, ROOT, SHELL, Block, all_blocks, blocks_of, shell_lines, simple_commands
from tests.test_distribution import PROJECT

BLOCKS = all_blocks()
# Programs of every Linux, and words of the shell.
_SYSTEM = {*"base64 cat echo export grep head kill ls sleep source tar trap wait .".split()}
_OPTION = re.compile(r"--[a-z][a-z-]*")


@functools.cache
def _command_line() -> Any:
    return typer.main.get_command(app)


def parsed(arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the command's path and its parameters. Raises the parser's own error for what fasttrain doesn't take."""
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
        if path in ("preview", "tune"):  # theirs are a picture and the study's folder
            settings.pop("out", None)
        resolve({}, settings, origin="the page")


def _pip(arguments: Sequence[str]) -> None:
    packages = [each for each in arguments if not each.startswith("-")]
    assert packages.pop(0) == "install"
    for each in packages:
        extras = re.fullmatch(r"(?:fasttrain-vision|\.)(?:\[([\w,-]+)\])?", each)
        assert extras, f"pip install {each}: fetches a package of others, so mark the block: needs a network"
        assert set((extras[1] or "dev").split(",")) <= set(PROJECT["optional-dependencies"])


def _pytest(arguments: Sequence[str]) -> None:
    own = {"--dist"}
    for path in (ROOT / "benchmarks" / "conftest.py", ROOT / "tests" / "conftest.py"):
        own |= set(re.findall(r'addoption\(\s*"(--[\w-]+)"', path.read_text("utf-8")))
    for each in arguments:
        assert each in own if each.startswith("--") else "/" not in each or (ROOT / each).exists(), each


def _script(path: Path, arguments: Sequence[str]) -> None:
    """Check that a script of ours exists, and that the options given to it are in its text."""
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
        _compiles(rest[0])
    elif first == "-m" and rest[0] == "fasttrain":
        check_fasttrain(rest[1:])
    elif first == "-m":
        _script(ROOT.joinpath(*rest[0].split("."), "__main__.py"), rest[1:])
    else:
        _script(ROOT / first, rest)


def _torchrun(arguments: Sequence[str]) -> None:
    """Check what torchrun starts. Its own options are parsed by `test_torchrun_and_mlflow_take_their_lines`."""
    _python(arguments[arguments.index("-m") :])


def _mlflow(arguments: Sequence[str]) -> None:
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
        declared = re.sub(r"[-_]", "", " ".join(sum(PROJECT["optional-dependencies"].values(), [])))
        assert {"lint-imports": "importlinter"}.get(name, name.replace("-", "")) in declared

    return check_it


_PROGRAMS: dict[str, Callable[[Sequence[str]], None]] = {
    "fasttrain": check_fasttrain,
    "pip": _pip,
    "pytest": _pytest,
    "python": _python,
    "torchrun": _torchrun,
    "mlflow": lambda arguments: None,  # test_torchrun_and_mlflow_take_their_lines parses them
    "timeout": _timeout,
    "curl": lambda arguments: None,  # test_runs.py sends the requests
    **{
        each: _development_tool(each)
        for each in ("ruff", "mypy", "lint-imports", "mkdocs", "pre-commit", "tensorboard")
    },
}


def check(words: Sequence[str]) -> None:
    """Check one command. Raises AssertionError for one that no test knows."""
    program, *arguments = words
    program = program.removeprefix(".venv/bin/")
    if program.startswith("tools/"):
        _script(ROOT / program, arguments)
    elif program in _PROGRAMS:
        _PROGRAMS[program](arguments)
    else:
        assert program in _SYSTEM, (
            f"no test runs {program}: let tests/docs/test_blocks.py check it, or write above the block, as its reason "
            "may be: <!-- not run: needs a network -->"
        )
        assert program in ("export", "source", "trap", "wait", ".") or shutil.which(program)


def _compiles(code: str) -> None:
    """Check that Python code compiles, and that it takes from fasttrain only what is there."""
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
                _takes(name, [each.arg for each in node.keywords if each.arg])


@functools.cache
def _parameters(name: str) -> set[str] | None:
    """Return the names that a function or class of fasttrain takes, None for any, as its source has them."""
    home = ROOT.joinpath(*fasttrain._HOMES[name].split(".")).with_suffix(".py")
    for node in ast.walk(ast.parse(home.read_text("utf-8"))):  # an import would take torch's seconds
        if isinstance(node, ast.ClassDef) and node.name == name:
            inits = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
            fields = {ast.unparse(each.target) for each in node.body if isinstance(each, ast.AnnAssign)}
            return _names(inits[0].args) if inits else fields or None
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _names(node.args) | (set(TrainConfig.model_fields) if node.args.kwarg else set())
    return None


def _names(arguments: ast.arguments) -> set[str]:
    return {each.arg for each in (*arguments.args, *arguments.kwonlyargs)}


def _takes(name: str, given: Sequence[str]) -> None:
    taken = _parameters(name)
    assert taken is None or set(given) <= taken, f"{name} takes no {set(given) - taken}"


def _diff(block: Block) -> None:
    added = [line[1:] for line in block.code.splitlines() if line.startswith("+")]
    for line in added:
        for call in re.findall(r"\b(?:fasttrain\.)?Loader\((.*)\)$", line):
            _takes("Loader", re.findall(r"(?<![\w.])(\w+)=(?!=)", re.sub(r"\([^()]*\)", "", call)))
    assert added, "a diff that adds nothing"


def _yaml(block: Block) -> None:
    for words in _commands_in(yaml.safe_load(block.code)):
        check(words)


def _commands_in(value: Any) -> list[list[str]]:
    if isinstance(value, dict):
        own = [value["command"]] if isinstance(value.get("command"), list) else []
        return own + [each for inner in value.values() for each in _commands_in(inner)]
    return [each for inner in value for each in _commands_in(inner)] if isinstance(value, list) else []


def check_block(block: Block) -> None:
    """Check a block as far as that can be done without running it. Raises AssertionError or the reader's own error."""
    if block.not_run is not None:
        assert MARK.fullmatch(block.not_run), f"<!-- not run: {block.not_run} -->: say `needs …` as blocks.MARK has it"
        if block.language in SHELL:  # the rest of such a block is checked all the same
            for words in (words for line in shell_lines(block) for words in simple_commands(line)):
                if words[0] in ("fasttrain", "torchrun") and "…" not in words and "train.py" not in words:
                    check(words)
    elif block.language in SHELL:
        lines = shell_lines(block)
        assert lines, "no command: an output alone is a block of ```text"
        for words in (words for line in lines for words in simple_commands(line)):
            check(words)
    elif block.language == "python":
        _compiles(block.code)
    elif block.language == "toml":
        resolve(tomllib.loads(block.code), {}, origin=block.name)
    elif block.language == "yaml":
        _yaml(block)
    elif block.language == "json":
        for line in block.code.splitlines():
            json.loads(line)
    elif block.language == "diff":
        _diff(block)
    else:
        assert block.language == "text", f"no test reads blocks of {block.language}: teach tests/docs/test_blocks.py"
        assert not re.search(r"^\$ ", block.code, re.MULTILINE), "a block with commands is one of ```console"


@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS}))
def test_every_block_is_checked_or_marked(page: str) -> None:
    for block in BLOCKS:
        if block.page == page:
            try:
                check_block(block)
            except Exception as error:
                pytest.fail(f"{block.name}: {error or type(error).__name__}\n{block.code}")


@pytest.mark.slow
def test_torchrun_and_mlflow_take_their_lines() -> None:
    """Parse these with the programs' own parsers, which take seconds to import."""
    from torch.distributed.run import get_args_parser

    found = []
    for block in BLOCKS:
        for line in shell_lines(block) if block.language in SHELL else []:
            for program, *arguments in simple_commands(line):
                if program == "torchrun" and "train.py" not in arguments:
                    found.append(get_args_parser().parse_args(arguments).training_script)
                elif program == "mlflow":
                    found.append(arguments[0])
                    _mlflow(arguments)
    assert {"fasttrain", "server", "models"} <= set(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```\nkubectl apply -f job.yaml\n```", "no test runs kubectl"),
        ("```bash\nfasttrain train --learning-rat 1\n```", "no such option: --learning-rat"),
        ("```bash\nfasttrain train --learning-rate 1000\n```", "learning_rate = 1000"),
        ("```bash\nfasttrain evaluate --checkpoint run --batch-size 0\n```", "greater than or equal to 1"),
        ("```console\n$ fasttrain convert photographs --worker 2\nclasses 6\n```", "--worker"),
        ("```\ncat list | fasttrain prdict --checkpoint run x.jpg\n```", "prdict"),
        ("```\ntorchrun --nproc-per-node 2 -m fasttrain train --bach-size 2\n```", "--bach-size"),
        ("```\npip install 'fasttrain-vision[tuning]'\n```", "tuning"),
        ("```\npip install tensorflow\n```", "needs a network"),
        ("```\npython benchmarks/accuracy.py --budget 2\n```", "no --budget"),
        ("```\ntools/setup_all.sh\n```", "setup_all.sh"),
        ("```\nclasses 6\n```", "no test runs classes"),
        ("```python\nfrom fasttrain import trian\n```", "no trian"),
        ('```python\nfrom fasttrain import Loader\nLoader("shards", batchsize=2)\n```', "batchsize"),
        ('```python\nfrom fasttrain import train\ntrain(data="shards", epoch=2)\n```', "epoch"),
        ("```toml\nepoch = 2\n```", "unknown setting 'epoch'"),
        ("```yaml\nspec: {command: [fasttrain, convert, --sorce, /data]}\n```", "--sorce"),
        ("```json\n{'a': 1}\n```", "property name"),
        ('```diff\n+loader = Loader("photographs", crops=2)\n```', "crops"),
        ("```rust\nfn main() {}\n```", "no test reads blocks of rust"),
        ("```text\n$ fasttrain runs\n```", "```console"),
        ("<!-- not run: too lazy -->\n```\nkubectl apply\n```", "too lazy"),
        ("<!-- not run: needs a network -->\n```\naws s3 ls\nfasttrain trian\n```", "trian"),
    ],
)
def test_a_block_that_is_wrong_or_not_known_is_found(text: str, message: str) -> None:
    (block,) = blocks_of(text, "page.md")
    with pytest.raises(Exception) as raised:
        check_block(block)
    assert message.lower() in f"{raised.value} {getattr(raised.value, 'message', '')}".lower()


def test_marked_blocks_and_those_with_a_title_are_found() -> None:
    text = 'a\n\n=== "S3"\n\n    <!-- not run: needs a network -->\n    ```bash\n    aws s3 ls\n    ```\n'
    text += '\n```python title="a.py"\nx = 1\n```\n'
    first, second = blocks_of(text, "page.md")
    assert (first.not_run, first.code, first.language) == ("needs a network", "aws s3 ls\n", "bash")
    assert (second.not_run, second.file, second.name) == (None, "a.py", "page.md, python 1")


def test_shell_code_is_taken_apart() -> None:
    line = "A=1 until fasttrain train --out 'my runs' > log 2>&1; [ $? -ne 75 ]; do cat x | head -1 && done  # why"
    assert list(simple_commands(line)) == [["fasttrain", "train", "--out", "my runs"], ["cat", "x"], ["head", "-1"]]
