"""`tune`: search for the best learning rate, weight decay and batch size. Each trial is a complete run of `train`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.text import Text

from fasttrain.checkpoint.folder import CHECKPOINTS, FINISHED, checkpoints_of, newest_checkpoint
from fasttrain.commands.train import train
from fasttrain.config.load import read_toml, resolve
from fasttrain.config.location import user_path
from fasttrain.config.schema import TrainConfig
from fasttrain.device import choose_device, release_memory
from fasttrain.environment import require_one_process
from fasttrain.errors import Diverged, OutOfMemory, Stopped, UserError
from fasttrain.extras import require
from fasttrain.files import make_folder
from fasttrain.shards.convert import ensure_shards
from fasttrain.shards.reader import ShardSet
from fasttrain.terminal import make_console
from fasttrain.text import counted
from fasttrain.tracking.mirrored import require_trackers, start_trackers
from fasttrain.tracking.tracker import NullTracker
from fasttrain.training.data import photographs_of
from fasttrain.tuning.result import Trial, TuneResult
from fasttrain.tuning.search import STUDY, TRIALS, Space, locked_folder, open_study

if TYPE_CHECKING:
    import optuna

_SEARCHED = ("learning_rate", "weight_decay", "batch_size")
_BEGUN_AS = "begun_as"

Say = Callable[[str], None]


def tune(
    config: TrainConfig | str | Path | None = None,
    /,
    *,
    trials: int = 20,
    timeout: float | None = None,
    pruner: str = "median",
    out: str | Path = "tune",
    learning_rate_range: tuple[float, float] | None = None,
    weight_decay_range: tuple[float, float] | None = None,
    batch_sizes: tuple[int, ...] | None = None,
    console: Console | None = None,
    **settings: Any,
) -> TuneResult:
    """Search with Optuna (TPE) for the learning rate, weight decay and batch size with the highest `val/top1`.

    Each trial is a run of `train` with `config` and `settings`, which are those of `train`. The value of a trial is the
    `val/top1` of the epoch whose weights its run keeps, the best by the setting `monitor`.

    trials: the total number of trials. The study is stored in `out`/study.db. The same call continues it until it has
    so many trials, and resumes a trial that was killed from its checkpoint. timeout: start no trial after this many
    seconds. pruner: ends bad trials early, "median", "hyperband" or "none". learning_rate_range, weight_decay_range:
    (minimum, maximum), by default (1e-4, 0.1), for SGD (1e-3, 1), and (1e-6, 0.1). batch_sizes: the sizes to choose
    from, by default 32, 64 and 128. The first trial uses the learning rate, weight decay and batch size of the settings
    if all are within these ranges.

    The run of each trial is written to `out`/trials, with its output in `output.log`. In MLflow it is a child of the
    study's run. console: shows the progress; None shows nothing. Return all trials and the best one, with the command
    that trains with its settings. Raises UserError for invalid arguments, Stopped after SIGTERM and KeyboardInterrupt
    after Ctrl-C.
    """
    require("tune", "tune", "optuna")
    if isinstance(config, TrainConfig):
        settings = {**config.model_dump(exclude_unset=True), **settings}
        config = None
    require_one_process("tune starts its processes itself")
    given = {**(read_toml(Path(config)) if config else {}), **_not_none(settings)}
    for name in ("resume", "run_name"):
        if name in given:
            raise UserError(f"{name} = {given[name]!r}: tune sets this for each trial; leave it out")
    asked = resolve(given, origin=str(config or "settings"))
    require_trackers(asked.track)
    if asked.refit:
        raise UserError("refit trains a run again after the validation by which tune compares trials; leave refit out")
    if asked.linear_probe:
        raise UserError("linear_probe uses none of the settings that tune searches; leave it out")
    given = {name: asked.plain()[name] for name in given if name not in (*_SEARCHED, "out")}
    space = Space.of(asked.optimizer, learning_rate_range, weight_decay_range, batch_sizes)
    out = user_path(out)
    with locked_folder(out):
        study = open_study(out, space, pruner, asked.seed, given)
        return _Search(study, space, asked, given, out, console or make_console(quiet=True)).run(trials, timeout)


class _Search:
    """Runs the trials of one study."""

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        config: TrainConfig,
        given: dict[str, Any],
        out: Path,
        console: Console,
    ) -> None:
        self.study, self.space, self.config, self.given, self.out = study, space, config, given, out
        self.console = console
        self.shards = ShardSet.open(ensure_shards(config.data), config.cache_size)
        if self.shards.multi_label:
            raise UserError(
                f"{config.data}: tune compares val/top1, which multi-label data doesn't have; train several runs and "
                "use `fasttrain compare`"
            )

    def run(self, trials: int, timeout: float | None) -> TuneResult:
        """Run trials until the study has `trials` trials, or `timeout` seconds have passed. Return the result."""
        began = time.monotonic()
        self.console.print(f"data: {self.config.data}, {photographs_of(self.shards)}", soft_wrap=True)
        self._enqueue_killed_trials()
        given = {name: getattr(self.config, name) for name in _SEARCHED}
        if not self.study.trials and self.space.holds(given):
            self.study.enqueue_trial(given)
        if done := len(self._ended()):
            self.console.print(f"continuing {self.out / STUDY}, which has {counted(done, 'trial')}")
        with self._tracker() as tracker:
            while len(self._ended()) < trials and (timeout is None or time.monotonic() - began < timeout):
                self._one_trial(tracker, trials)
            if len(self._ended()) < trials:
                self.console.print(f"--timeout: stopped after {len(self._ended())} of {counted(trials, 'trial')}")
            result = self._result()
            if result.best is not None and result.best.top1 is not None:
                tracker.log_metrics({"val_best/top1": result.best.top1}, step=len(result.trials))
                tracker.set_tags({"best_trial": result.best.number, "best_command": result.command})
            tracker.log_artifacts(result.plots)
        return result

    def _ended(self) -> list[optuna.trial.FrozenTrial]:
        """Return the trials that have ended, but not those that were killed and that a later trial continues."""
        continued = {trial.user_attrs.get("continues") for trial in self.study.trials}
        ended = [trial for trial in self.study.trials if trial.state.is_finished() and trial.params]
        return [trial for trial in ended if trial.number not in continued]

    def _enqueue_killed_trials(self) -> None:
        """Enqueue all trials that are marked as running. They were killed, as no other process works in this folder."""
        import optuna

        for trial in self.study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            if trial.params:
                attributes = {_BEGUN_AS: _own_number(trial), "continues": trial.number}
                self.study.enqueue_trial(trial.params, user_attrs=attributes)

    def _tracker(self) -> NullTracker:
        return start_trackers(
            self.config.track,
            experiment=self.config.given_experiment,
            run_name=f"tune {self.out.resolve().name}",
            params={
                **self.given,
                "learning_rate_range": self.space.learning_rate,
                "weight_decay_range": self.space.weight_decay,
                "batch_sizes": self.space.batch_size,
            },
            tags={"study": str((self.out / STUDY).resolve())},
            folder=self.out,
            report=lambda line: self.console.print(line, style="yellow"),
        )

    def _one_trial(self, tracker: NullTracker, trials: int) -> None:
        import optuna

        trial = self.study.ask()
        drawn = self.space.draw(trial)
        width = len(str(trials))
        title = f"trial {_own_number(trial):>{width}} ({len(self._ended()) + 1:>{width}}/{trials})"
        title += f"  learning_rate {drawn['learning_rate']:.1e}  weight_decay {drawn['weight_decay']:.1e}"
        title += f"  batch_size {drawn['batch_size']:>3}"
        with self.console.status(title) as status:
            try:
                top1, pruned = self._train(trial, drawn, tracker, lambda line: status.update(f"{title}  {line}"))
            except (Diverged, OutOfMemory, torch.OutOfMemoryError) as error:  # bad settings are a result, too
                why = "diverged" if isinstance(error, Diverged) else "out of memory"
                trial.set_user_attr("why", why)
                self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
                release_memory(choose_device(self.config.device))
                self.console.print(Text.assemble(title, (f"  {why}", "yellow")), soft_wrap=True)
                return
            except (KeyboardInterrupt, Stopped):
                self.console.print(f"{title}  stopped: the same command resumes it")
                raise
        mark = ("  pruned", "yellow")
        if pruned:
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self.study.tell(trial, top1)
            mark = ("  best", "green") if self.study.best_trial.number == trial.number else ("", "")
        self.console.print(Text.assemble(f"{title}  val/top1 {top1:.2%}", mark), soft_wrap=True)
        settings = {f"train/{name}": value for name, value in drawn.items()}
        tracker.log_metrics({"val/top1": top1, **settings}, step=_own_number(trial))

    def _train(self, trial: optuna.Trial, drawn: dict[str, Any], tracker: NullTracker, say: Say) -> tuple[float, bool]:
        """Train a trial. Return the validation top-1 of the epoch that the run keeps, and whether it was pruned."""
        number = _own_number(trial)
        folder = self._folder(number)
        records: list[Mapping[str, Any]] = []
        pruned = False

        def after_epoch(record: Mapping[str, Any]) -> bool:
            nonlocal pruned
            records.append(record)
            trial.report(_kept_top1(records), record["epoch"])
            pruned = trial.should_prune() and record["epoch"] < self.config.epochs
            say(f"epoch {record['epoch']}/{self.config.epochs}  val/top1 {_kept_top1(records):.2%}")
            return pruned

        for record in _epochs_before(folder):
            after_epoch(record)
        if any(folder.glob(f"*/{FINISHED}")):  # the trial was killed after its last epoch
            return _kept_top1(records), pruned
        make_folder(folder)
        tags = {"study": str((self.out / STUDY).resolve()), "trial": str(number)}
        if parent := tracker.wait_for_run():
            tags["mlflow.parentRunId"] = parent
        resume: dict[str, Any] = {"resume": "auto"} if any(folder.glob("*/checkpoints/*")) else {}
        with (folder / "output.log").open("a", encoding="utf-8") as log:
            result = train(
                after_epoch=after_epoch,
                tags=tags,
                console=Console(file=log, width=120, markup=False),
                **{**self.given, **drawn, "out": folder, "run_name": f"trial {number}"},
                **resume,
            )
        return _kept_top1(result.history), pruned

    def _folder(self, number: int) -> Path:
        return self.out / TRIALS / f"{number:04d}"

    def _result(self) -> TuneResult:
        import optuna

        from fasttrain.tuning.plots import write_plots

        words = {optuna.trial.TrialState.COMPLETE: "complete", optuna.trial.TrialState.PRUNED: "pruned"}
        found = []
        for each in self._ended():
            tops = each.intermediate_values
            found.append(
                Trial(
                    number=_own_number(each),
                    settings=dict(each.params),
                    top1=tops[max(tops)] if tops else None,
                    epochs=max(tops, default=0),
                    state=words.get(each.state) or each.user_attrs.get("why", "failed"),
                    folder=self._folder(_own_number(each)),
                )
            )
        complete = [trial for trial in found if trial.state == "complete" and trial.top1 is not None]
        best = max(complete, key=lambda trial: trial.top1 or 0.0, default=None)
        command = _command(self.given, best.settings) if best else None
        plots = write_plots(self.study, self.out)
        return TuneResult(self.out, found, best, command, plots, len(self.shards.ids("val")))


def _own_number(trial: optuna.Trial | optuna.trial.FrozenTrial) -> int:
    """Return the number of a trial that the user sees. A resumed trial keeps the number of the killed one.

    Optuna can't resume a trial, so it gives the resumed trial a new number.
    """
    number: int = trial.user_attrs.get(_BEGUN_AS, trial.number)
    return number


def _epochs_before(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a killed trial's epochs, from the newest checkpoint in its `folder`."""
    runs = sorted(path.parent for path in folder.glob(f"*/{CHECKPOINTS}"))
    if not runs or not checkpoints_of(runs[-1]):
        return []
    records: list[dict[str, Any]] = newest_checkpoint(runs[-1]).state["history"]
    return records


def _kept_top1(records: Sequence[Mapping[str, Any]]) -> float:
    """Return the `val/top1` of the epoch whose weights `train` keeps: the last one that improved the `monitor`."""
    kept: float = next(record["val_top1"] for record in reversed(records) if record["improved"])
    return kept


def _command(given: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    words = ["fasttrain", "train"]
    for name, value in {**given, **best}.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, list):
            words += [flag, *map(str, value)]
        else:
            words += [flag, f"{value:.4g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)


def _not_none(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
