"""The `fasttrain` command line. Each command imports its modules only when it runs, so `--help` answers at once."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

import typer

from fasttrain.cli.convert import convert, merge
from fasttrain.cli.doctor import doctor
from fasttrain.cli.evaluate import evaluate
from fasttrain.cli.export import export
from fasttrain.cli.init import init
from fasttrain.cli.inspect import inspect
from fasttrain.cli.late import SettingsCommand
from fasttrain.cli.lr_find import lr_find_command
from fasttrain.cli.models import models
from fasttrain.cli.paths import with_user_paths
from fasttrain.cli.predict import predict
from fasttrain.cli.preview import preview_command
from fasttrain.cli.profile import profile_command
from fasttrain.cli.push import push
from fasttrain.cli.register import register
from fasttrain.cli.replay import replay
from fasttrain.cli.run_option import RunCommand
from fasttrain.cli.runs import compare, runs
from fasttrain.cli.serve import serve
from fasttrain.cli.similar import similar
from fasttrain.cli.streams import discard_stdout, open_closed_streams, stdout_failed, write_by_line
from fasttrain.cli.suggest import missing_checkpoint, options_of, suggestion
from fasttrain.cli.train import train_command, with_current_track_option
from fasttrain.cli.tune import tune_command
from fasttrain.cli.ui import ui
from fasttrain.cores import set_up_openmp
from fasttrain.environment import is_rank
from fasttrain.errors import STDOUT, FasttrainError, InternalError, Stopped, UserError, fixable, internal, one_line
from fasttrain.machine import NOT_ON_WINDOWS, WINDOWS
from fasttrain.version import __version__


def _with_hyphens(name: str) -> str:
    """Return an option's `name` with hyphens for underscores, so that it may be typed as in TOML and Python."""
    return name.replace("_", "-")


app = typer.Typer(
    name="fasttrain",
    help="Trains image classifiers on photographs, and decodes only the part of each that its crop shows. "
    "Begin with `fasttrain convert FOLDER`, then run `fasttrain train --amp`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_USAGE_ERROR: Any = typer.BadParameter.__base__  # typer doesn't export this class
DEBUG = typer.Option(False, "--debug", help="show a stack trace when something fails")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fasttrain {__version__}")
        raise typer.Exit


VERSION_OPTION = typer.Option(
    False, "--version", "-V", help="print the version", callback=_print_version, is_eager=True
)


@app.callback(context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": _with_hyphens})
def common(debug: bool = DEBUG, version: bool = VERSION_OPTION) -> None:
    if debug:
        os.environ["FASTTRAIN_DEBUG"] = "1"


_COMMANDS: dict[str, Callable[..., None] | SettingsCommand] = {
    "convert": convert,
    "merge": merge,
    "init": init,
    "inspect": inspect,
    "preview": preview_command(),
    "models": models,
    "train": train_command(),
    "profile": profile_command(),
    "replay": replay,
    "evaluate": evaluate,
    "predict": predict,
    "serve": serve,
    "similar": similar,
    "export": export,
    "push": push,
    "register": register,
    "lr-find": lr_find_command(),
    "tune": tune_command(),
    "runs": runs,
    "compare": compare,
    "ui": ui,
    "doctor": doctor,
}
_WITH_RUN_FIRST = ("serve", "push", "register")
for _name, _command in _COMMANDS.items():
    if isinstance(_command, SettingsCommand):
        _command.add_to(app, _name)
    else:
        app.command(name=_name, cls=RunCommand if _name in _WITH_RUN_FIRST else None)(with_user_paths(_command))


def main() -> None:
    """Run the command line and exit.

    The exit code is 0 for success, 1 for an internal error, 2 for an error that the user can fix, 75 if SIGTERM has
    stopped a run that can be resumed, 130 for Ctrl-C, and 141 if the program that reads the output has ended.
    """
    # Accept `--debug` anywhere on the line, as people append it to the command that has just failed.
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if len(arguments) < len(sys.argv) - 1:
        os.environ["FASTTRAIN_DEBUG"] = "1"
    arguments = with_current_track_option(arguments)
    set_up_openmp()
    open_closed_streams()
    write_by_line()
    debug = bool(os.environ.get("FASTTRAIN_DEBUG"))
    if not debug:
        sys.unraisablehook = lambda _: None  # hide errors that incomplete loaders raise when they are freed
    if not is_rank():  # a rank may wait in C++ for the others, and Python runs no signal handler meanwhile
        signal.signal(signal.SIGTERM, _terminated)
        atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)  # else Python restores the default as it exits
    if WINDOWS and arguments[:1] in (["convert"], ["train"]):
        print(f"fasttrain: {NOT_ON_WINDOWS}", file=sys.stderr)
    try:
        _run(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        discard_stdout()
        sys.exit(141)
    except Exception as error:
        if debug:
            traceback.print_exc()
        nameless = isinstance(error, OSError) and error.filename is None
        error = fixable(error, STDOUT if nameless and stdout_failed() else None) or error
        is_bug = not isinstance(error, FasttrainError) or type(error) is InternalError
        message = internal(error) if is_bug else one_line(error)
        with contextlib.suppress(OSError):
            print(f"fasttrain: {message}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, FasttrainError) else InternalError.exit_code)


def _terminated(number: int, frame: FrameType | None) -> None:
    # Work that can be resumed handles the signal by StopRequest. Here only a little time is lost.
    with contextlib.suppress(Exception):
        os.write(2, b"fasttrain: stopped by SIGTERM; run the same command again\n")
    raise SystemExit(Stopped.exit_code)


def _explained(error: Any, arguments: list[str]) -> str:
    """Return the message for a mistake in `arguments`. For an unknown option it has the most similar one."""
    kind = type(error).__name__
    if kind == "NoSuchOption" and error.ctx is not None:
        return f"{error.message}{suggestion(error.option_name, options_of(error.ctx.command))}"
    if kind == "MissingParameter" and error.param is not None and error.param.name == "checkpoint":
        return missing_checkpoint(error.param.opts[0], arguments)
    return str(error.format_message().rstrip(".").replace(". Did you mean", "; did you mean"))


def _run(arguments: list[str]) -> None:
    """Run the command and exit. Raises UserError for a mistake on the command line, OSError if printing fails."""
    try:
        sys.exit(app(args=arguments, prog_name="fasttrain", standalone_mode=False) or 0)
    except _USAGE_ERROR as error:
        if not arguments:  # typer shows the help by raising an error
            error.show()
            sys.exit(2)
        line = " ".join(["fasttrain", *arguments[: _with_hyphens(arguments[0]) in _COMMANDS], "--help"])
        told = _explained(error, arguments)
        raise UserError(f"{told} See {line}" if told.endswith("?") else f"{told}; see {line}") from error
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer turns it into exit code 1
            raise end.__context__ from None
        sys.stdout.flush()
        if signal.getsignal(signal.SIGTERM) is _terminated:  # the work is done: keep the exit code during the clean-up
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            signal.signal(signal.SIGTERM, lambda number, frame: os._exit(code))
        raise
