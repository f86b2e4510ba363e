"""`~` in paths, wherever a user may write one: each option of each command, settings, and calls from Python."""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, get_args, get_type_hints

import pytest
import typer

import fasttrain
from fasttrain.cli import _COMMANDS, app
from fasttrain.cli.late import SettingsCommand
from fasttrain.config.load import read_toml, resolve
from fasttrain.config.location import NoSuchHome, cache_root, user_path
from fasttrain.config.schema import TrainConfig
from fasttrain.errors import UserError
from fasttrain.photos.sources import open_source
from fasttrain.shards.workplace import destination

NO_PATHS = {
    "color",
    *("classes", "group_by", "path_column", "label_column", "split_column"),
    *("format", "cut", "part", "loader", "split", "device", "tta", "cache_size"),
    *("on_bad_sample", "input", "experiment", "sort", "host", "compare", "pruner", "batch_sizes"),
    *(
        "shuffle",
        "fold",
        "freeze_bn",
        "progressive",
        "rand_augment",
        "model",
        "recipe",
        "optimizer",
        "scheduler",
        "loss",
    ),
    *("class_weights", "sampling", "resize_mode", "interpolation"),
    *("pattern", "track", "name", "repository"),
    *("monitor", "amp_dtype", "compile", "compile_mode", "save_every", "log_format", "run_name", "batch_size"),
}
"""Options of type str that hold no path."""

PATHS_OR_MORE = {"photographs", "data_set", "source", "out", "data", "images", "names", "resume", "teacher"}
"""Options of type str that hold a path, or a URL, a glob, a name, `auto`: what is called expands `~` in these."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


class _Entered(BaseException):
    """Ends a command where it begins."""


def _given(command: Callable[..., None], line: list[str]) -> dict[str, Any]:
    """The arguments with which `line` calls `command`, which does nothing."""
    code, found = inspect.unwrap(command).__code__, {}

    def trace(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is code:
            found.update(frame.f_locals)
            raise _Entered

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with pytest.raises(_Entered):
            app(args=line, standalone_mode=False)
    finally:
        sys.settrace(before)
    return {**found, **found.get("given", {})}


def _function(command: str) -> Callable[..., None]:
    known = _COMMANDS[command]
    return known.with_options if isinstance(known, SettingsCommand) else known


def _parameters() -> list[tuple[str, str, Any]]:
    """(command, parameter, type without None) of all that a user may write."""
    found = []
    for command in _COMMANDS:
        hints = get_type_hints(_function(command))
        for name, parameter in inspect.signature(_function(command), eval_str=True).parameters.items():
            kind = parameter.annotation if parameter.annotation is not parameter.empty else hints[name]
            kind = get_args(kind)[0] if hasattr(kind, "__metadata__") else kind
            kinds = [each for each in get_args(kind) if each is not type(None)]
            found.append((command, name, kinds[0] if type(None) in get_args(kind) else kind))
    return found


def test_every_option_of_type_str_is_known_here() -> None:
    """A new one: does it hold a path? Then its type is Path, or what is called expands `~`."""
    texts = {name for _, name, kind in _parameters() if kind in (str, list[str])}
    assert texts == NO_PATHS | PATHS_OR_MORE


def test_the_out_of_a_conversion_is_expanded(home: Path) -> None:
    assert destination("~/shards").location == home / "shards"


def test_a_bucket_has_no_home() -> None:
    pytest.importorskip("s3fs")
    assert destination("s3://bucket/~a").location == "s3://bucket/~a"


@pytest.mark.parametrize(
    ("command", "name", "kind"), [each for each in _parameters() if each[2] in (Path, list[Path])], ids=str
)
@pytest.mark.slow
def test_every_option_of_type_path_is_expanded(command: str, name: str, kind: Any, home: Path) -> None:
    click_command = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    (option,) = (each for each in click_command.params if each.name == name)
    line = [command]
    for each in click_command.params:
        if each.required or each is option:
            value = "~/x" if each is option else "x"
            line += [value] if each.param_type_name == "argument" else [f"{each.opts[0]}={value}"]
    given = _given(_function(command), line)[name]
    assert given == ([home / "x"] if kind == list[Path] else home / "x")


def test_every_path_among_the_settings_is_expanded(home: Path) -> None:
    fields = TrainConfig.model_fields.items()
    paths = [name for name, field in fields if Path in (field.annotation, *get_args(field.annotation))]
    assert {"data", "out", "weights"} <= set(paths)
    for name in (*paths, "resume", "teacher"):
        (home / "c.toml").write_text(f'{name} = "~/x"\n')
        for given in ({name: "~/x"}, read_toml(Path("~/c.toml"))):
            assert str(getattr(resolve(given), name)) == resolve(given).plain()[name] == str(home / "x")
    assert resolve({"resume": "auto"}).resume == "auto" and resolve({"data": "s3://a/~b"}).data == "s3://a/~b"


def test_a_home_that_is_not_there_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoSuchHome, match="there is no user named 'nobody-of-that-name' here"):
        user_path("~nobody-of-that-name/x")
    with pytest.raises(UserError, match="settings: ~nobody-of-that-name/x: there is no user"):
        resolve({"out": "~nobody-of-that-name/x"})
    assert user_path("~root/x") == Path("/root/x")
    Path("~$menu.jpg").touch()  # Word's and Excel's
    assert user_path("~$menu.jpg") == Path("~$menu.jpg") and user_path("a/~/b") == Path("a/~/b")
    monkeypatch.setenv("HOME", "not/absolute")
    with pytest.raises(NoSuchHome, match="set HOME"):
        user_path("~/x")


def test_the_cache_below_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTTRAIN_CACHE", raising=False)
    assert cache_root() == home / ".cache" / "fasttrain"
    monkeypatch.setenv("FASTTRAIN_CACHE", "~/c")
    assert cache_root() == home / "c"


@pytest.mark.slow
def test_from_python(home: Path, photographs: Path, shard_folder: Path, model_folder: Path) -> None:
    """Every function that the documentation shows, with each of its paths below home."""
    from fasttrain.evaluation.predict import Predictor
    from fasttrain.export.export import export
    from fasttrain.inspection.inspect import inspect as look
    from fasttrain.inspection.preview import preview
    from fasttrain.tracking.runs import find_runs

    shutil.copytree(photographs, home / "photos")
    shutil.copytree(shard_folder, home / "shards")
    run = shutil.copytree(model_folder, home / "run")
    (run / "config.toml").write_text('model = "mobilenetv2_035"\n')
    small = {"data": "~/shards", "model": "test_convnext", "pretrained": False, "image_size": 32, "batch_size": 8}
    small |= {"workers": 0, "device": "cpu"}
    fasttrain.convert("~/photos", "~/converted", workers=1, progress=False)
    assert open_source("~/photos").root == home / "photos" and (home / "converted" / "manifest.json").exists()
    fasttrain.evaluate("~/run", "~/shards", workers=0, report="~/page.html")
    assert (home / "page.html").exists()
    a_photograph = str(next(photographs.rglob("*.jpg")).relative_to(photographs))
    for image in (f"~/photos/{a_photograph}", "~/photos/*/0000.jpg"):
        assert fasttrain.predict("~/run", image)[0].image.is_relative_to(home)
    assert list(Predictor("~/run").stream(["~/photos"]))
    assert export("~/run", "torchscript", "~/m.pt", data="~/photos", photographs=2, speed=False).path == home / "m.pt"
    assert export("~/run", "torchscript", data="~/shards", photographs=2, speed=False).path == run / "model.torchscript"
    assert look("~/shards", duplicates=False, progress=False).location == str(home / "shards")
    assert preview(resolve(small), count=2).captions
    assert find_runs(["~/run"])[0].folder == run
    fasttrain.lr_find(**small, steps=20, end=1e-5, picture="~/rates.png")
    fasttrain.profile(**small, steps=1, picture="~/steps.png")
    assert (home / "rates.png").exists() and (home / "steps.png").exists()
    (home / "c.toml").write_text('out = "~/runs"\ntrack = false\nlimit_batches = 1\nepochs = 1\n')
    with pytest.raises(UserError, match=f"{home}/w.pth: no such file"):
        fasttrain.train("~/c.toml", **small, weights="~/w.pth")
    result = fasttrain.train("~/c.toml", **small)
    assert result.folder.parent == home / "runs"
    assert f'data = "{home / "shards"}"' in (result.folder / "config.toml").read_text()
    assert not list(Path.cwd().iterdir()), "a folder named ~"
