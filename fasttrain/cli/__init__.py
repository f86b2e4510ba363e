"""The `fasttrain` command. Commands import what they need when they run, so `--help` answers at once."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import traceback
from types import FrameType

import typer

from fasttrain.cli.convert import convert, merge
from fasttrain.cli.doctor import doctor
from fasttrain.cli.evaluate import evaluate
from fasttrain.cli.export import export
from fasttrain.cli.inspect import inspect
from fasttrain.cli.lr_find import lr_find_command
from fasttrain.cli.predict import predict
from fasttrain.cli.preview import preview_command
from fasttrain.cli.profile import profile_command
from fasttrain.cli.replay import replay
from fasttrain.cli.runs import compare, runs
from fasttrain.cli.streams import discard_stdout, open_closed_streams, stdout_refuses
from fasttrain.cli.train import train_command
from fasttrain.cli.tune import tune_command
from fasttrain.cli.ui import ui
from fasttrain.errors import STDOUT, FasttrainError, Stopped, mendable

app = typer.Typer(
    name="fasttrain",
    help="Trains image classifiers; the data pipeline never makes the accelerator wait. "
    "First `fasttrain convert`, then `fasttrain train --amp`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
DEBUG = typer.Option(False, "--debug", help="show a stack trace when something fails")


@app.callback()
def common(debug: bool = DEBUG) -> None:
    if debug:
        os.environ["FASTTRAIN_DEBUG"] = "1"


app.command()(convert)
app.command()(merge)
app.command()(inspect)
app.command(name="preview")(preview_command())
app.command(name="train")(train_command())
app.command(name="profile")(profile_command())
app.command()(replay)
app.command()(evaluate)
app.command()(predict)
app.command()(export)
app.command(name="lr-find")(lr_find_command())
app.command(name="tune")(tune_command())
app.command()(runs)
app.command()(compare)
app.command()(ui)
app.command()(doctor)


def main() -> None:
    """Runs the command line: exit code 0, 1 (our fault), 2 (yours), 75 (stopped, resumable) or 130 (Ctrl-C)."""
    # `--debug` is taken anywhere on the line, as people add it to the end of what just failed.
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if len(arguments) < len(sys.argv) - 1:
        os.environ["FASTTRAIN_DEBUG"] = "1"
    open_closed_streams()
    if hasattr(sys.stdout, "reconfigure"):
        # An epoch's line must reach a log file when the epoch ends, and a file's name may be no text.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    debug = bool(os.environ.get("FASTTRAIN_DEBUG"))
    if not debug:
        sys.unraisablehook = lambda _: None  # what half-made loaders say when they are freed
    if "RANK" not in os.environ:  # a rank may wait in C++ for the others, where no handler of Python's runs
        signal.signal(signal.SIGTERM, _terminated)
        atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)  # Python would set the default while it ends
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
        error = mendable(error, STDOUT if nameless and stdout_refuses() else None) or error
        ours = not isinstance(error, FasttrainError)
        said = " ".join(str(error).split()) or type(error).__name__
        if ours:
            said = f"a fault of ours: {type(error).__name__}: {said}; --debug shows where"
        with contextlib.suppress(OSError):
            print(f"fasttrain: {said}", file=sys.stderr)
        sys.exit(1 if ours else error.exit_code)  # type: ignore[attr-defined]


def _terminated(number: int, frame: FrameType | None) -> None:
    # While work is done that can be gone on with, StopRequest has the signal; here little more is lost than time.
    with contextlib.suppress(Exception):
        os.write(2, b"fasttrain: stopped by SIGTERM; the same command starts again\n")
    raise SystemExit(Stopped.exit_code)


def _run(arguments: list[str]) -> None:
    """Runs the command, which ends in SystemExit; what it printed is written by then, or an OSError raised."""
    try:
        app(args=arguments, standalone_mode=True)
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):  # which typer makes an exit code of its own of
            raise leaving.__context__ from None
        sys.stdout.flush()
        if signal.getsignal(signal.SIGTERM) is _terminated:  # what is done is done, while Python and torch take leave
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
            signal.signal(signal.SIGTERM, lambda number, frame: os._exit(code))
        raise
