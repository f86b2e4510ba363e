"""Whatever settings there can be: written as TOML or given on the command line, they are read back the same."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, get_args

import pytest
import tomli_w
import typer
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.main import get_command

from fasttrain.cli.settings_options import with_settings
from fasttrain.cli.train import with_current_track_option
from fasttrain.config.load import read_toml, resolve
from fasttrain.config.schema import TrainConfig
from fasttrain.config.trackers import TRACKERS
from fasttrain.errors import UserError

FIELDS = TrainConfig.model_fields
# Texts of their own grammar; all other settings are made from their types and bounds, those of tomorrow too.
GRAMMAR = {
    "cache_size": st.builds("{}{}".format, st.integers(1, 900), st.sampled_from(["", "MB", " GB", "TiB"])),
    "rand_augment": st.builds("n{}-m{}".format, st.integers(1, 4), st.integers(0, 10)),
    "save_every": st.one_of(
        st.integers(1, 2**40), st.just("off"), st.builds("{}{}".format, st.integers(1, 900), st.sampled_from("smh"))
    ),
    "batch_size": st.one_of(st.integers(1, 65_536), st.just("auto")),
    "progressive": st.tuples(st.integers(1, 64), st.integers(1, 64))
    .map(sorted)
    .map(lambda s: f"{s[0] * 32}:{s[1] * 32}"),
    "fold": st.tuples(st.integers(1, 100), st.integers(2, 100))
    .map(lambda pair: (min(pair), max(pair)))
    .map(lambda pair: f"{pair[0]}/{pair[1]}"),
    "track": st.one_of(
        st.booleans(),
        st.just("none"),
        st.lists(st.sampled_from(sorted(TRACKERS)), min_size=1, unique=True).map(",".join),
    ),
    "data": st.one_of(
        st.text(string.ascii_letters + " /äß-'\"\\#=.", min_size=1).map(Path),
        st.sampled_from(["s3://bucket/shards", "gs://a/b", "https://host:8/x"]),
    ),
}
words = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=20)


def _edge(bound: Any) -> Any:
    return getattr(bound, type(bound).__name__.lower())


def values(name: str) -> st.SearchStrategy[Any]:
    """Valid values of a setting, but for what it has to agree on with others."""
    field = FIELDS[name]
    options = [each for each in get_args(field.annotation) if each is not type(None)]
    kind = options[0] if type(None) in get_args(field.annotation) else field.annotation
    least = next((_edge(bound) for bound in field.metadata if isinstance(bound, Ge | Gt)), None)
    most = next((_edge(bound) for bound in field.metadata if isinstance(bound, Le | Lt)), None)
    open_below, open_above = (any(isinstance(bound, kind) for bound in field.metadata) for kind in (Gt, Lt))
    if name in GRAMMAR:
        return GRAMMAR[name]
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(least, most - open_above if most is not None else 2**40)
    if kind is float:
        return st.floats(least, most, exclude_min=open_below, exclude_max=open_above, allow_infinity=False)
    if kind is Path:
        return words.filter(lambda text: "\0" not in text).map(Path)
    if kind is str:
        return words
    if name == "crop_scale":
        return st.tuples(*[st.floats(0, 1, exclude_min=True)] * 2).map(sorted).map(tuple)
    return st.sampled_from(get_args(kind))


@st.composite
def given_settings(draw: st.DrawFn) -> dict[str, Any]:
    """Some settings, as a person gives them, that go together."""
    names = draw(st.sets(st.sampled_from(sorted(FIELDS)), max_size=12))
    chosen = {name: draw(values(name)) for name in sorted(names)}
    try:
        TrainConfig(**chosen)
    except ValidationError as error:
        assume(error.errors()[0]["loc"] != ())  # a contradiction between settings: try others
        raise
    return chosen


def as_arguments(settings: dict[str, Any]) -> list[str]:
    line = []
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            line.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, tuple):
            line += [flag, *map(str, value)]
        else:
            line.append(f"{flag}={value}")
    return line


def parsed(line: list[str]) -> dict[str, Any]:
    """Return the settings that `fasttrain train` parses from these arguments."""
    caught: dict[str, Any] = {}

    def command(**given: Any) -> None:
        caught.update(given)

    app = typer.Typer()
    app.command()(with_settings(command, FIELDS))
    get_command(app).main(with_current_track_option(line), standalone_mode=False)
    return caught


@given(given_settings())
def test_plain_and_toml_are_read_back_the_same(tmp_path_factory: Any, settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings)
    plain = config.plain()
    assert resolve(plain) == config
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_text(tomli_w.dumps(plain), encoding="utf-8")
    again = read_toml(path)
    assert again == plain and resolve(again) == config
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@given(given_settings())
def test_the_command_line_says_the_same_as_python(settings: dict[str, Any]) -> None:
    given = parsed(as_arguments(settings))
    assert {name for name, value in given.items() if value is not None} == set(settings), "the rest is not given"
    assert resolve(given) == TrainConfig(**settings)


@given(given_settings(), given_settings())
def test_the_command_line_wins_over_the_file(file: dict[str, Any], line: dict[str, Any]) -> None:
    try:
        expected = TrainConfig(**{**file, **line})
    except ValidationError:
        assume(False)
    assert resolve(file, parsed(as_arguments(line))) == expected


BOUNDS = [
    (name, bound, kind)
    for name, field in FIELDS.items()
    for bound in field.metadata
    for kind in (Ge, Le, Gt, Lt)
    if isinstance(bound, kind)
]


@pytest.mark.parametrize(("name", "bound", "kind"), BOUNDS, ids=lambda each: str(each) if isinstance(each, str) else "")
def test_what_lies_beyond_a_bound_is_refused_in_one_line(name: str, bound: Any, kind: Any) -> None:
    edge = _edge(bound)
    beyond = {Gt: edge, Lt: edge, Ge: edge - 1, Le: edge + 1}[kind]
    with pytest.raises(UserError, match=f"settings: {name} = .* is out of range") as caught:
        resolve({name: beyond})
    assert "\n" not in str(caught.value)
