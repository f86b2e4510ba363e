"""Markdown of the reference: from the command line's own parameters, from `TrainConfig`, from the package's modules.

Nothing here imports torch. `hooks.py` puts the pages into the site; tests/docs reads them too.
"""

from __future__ import annotations

import ast
import re
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fasttrain"


@dataclass(frozen=True)
class Parameter:
    """An option or argument: what is typed, what it does, its default or "required", the panel of `--help`."""

    name: str
    typed: str
    help: str
    default: str
    panel: str


@dataclass(frozen=True)
class Command:
    """A command's path (`train`; `export onnx` for one in a group), its usage line, help and parameters."""

    path: str
    usage: str
    help: str
    parameters: tuple[Parameter, ...]


def commands() -> list[Command]:
    """Every command of `fasttrain`, in the order of `fasttrain --help`."""
    from fasttrain.cli import app

    group: Any = typer.main.get_command(app)
    return list(_walk(group, group.make_context("fasttrain", [], resilient_parsing=True), ""))


def _walk(group: Any, context: Any, prefix: str) -> Iterator[Command]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        inner = type(context)(command, info_name=name, parent=context)
        if hasattr(command, "commands"):
            yield from _walk(command, inner, f"{prefix}{name} ")
            continue
        usage = command.get_usage(inner).removeprefix("Usage: ")
        parameters = tuple(
            _parameter(each, inner)
            for each in command.params
            if not getattr(each, "hidden", False) and each.expose_value
        )
        yield Command(f"{prefix}{name}", usage, _unmarked(command.help or ""), parameters)


def _parameter(parameter: Any, context: Any) -> Parameter:
    typed, said = parameter.get_help_record(context)
    extras = re.search(r"\s*\[((?:default: |required|env var: |[^\[\]]*x[<>]=?)[^\[]*)\]$", said)
    help_text = said[: extras.start()] if extras else said
    parts = [part.strip() for part in extras[1].split(";")] if extras else []
    shown = [re.sub(r"^default: \(?(.*?)\)?$", r"\1", part) for part in parts]
    panel = getattr(parameter, "rich_help_panel", None) or ""
    return Parameter(parameter.name, typed, _unmarked(help_text), "; ".join(shown), panel)


def _unmarked(text: str) -> str:
    """Without rich's markup."""
    return re.sub(r"\[/?(?:bold|italic|dim|red|green|yellow|cyan)\]", "", text).strip()


def cli_page() -> str:
    """Every command with its options, one anchor each (`train-learning-rate`)."""
    lines = []
    found = commands()
    train = next(command for command in found if command.path == "train").parameters
    for command in found:
        anchor = command.path.replace(" ", "-")
        lines += [f"## `fasttrain {command.path}` {{ #{anchor} }}", "", command.help, ""]
        lines += ["```text", command.usage, "```", ""]
        own = command.parameters
        lacking = [parameter for parameter in train if parameter not in own]
        if command.path != "train" and len(lacking) < len(train) / 2:
            own = tuple(parameter for parameter in own if parameter not in train)
            but = " but " + ", ".join(f"`{each.typed.split()[0]}`" for each in lacking) if lacking else ""
            lines += [f"Every option of [`fasttrain train`](#train){but}, and these:", ""]
        for panel in dict.fromkeys(parameter.panel for parameter in own):
            if panel:
                lines += [f"### {panel} {{ #{anchor}-{_slug(panel)} }}", ""]
            lines += ["| option | what it does | default |", "| --- | --- | --- |"]
            for parameter in own:
                if parameter.panel == panel:
                    name = f"{anchor}-{parameter.name.replace('_', '-')}"
                    typed = f"[`{_cell(parameter.typed)}`](#{name}){{ #{name} }}"
                    default = f"`{_cell(parameter.default)}`" if parameter.default else ""
                    lines.append(f"| {typed} | {_prose(parameter.help)} | {default} |")
            lines.append("")
    return "\n".join(lines)


def settings_page() -> str:
    """Return a table for each group of settings: key in TOML and Python, type, range, default, and the recipes'."""
    from fasttrain.config.groups import GROUPS
    from fasttrain.config.recipes import RECIPES, recipe_defaults

    recipes = {recipe: recipe_defaults(recipe, {}) for recipe in RECIPES}
    lines = []
    for title, group in GROUPS.items():
        lines += [f"## {title} {{ #group-{_slug(title)} }}", ""]
        lines += ["| setting | what it does | takes | default | recipes |", "| --- | --- | --- | --- | --- |"]
        for name, field in group.model_fields.items():
            option = f"[`{name}`](cli.md#train-{name.replace('_', '-')}){{ #{name} }}"
            set_by = ", ".join(f"{recipe} {_value(given[name])}" for recipe, given in recipes.items() if name in given)
            default = "" if field.default is None else _value(field.default)
            takes = _cell(_takes(field.annotation, field.metadata))
            lines.append(f"| {option} | {_prose(field.description or '')} | {takes} | {default} | {set_by} |")
        lines.append("")
    return "\n".join(lines)


def _takes(annotation: Any, metadata: list[Any]) -> str:
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        metadata = [*metadata, *more]
    annotation = getattr(annotation, "written_as", annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [_takes(each, []) for each in get_args(annotation) if each is not type(None)]
        said = " or ".join(dict.fromkeys(kinds))
    elif get_origin(annotation) is Literal:
        said = ", ".join(f"`{each}`" for each in get_args(annotation))
    elif get_origin(annotation) is tuple:
        said = f"two: {_takes(get_args(annotation)[0], [])}"
    else:
        names = {bool: "on, off", int: "whole number", float: "number", str: "text", Path: "path"}
        said = names.get(annotation, getattr(annotation, "__name__", str(annotation)))
    marks = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [
        f"{mark} {_bound(bound)}"
        for each in _flat(metadata)
        for key, mark in marks.items()
        if (bound := getattr(each, key, None)) is not None
    ]
    return ", ".join([said, *limits])


def _flat(metadata: list[Any]) -> Iterator[Any]:
    for each in metadata:
        yield from getattr(each, "metadata", [each])


def _bound(bound: float) -> str:
    return "2⁶³" if bound == 2**63 else f"{bound:,g}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        return "`" + " ".join(str(each) for each in value) + "`"
    return f"`{value}`"


def loader_page() -> str:
    """Return mkdocstrings' directives for `fasttrain.Loader`, and for all that it takes."""
    return "\n".join(_public(_OF_THE_LOADER))


def python_page() -> str:
    """Return mkdocstrings' directives for the other names of `fasttrain`, and for the classes those return."""
    import fasttrain

    lines = _public([name for name in fasttrain.__all__ if name not in _OF_THE_LOADER])
    lines += ["## What they return", ""]
    for result in results():
        options = ["      show_root_full_path: false", "      heading_level: 3", *_SECOND]
        lines += [f"::: {result}", "    options:", *options, ""]
    lines += ["## Errors", "", "::: fasttrain.errors", "    options:", "      show_root_heading: false"]
    return "\n".join([*lines, "      show_root_toc_entry: false", "      heading_level: 3", *_SECOND, ""])


_OF_THE_LOADER = (
    "Loader",
    "RandomResizedCrop",
    "CenterCrop",
    "Resize",
    "RandAugment",
    "TrivialAugment",
    "ColorJitter",
    "RandomErasing",
    "Normalize",
    "Mixup",
    "CutMix",
    "decode",
)


def _public(names: Iterable[str]) -> list[str]:
    import fasttrain

    lines = []
    for name in names:
        options = [f"      heading: fasttrain.{name}", f"      toc_label: {name}", "      heading_level: 2", *_SECOND]
        lines += [f"::: {fasttrain._MODULES[name]}.{name}", "    options:", *options, ""]
    return lines


# The modules' pages hold these too, and are the ones that references lead to.
_SECOND = ("      skip_local_inventory: true",)


def results() -> list[str]:
    """The package's own classes that the public functions say they return, as `module.Class`."""
    import fasttrain

    found: dict[str, None] = {}
    for name, home in fasttrain._MODULES.items():
        tree = ast.parse((ROOT / Path(*home.split("."))).with_suffix(".py").read_text("utf-8"))
        origins = {each.name: home for each in tree.body if isinstance(each, ast.ClassDef)}
        for each in ast.walk(tree):
            if isinstance(each, ast.ImportFrom) and (each.module or "").startswith("fasttrain"):
                origins |= {alias.name: str(each.module) for alias in each.names}
        functions = [each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == name]
        for function in functions:
            said = [each.id for each in ast.walk(function.returns or ast.Pass()) if isinstance(each, ast.Name)]
            found |= {f"{origins[each]}.{each}": None for each in said if each in origins}
    return list(found)


def module_pages() -> dict[str, str]:
    """Name of each stage's package to the page of its modules; modules that lie beside the packages are "fasttrain"."""
    pages = {}
    for folder in [PACKAGE, *sorted(each for each in PACKAGE.iterdir() if (each / "__init__.py").exists())]:
        modules = [path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]
        if not modules or folder.name == "cli":
            continue
        dotted = ".".join(folder.relative_to(ROOT).parts)
        lines = [f"# {dotted}", "", _docstring(folder / "__init__.py"), ""]
        for path in modules:
            lines += [f"::: {dotted}.{path.stem}", "    options:", "      heading_level: 2", ""]
        pages[folder.name] = "\n".join(lines)
    return pages


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _prose(text: str) -> str:
    """Help text as Markdown: a flag, a variable or `a_word_like_this` is code; what looks like HTML is not."""
    text = _cell(text).replace("<", "&lt;")
    parts = re.split(r"(`[^`]*`)", text)
    for index in range(0, len(parts), 2):
        parts[index] = re.sub(
            r"(?<![\w-])(--[a-z][\w-]*|\$?[A-Z]+(?:_[A-Z]+)+|[a-z]+(?:_[a-z]+)+)", r"`\1`", parts[index]
        )
    return "".join(parts)
