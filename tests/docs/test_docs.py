"""The README and the documentation: links and pictures lead somewhere, command lines are ones that fasttrain takes."""

from __future__ import annotations

import functools
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import fasttrain
from fasttrain.cli import app
from fasttrain.config.schema import TrainConfig
from tests.docs.blocks import simple_commands
from tests.docs.commands import check_fasttrain
from tests.support.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
sys.path.insert(0, str(ROOT / "docs" / "scripts"))

import drawings  # noqa: E402
import reference  # noqa: E402

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# Options of other programs that the pages name outside of blocks and of the migration tables' first column.
FOREIGN = {
    "--env-manager",
    "--install",
    "--lear",
    "--results",
    "--short",
    "--ratio-check",
    "--max-restarts",
    "--nproc-per-node",
    "--strict-markers",
}


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return FENCE.sub("", page.read_text("utf-8"))


@functools.cache
def generated() -> str:
    return reference.cli_page() + reference.settings_page()


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page: headings as Python-Markdown and GitHub slug them, and anchors set by hand."""
    text = prose(page)
    found = set(re.findall(r"\{ ?#([\w-]+)", text))
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", re.sub(r"\{.*?\}|`", "", heading)).strip().lower()
        found |= {re.sub(r"[-\s]+", "-", plain), plain.replace(" ", "-")}
    if page.parent.name == "reference":  # filled at build time
        found |= set(re.findall(r"\{ #([\w-]+) \}", generated()))
        found |= {"errors"}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            assert target.startswith(("https://", "mailto:")), target
            continue
        path, _, anchor = target.partition("#")
        there = page if not path else (page.parent / path).resolve()
        assert there.exists(), f"{target}: no such file"
        if anchor:
            assert anchor in anchors(there), f"{target}: no such heading"


def command_lines(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each code span that begins with fasttrain; `test_blocks.py` has those of blocks."""
    for span in re.findall(r"`(fasttrain [^`\n]+)`", FENCE.sub("", text)):
        for program, *arguments in simple_commands(span):
            if program == "fasttrain":
                yield arguments


LINES = [
    pytest.param(page, line, id=f"{page.relative_to(ROOT)}: {' '.join(line)}")
    for page in PAGES
    # The table of faults names commands with what they wrote, as its tests do.
    for line in command_lines(
        re.sub(r"<!-- table: begin -->.*<!-- table: end -->", "", page.read_text("utf-8"), flags=re.S)
    )
    if line and line[0] != "COMMAND" and not line[0].startswith("-") and "…" not in " ".join(line)
]


def test_there_are_command_lines_to_check():
    found = [" ".join(line.values[1]) for line in LINES]
    assert len(found) > 30 and "convert food101" in found


@pytest.mark.parametrize(("page", "line"), LINES)
@pytest.mark.slow
def test_command_lines_are_ones_that_fasttrain_takes(page, line):
    if len(line) == 1 or line[1:] == ["--help"] or line[1:] == ["--debug"]:  # a command named in the prose
        assert line[0] in {command.path.split()[0] for command in reference.commands()}
        return
    placeholders = {"FILE": "file", "IMAGE": "image"}
    if line[0] == "train" and "NAME" in line:
        return
    check_fasttrain([placeholders.get(word, word) for word in line])


@functools.cache
def options() -> set[str]:
    found = {"--help", "--version", "--debug", "--install-completion", "--show-completion"}
    for command in reference.commands():
        for parameter in command.parameters:
            found |= set(re.findall(r"--[a-z][a-z-]*", parameter.typed))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_named_in_sentences_and_tables_exist(page):
    text = prose(page)
    if page.parent.name == "migration":
        text = "\n".join(own_columns(text))
    spans = " ".join(re.findall(r"`((?:[a-z-]+ )*--[^`]*)`", text))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", spans))
    assert not named - options() - FOREIGN - foreign_spans(text)


def foreign_spans(text: str) -> set[str]:
    """Options in code spans that begin with another program's name."""
    spans = re.findall(r"`((?:pytest|mkdocs|docker|torchrun|pip|clang-format|\w*pre-commit|apt-get)\b[^`]*)`", text)
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", " ".join(spans)))


def own_columns(text: str) -> Iterator[str]:
    """Yield the cells of the migration tables below "fasttrain"."""
    return column(text, "fasttrain")


def column(text: str, heading: str) -> Iterator[str]:
    """Yield the cells of tables below `heading`."""
    number = -1
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]
        if not line.startswith("|"):
            number = -1
        elif heading in cells:
            number = cells.index(heading)
        elif number > 0:
            assert len(cells) > number, line
            yield cells[number]


def test_the_migration_tables_name_options_of_their_command():
    for page in sorted((ROOT / "docs" / "migration").glob("*.md")):
        own = {command.path: command for command in reference.commands()}
        found = 0
        for cell in own_columns(prose(page)):
            for span in re.findall(r"`([^`]+)`", cell):
                words = span.split()
                path = words[0] if words[0] in own else "train"
                taken = " ".join(parameter.typed for parameter in own[path].parameters)
                for flag in re.findall(r"(?<![\w-])--[a-z-]+", span.removeprefix("torchrun --nproc-per-node")):
                    assert re.search(rf"{flag}(?![\w-])", taken), f"{page.name}: {span}: {path} has no {flag}"
                    found += 1
        assert found > 10 or page.name in ("index.md", "dataloader.md", "webdataset.md", "dali.md")


def test_the_migration_tables_name_parameters_of_the_loader():
    taken = {
        "Loader": {*inspect.signature(fasttrain.Loader).parameters, *dir(fasttrain.Loader)},
        "RandomResizedCrop": {"scale", "ratio"},
        "CenterCrop": {"crop_pct"},
    }
    for name in ("dataloader.md", "webdataset.md", "dali.md", "ffcv.md"):
        cells = list(column(prose(ROOT / "docs" / "migration" / name), "`Loader`"))
        spans = [span for cell in cells for span in re.findall(r"`([^`]+)`", cell)]
        for span in spans:
            value, called, inner = span.partition("(")
            assert value.split("=")[0] in taken["Loader"], f"{name}: {span}"
            assert all(hasattr(fasttrain, each) for each in re.findall(r"(\w+)\(", span)), f"{name}: {span}"
            if called and not span.startswith("transforms="):
                assert set(re.findall(r"(\w+)=", inner)) <= taken[value.split("=")[1]], f"{name}: {span}"
        assert len(spans) > 10


def test_every_setting_and_option_stands_in_the_reference():
    settings = reference.settings_page()
    for name, field in TrainConfig.model_fields.items():
        row = next(line for line in settings.splitlines() if line.startswith(f"| [`{name}`]"))
        assert len(row.split(" | ")) == 5, row
        if isinstance(field.default, (str, int, float)) and not isinstance(field.default, bool):
            assert f"`{field.default}`" in row
    page = reference.cli_page()
    group: Any = typer.main.get_command(app)
    sections = {section.split("`")[0]: section for section in page.split("## `fasttrain ")[1:]}
    assert list(sections) == [command.path for command in reference.commands()]
    for name, command in group.commands.items():
        as_train = "Every option of [`fasttrain train`]" in sections.get(name, "")
        for parameter in command.params if not hasattr(command, "commands") else []:
            if parameter.name != "help" and not getattr(parameter, "hidden", False):
                anchor = f"-{parameter.name.replace('_', '-')} }}"
                where = sections["train"] if as_train and f"{{ #train{anchor}" in page else sections[name]
                assert anchor in where, (name, parameter.name)


def test_every_public_function_and_module_stands_in_the_reference():
    python = reference.python_page() + reference.loader_page()
    assert all(f"heading: fasttrain.{name}" in python for name in fasttrain.__all__ if name in fasttrain._MODULES)
    assert "::: fasttrain.training.result.TrainResult" in python  # named by train's annotation, in its own module
    assert "::: fasttrain.evaluation.metrics.Evaluation" in python  # named by evaluate's annotation
    listed = "\n".join(reference.module_pages().values())
    for path in sorted((ROOT / "fasttrain").rglob("*.py")):
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if not re.search(r"\._|\.cli\b", dotted):
            assert f"::: {dotted}\n" in listed, dotted


def test_the_reference_needs_no_torch():
    code = (
        "import sys, reference; reference.cli_page(); reference.settings_page(); reference.python_page(); "
        "reference.module_pages(); print([name for name in ('torch', 'mlflow', 'timm') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "docs" / "scripts")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("name", ["cut.svg", "plan.svg", "pipeline.svg"])
def test_the_drawings_are_what_the_plan_says_now(name):
    drawn = (ROOT / "docs" / "drawings" / name).read_text("utf-8")
    assert drawn == drawings.drawings()[name], "run python docs/scripts/drawings.py"


def test_the_tutorial_shows_the_settings_of_the_sample():
    shown = re.search(r"```toml\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text("utf-8"), re.DOTALL)
    assert shown is not None
    stated = (ROOT / "tools" / "sample.toml").read_text("utf-8")
    plain = [[line.split("#")[0].strip() for line in text.splitlines()] for text in (shown[1], stated)]
    assert [line for line in plain[0] if line] == [line for line in plain[1] if line]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.slow
def test_bash_completes_options_and_models():
    """Follow the page on completions: the script for bash, then Tab after what was typed."""
    binary = Path(sys.executable).with_name("fasttrain")
    script = f'eval "$(_FASTTRAIN_COMPLETE=source_bash {binary})"\n'
    for typed in ("--learn", "--model mobilenetv2_1", "--model mobilenetv2_140."):
        words = f"fasttrain train {typed}".split()
        script += f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}\n_fasttrain_completion {binary}\n"
        script += 'echo "${COMPREPLY[@]}"\n'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=PATIENCE)
    expected = ["--learning-rate", "mobilenetv2_100 mobilenetv2_110d mobilenetv2_120d mobilenetv2_140"]
    assert done.stdout.splitlines() == [*expected, "mobilenetv2_140.ra_in1k"], done.stdout + done.stderr
