"""The `fasttrain` command. Commands import what they need when they run, so `--help` answers at once."""

from __future__ import annotations

import os
import sys
import traceback

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
from fasttrain.cli.runs import compare, runs
from fasttrain.cli.train import train_command
from fasttrain.cli.tune import tune_command
from fasttrain.cli.ui import ui
from fasttrain.errors import FasttrainError

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
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # an epoch's line must reach a log file when the epoch ends
    debug = bool(os.environ.get("FASTTRAIN_DEBUG"))
    try:
        app(args=arguments, standalone_mode=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if debug:
            traceback.print_exc()
        ours = not isinstance(error, FasttrainError)
        said = " ".join(str(error).split()) or type(error).__name__
        if ours:
            said = f"a fault of ours: {type(error).__name__}: {said}; --debug shows where"
        print(f"fasttrain: {said}", file=sys.stderr)
        sys.exit(1 if ours else error.exit_code)  # type: ignore[attr-defined]
