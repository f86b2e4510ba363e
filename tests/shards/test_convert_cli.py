from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from fasttrain.cli.convert import convert
from fasttrain.errors import UserError


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(convert)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})


def test_summary_says_what_was_made_and_what_comes_next(mixed, tmp_path, run) -> None:
    result = run("--source", mixed, "--out", tmp_path / "out", "--cut", "none", "--workers", 1)
    assert result.exit_code == 0, result.exception
    for part in (
        "train 21, val 5",
        "as-is 21",
        "re-encoded: png 2",
        str(tmp_path / "out" / "converted.tsv"),
        "img/s",
        "2 broken, 1 other file,",
        "cat/empty.jpg: empty file",
        str(tmp_path / "out" / "rejected.tsv"),
        f"fasttrain train {tmp_path / 'out'}",
    ):
        assert part in result.output
    again = run("--source", mixed, "--out", tmp_path / "out", "--cut", "none")
    assert "nothing to do" in again.output and "img/s" not in again.output


def test_options_reach_the_conversion(mixed, tmp_path, run) -> None:
    options = ("--val-fraction", 0, "--seed", 3, "--max-size", 40, "--quality", 80, "--no-optimize", "--shard-size", 5)
    options += ("--color", "keep", "--accept-damaged", 0.5)
    result = run("--source", mixed, "--out", tmp_path / "out", "--cut", "none", *options)
    assert result.exit_code == 0, result.exception
    from fasttrain.shards.format import read_manifest

    settings = read_manifest(tmp_path / "out").settings
    settings.pop("fasttrain")
    assert settings == {
        "val_fraction": 0.0,
        "seed": 3,
        "max_size": 40,
        "quality": 80,
        "cut": "none",
        "optimize": False,
        "shard_size": 5,
        "raw": False,
        "color": "keep",
        "accept_damaged": 0.5,
    }
    assert isinstance(run("--source", mixed, "--out", tmp_path / "strict", "--strict").exception, UserError)
    assert isinstance(run("--source", mixed, "--out", tmp_path / "out").exception, UserError)
    assert run("--source", mixed, "--out", tmp_path / "out", "--overwrite").exit_code == 0


def test_every_option_has_help(run) -> None:
    text = run("--help").output
    options = (
        "source out val-fraction seed max-size quality cut optimize no-optimize shard-size raw color accept-damaged "
        "workers strict skip-empty-classes overwrite append keep-duplicates-together"
    )
    for option in options.split():
        assert f"--{option}" in text
