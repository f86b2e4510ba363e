"""Shards made by several machines are, byte for byte, those of one."""

from __future__ import annotations

import os
import shutil

import pytest

from fasttrain.errors import UserError
from fasttrain.shards import destination
from fasttrain.shards import merge as merging
from fasttrain.shards.convert import convert, convert_part
from fasttrain.shards.merge import merge
from fasttrain.shards.settings import ShardSettings

SETTINGS = ShardSettings(cut="none", shard_size=5)


def alone(mixed, out):
    convert(mixed, out, cut="none", shard_size=5, progress=False)
    return out


def parts(mixed, out, numbers=(1, 2, 3), count=3, settings=SETTINGS):
    for number in numbers:
        convert_part(mixed, out, f"{number}/{count}", settings, progress=False)
    return out


def test_three_machines_write_what_one_writes(mixed, tmp_path, folder_of):
    out = parts(mixed, tmp_path / "parts", (1, 2))
    shutil.copytree(mixed, tmp_path / "copied" / mixed.name)  # the third one has a copy of the photographs
    parts(tmp_path / "copied" / mixed.name, out, (3,))
    each = [{path.name for path in (out / f"part-{number}-of-3").glob("*.tar")} for number in (1, 2, 3)]
    assert all(each) and not each[0] & each[1] and not each[1] & each[2] and not each[0] & each[2]
    manifest = merge(out)
    assert manifest.index.samples == manifest.counts["stored"] > 20
    assert folder_of(out) == folder_of(alone(mixed, tmp_path / "alone"))
    assert not [path for path in out.iterdir() if path.is_dir()]
    assert merge(out) == manifest, "a second time there is nothing to do"


@pytest.mark.slow
def test_more_machines_than_shards(mixed, tmp_path, folder_of):
    out = parts(mixed, tmp_path / "parts", range(1, 10), 9)
    merge(out)
    assert folder_of(out) == folder_of(alone(mixed, tmp_path / "alone"))


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("kill_at", range(0, 14, 3))
@pytest.mark.slow
def test_a_merge_that_is_killed_goes_on(mixed, tmp_path, folder_of, monkeypatch, links, kill_at):
    out = parts(mixed, tmp_path / "parts", (1, 2), 2)
    calls = 0

    def killed(*arguments):
        nonlocal calls
        calls += 1
        if calls > kill_at:
            raise KeyboardInterrupt
        return real(*arguments)

    name = "_link" if links else "atomic_write_bytes"
    real = getattr(destination, name)
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links")))
    with monkeypatch.context() as patch:
        patch.setattr(destination, name, killed)
        with pytest.raises(KeyboardInterrupt):
            for _ in range(20):
                merge(out)
                raise KeyboardInterrupt  # it was done before the kill
    merge(out)
    assert folder_of(out) == folder_of(alone(mixed, tmp_path / "alone"))


def test_a_killed_merge_of_other_parts_leaves_nothing_in_the_next_one(mixed, tmp_path, folder_of, monkeypatch):
    """The shards have the same names."""
    out = parts(mixed, tmp_path / "parts", settings=ShardSettings(cut="none", shard_size=5, max_size=32))
    with monkeypatch.context() as patch:
        patch.setattr(merging, "assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            merge(out)
    assert len(list(out.glob("train-*.tar"))) > 2
    for folder in out.glob("part-*"):
        shutil.rmtree(folder)
    parts(mixed, out)
    merge(out)
    assert folder_of(out) == folder_of(alone(mixed, tmp_path / "alone"))


def test_what_does_not_fit_is_said_in_one_line(mixed, tmp_path):
    with pytest.raises(UserError, match="no parts"):
        merge(tmp_path / "parts")
    out = parts(mixed, tmp_path / "parts", (1, 3))
    with pytest.raises(UserError, match="lacks part-2-of-3"):
        merge(out)
    parts(mixed, out, (2,), settings=ShardSettings(cut="none", shard_size=5, quality=80))
    with pytest.raises(UserError, match="part-2-of-3 was made from other photographs or settings"):
        merge(out)
    shutil.rmtree(out / "part-2-of-3")
    parts(mixed, out, (2,))
    next((out / "part-2-of-3").glob("*.tar")).unlink()
    with pytest.raises(UserError, match="isn't finished"):
        merge(out)
    parts(mixed, out, (2,))
    merge(out)
    with pytest.raises(UserError, match="holds a complete data set"):
        convert_part(mixed, out, "1/3", SETTINGS, progress=False)
    for wrong in ("0/3", "4/3", "3", "a/b", "1/0"):
        with pytest.raises(UserError, match="--part"):
            convert_part(mixed, tmp_path / "new", wrong, SETTINGS, progress=False)


def test_from_the_command_line(mixed, tmp_path):
    from typer.testing import CliRunner

    from fasttrain.cli import app

    def run(*arguments):
        return CliRunner().invoke(app, [str(each) for each in arguments])

    out = tmp_path / "out"
    for part in ("1/2", "2/2"):
        result = run("convert", "--source", mixed, "--out", out, "--part", part, "--cut", "none")
        assert result.exit_code == 0 and "fasttrain merge" in result.output, result.exception
    result = run("merge", out)
    assert result.exit_code == 0 and "next: fasttrain train " in result.output


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--format", "nonsense"), "--format nonsense: 'nonsense' is neither tar nor beton; give tar or tar,beton"),
        (("--format", "betonx"), "--format betonx: 'betonx' is neither tar nor beton; give tar or tar,beton"),
        (("--format", ""), "--format : '' is neither tar nor beton; give tar or tar,beton"),
        (("--format", "tar,beton", "--raw", "--max-size", 64), "--format tar,beton needs JPEGs"),
        (("--quality", 0), "--quality 0"),
        (("--cut", "some"), "--cut some"),
        (("--max-size", 1), "--max-size 1"),
        (("--shard-size", 0), "--shard-size 0"),
        (("--val-fraction", 1), "--val-fraction 1"),
        (("--seed", -1), "--seed -1"),
        (("--workers", 0), "--workers 0"),
        (("--raw",), "--raw without --max-size"),
        (("--out", "s3://"), "--out s3://: give a bucket and a folder in it"),
        (("--out", "nothing://bucket/shards"), "nothing://bucket/shards: Protocol not known"),
    ],
    ids=lambda each: " ".join(map(str, each)) if isinstance(each, tuple) else "",
)
@pytest.mark.parametrize("part", [(), ("--part", "1/2")], ids=["alone", "part"])
def test_a_wrong_option_is_one_line_with_a_part_too(mixed, tmp_path, monkeypatch, capfd, options, why, part):
    from fasttrain.cli import main

    monkeypatch.chdir(tmp_path)
    line = ["fasttrain", "convert", "--source", mixed, "--out", tmp_path / "out", *part, *options]
    monkeypatch.setattr("sys.argv", [str(each) for each in line])
    with pytest.raises(SystemExit) as left:
        main()
    said = capfd.readouterr().err
    assert left.value.code == 2 and said.startswith(f"fasttrain: {why}") and said.count("\n") == 1, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixed"], "nothing was made"
