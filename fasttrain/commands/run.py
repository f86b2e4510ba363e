"""`Run`: train, evaluate and save a run, epoch by epoch."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.commands.averaging import average_best
from fasttrain.commands.epoch_record import epoch_record
from fasttrain.commands.final_evaluation import evaluate_weights
from fasttrain.commands.finish import print_result, write_result
from fasttrain.commands.provenance import Provenance, tags_of
from fasttrain.commands.run_files import previous_tracking, reset_best, restore_best, restore_files, start_tracker
from fasttrain.commands.timed import Timed
from fasttrain.config.resuming import lasting
from fasttrain.device import release_memory
from fasttrain.errors import Stopped, of_os, remember_trace
from fasttrain.evaluation.of_spec import AnyEvaluation, AnyPredictions, evaluate_split
from fasttrain.files import clear_temporaries
from fasttrain.loaders.base import Loader
from fasttrain.model.hub import hub_model, repository
from fasttrain.ranks import StepAgreement
from fasttrain.report.summary import epoch_line
from fasttrain.stop import StopRequest
from fasttrain.terminal import tell
from fasttrain.text import counted
from fasttrain.tracking.tracker import NullTracker
from fasttrain.training.batch_size import too_large
from fasttrain.training.callback import Callback, Callbacks
from fasttrain.training.diverged import kept_if_diverged
from fasttrain.training.linear_probe import Batches, solve_epoch
from fasttrain.training.logfile import RunLog
from fasttrain.training.loop import require_finite_validation, train_epoch
from fasttrain.training.pace import clock
from fasttrain.training.parts import RunParts
from fasttrain.training.phases import begin_refit, keep_initial, prepare_epoch, train_everything
from fasttrain.training.progress import EpochProgress
from fasttrain.training.refused import refused
from fasttrain.training.result import TrainResult
from fasttrain.training.saving import Saving
from fasttrain.training.state import HEAD, REFIT
from fasttrain.training.step import Step
from fasttrain.training.trace import Trace
from fasttrain.training.warm_up import warm_up

log = logging.getLogger("fasttrain")

AfterEpoch = Callable[[Mapping[str, Any]], "bool | None"]
"""A function that is called after each epoch with its record, as in `TrainResult.history`. It returns True to end the
run early."""


class Run:
    """Trains one run from its first epoch to its result, and writes it to its folder."""

    def __init__(
        self,
        parts: RunParts,
        folder: RunFolder,
        saving: Saving,
        console: Console,
        stop: StopRequest,
        after_epoch: AfterEpoch | None,
        tags: Mapping[str, str],
        callbacks: Sequence[Callback] | None,
        provenance: Provenance | None,
        began: float,
    ) -> None:
        """Create a run of `parts`. `began`: the value of `clock` when the command began."""
        self.began = began
        self.provenance = provenance
        self.parts, self.folder, self.saving, self.console = parts, folder, saving, console
        self.start, self.config, self.ranks, self.state = parts.start, parts.config, parts.ranks, parts.state
        self.stop, self.after_epoch, self.tags = stop, after_epoch, tags
        self.timed = Timed(parts)
        self.callbacks = Callbacks(callbacks, parts, folder.path)
        self.ended = self.traced = False
        self.tracked: dict[str, Any] = {"mlflow_run_id": None, "journal": None}

    def describe(self) -> None:
        """Print the run's folder, its parts, and the settings that differ from the defaults."""
        verb, settings = "resuming" if self.start.checkpoint else "run", self.config.plain()
        tell(self.console, verb, {"folder": self.folder.path}, Text.assemble((verb, "bold"), f" {self.folder.path}"))
        self.parts.describe(self.console)
        changed = [f"{name}={settings[name]}" for name in self.config.changed(settings)]
        line = f"settings: {'  '.join(changed)}{'; ' if changed else ''}defaults for the others (all in config.toml)"
        tell(self.console, "settings", settings, Text(line, style="dim"), wrap=True)
        for change in self.start.changed:
            self.console.print(Text.assemble(("changed since the checkpoint: ", "yellow"), change))
        if self.config.resume == "auto" and not self.start.checkpoint:
            self.console.print(f"no unfinished run to resume in {self.config.out}: starting a new run")

    def run(self) -> TrainResult:
        """Train until the run ends, and return its result. Raises Stopped (SIGTERM) or KeyboardInterrupt (Ctrl-C)."""
        handler = RunLog(self.folder.log, self._warn) if self.ranks.main else logging.NullHandler()
        logging.getLogger().addHandler(handler)
        try:
            for line in self.start.torn:
                self.parts.warn(line)
            if self.ranks.main:
                self.tracked = previous_tracking(self.start)
            with start_tracker(self.parts, self.folder.path, self.tracked, self.tags, self._warn) as tracker:
                self._prepare(tracker)
                self.callbacks.train_start()
                self._train()
                if self.config.refit and self.state.phase != REFIT:
                    self._begin_refit()
                    self._train()
                return self._finish()
        except Exception as error:
            self.saving.settle()
            log.exception("the run in %s failed", self.folder.path)
            if isinstance(handler, RunLog) and handler.kept:
                remember_trace(error, self.folder.log)
            explained = too_large(error, self.parts, self.folder.path) or refused(error, self.folder)
            raise explained or error from error.__cause__
        finally:
            self.parts.loaders.close()
            release_memory(self.parts.device)
            logging.getLogger().removeHandler(handler)
            handler.close()

    def _train(self) -> None:
        while not (self.ended or self.parts.is_trained or self.timed.before_epoch()):
            with kept_if_diverged(self.parts, self.folder.path):
                self._one_epoch()

    def _begin_refit(self) -> None:
        self.ended, self.callbacks.view.stopped_by = False, None
        self._say(begin_refit(self.parts))

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

    def _warn(self, line: str) -> None:
        self.console.print(line, style="yellow", soft_wrap=True)

    def _prepare(self, tracker: NullTracker) -> None:
        self.tracker = tracker
        if self.start.checkpoint:
            self._resume(self.start.checkpoint)
        else:
            keep_initial(self.parts)
        if self.provenance is not None:
            start = self.provenance.to_dict(self.state.step)
            self.folder.add_start(start)
            self.tracker.set_tags({**tags_of(start), **self.tags})
        if self.ranks.main:
            self.folder.write_config(lasting(self.config.plain()))
            self.folder.write_classes(self.parts.shards.classes)
            self.folder.write_model_spec(self.parts.spec)
        self.parts.fold_frozen()
        self.timed.begin()
        if self.parts.on_features and not self.parts.head_is_trained:
            self.parts.enter_features(self._stoppable, self._say)

    def _resume(self, checkpoint: dict[str, Any]) -> None:
        """Load `checkpoint`, and make the run's files match it, as they may be of a later step or a finished run."""
        state, start = self.state, self.start
        state.load_state_dict(checkpoint, self.ranks)
        more_epochs = start.before is not None and self.config.epochs > start.before.epochs
        if state.early_stopping.should_stop and more_epochs:
            state.early_stopping.waited = 0
        if "callbacks" in checkpoint:
            self.callbacks.load_state_dict(checkpoint["callbacks"], more_epochs=more_epochs)
            self.ended = self.callbacks.stopping and state.at_end_of_epoch
        if not self.ranks.from_main(lambda: restore_best(state, self.folder, start.went_back)):
            if self.ranks.main:
                self.parts.warn(
                    f"the weights of epoch {state.early_stopping.best_epoch + 1}, the best one, are lost, as an older "
                    "version of fasttrain saved this run; only later epochs can become the best now"
                )
            reset_best(state, self.ranks.main)
        if self.ranks.main:
            clear_temporaries(self.folder.path)
            clear_temporaries(self.folder.checkpoints)
            self.folder.reopen()
        # If the run is killed from here on, `--resume auto` must find the requested step and settings.
        if start.changed or start.went_back:
            self._save()
            self.saving.wait()
        if self.ranks.main:
            restore_files(state, self.folder)
            self.tracker.sync()

    def _save(self) -> None:
        self.saving.save(
            {
                **self.state.state_dict(self.ranks),
                "config": lasting(self.config.plain()),
                "shards": self.parts.shards.fingerprint,
                "mlflow_run_id": self.tracker.run_id or self.tracked["mlflow_run_id"],
                "journal": self.tracker.uuid or self.tracked["journal"],
                **({"teacher": teacher.identity} if (teacher := self.parts.step.teacher) else {}),
                **({"callbacks": self.callbacks.state_dict()} if self.callbacks else {}),
                **({"hub": hub_model(self.config.model).to_dict()} if repository(self.config.model) else {}),
            }
        )
        self.callbacks.checkpoint(self.saving.wait)

    def _one_epoch(self) -> None:
        state = self.state
        if self.parts.head_is_trained:
            train_everything(self.parts)
        prepare_epoch(self.parts)
        done = state.loader.state_dict()["samples"]
        total = min(len(state.loader.ids), len(state.loader) * self.parts.batch_size * self.ranks.size)
        if done < total:
            warm_up(self.parts, self._say)
        title = f"{'try' if self.config.linear_probe else 'epoch'} {state.epoch + 1}/{self.parts.last_epoch}"
        bar = EpochProgress(
            self.console,
            title,
            lambda: round(total * self.timed.share_of_epoch()),
            done,
            lambda: state.schedule.learning_rate,
        )
        with bar as progress:
            if self.parts.on_features:
                self._solve_head()
            else:
                with self._traced(total - done) as step:
                    if not train_epoch(state, step, agree=self._agree, after_step=self._after_step, show=progress.show):
                        total = state.totals.over(self.ranks).samples()
        learning_rate = state.schedule.learning_rate
        self.ranks.share(state.evaluated_model.buffers())
        validation = None if state.phase == REFIT else self._validate(state.evaluated_model)
        require_finite_validation(validation, state)
        self._close_epoch(total, learning_rate, validation)

    def _solve_head(self) -> None:
        solved = solve_epoch(
            self.state, self.parts.step.criterion, self.parts.l2, stop_requested=lambda: self._agree().stop is not None
        )
        if not solved and (stop := self._agree().stop):
            self._stop(stop)

    @contextmanager
    def _traced(self, images: int) -> Iterator[Step]:
        """Yield the step function for an epoch with `images` photographs left, traced if --profile asks for it."""
        if not (self.config.profile and self.ranks.main) or self.traced or images <= 0:
            yield self.parts.step
            return
        self.traced = True
        steps = -(-images // (self.parts.batch_size * self.ranks.size * self.config.grad_accumulation))
        with Trace(self.parts.device, steps, self.config.grad_accumulation, self._write_trace) as trace:
            yield replace(self.parts.step, phase=trace.phase)

    def _write_trace(self, export: Callable[[str], None]) -> None:
        try:
            self.folder.write_trace(export)
        except OSError as error:
            self.parts.warn(f"the trace could not be written ({of_os(error, self.folder.trace)}); the run continues")

    def _agree(self, samples: int = 0, weight: float = 0.0) -> StepAgreement:
        started = self.state.epoch_seconds > 0 or self.state.at_end_of_epoch  # an epoch can't end without a step
        ended = started and (self.callbacks.stopping or self.timed.done)
        agreed = self.ranks.agree(self.stop.requested, samples, weight, self.saving.overdue, ended)
        if 0 < agreed.samples < self.parts.batch_size * self.ranks.size * self.config.grad_accumulation:
            self.ranks.share(self.state.model.buffers())  # BatchNorm reads them if a rank has a single sample
        return agreed

    def _after_step(self, agreement: StepAgreement) -> None:
        self.tracker.begin()
        self.timed.after_step()
        self.callbacks.step_end()
        if stop := agreement.stop:
            self._stop(stop)
        if self.saving.due(self.state.step, agreement.overdue):
            self._save()

    def _stop(self, requested: signal.Signals) -> None:
        """Save a checkpoint. Then raise KeyboardInterrupt if SIGINT was `requested`, otherwise Stopped."""
        self._save()
        line = f"saved {self.saving.wait()}; resume with: {self._resume_command()}"
        tell(self.console, "stopped", {"signal": requested.name, "folder": self.folder.path}, line)
        if requested is signal.SIGINT:
            raise KeyboardInterrupt
        raise Stopped(f"stopped by {requested.name}; {line}")

    def _resume_command(self) -> str:
        """Return the command that resumes this run, or a Python call if it got a model or callbacks from Python."""
        model = "" if self.start.model is None else ", model=…"
        if model or self.callbacks:
            callbacks = ", callbacks=[…]" if self.callbacks else ""
            return f"fasttrain.train(resume='{self.folder.path}'{model}{callbacks})"
        return f"fasttrain train --resume {self.folder.path}"

    def _stoppable(self, batches: Batches) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield the `batches` of a validation unchanged. If the run is asked to stop, save it between two batches.

        The checkpoint holds the epoch as trained, so a resumed run begins with the epoch's validation.
        """
        for batch in batches:
            if stop := self._agree().stop:
                self._stop(stop)
            yield batch

    def _evaluate(
        self, model: torch.nn.Module, loader: Loader, *, stoppable: bool = False, **options: Any
    ) -> tuple[AnyEvaluation, AnyPredictions]:
        return evaluate_split(
            model,
            self._stoppable(loader) if stoppable else loader,
            self.parts.spec,
            device=self.parts.device,
            preprocess=self.parts.step.preprocess,
            autocast=self.parts.step.autocast,
            ranks=self.ranks,
            **options,
        )

    def _total_seconds(self) -> float | None:
        return clock() - self.began if self.start.checkpoint is None else None

    def _validate(self, model: torch.nn.Module) -> AnyEvaluation:
        return self._evaluate(model, self.parts.loaders.val, stoppable=True)[0]

    def _judge(self, validation: AnyEvaluation | None) -> bool:
        """Return whether the epoch is the best so far. If it is, keep its weights."""
        state = self.state
        if validation is None:
            return False
        monitored = self.config.monitored.of(validation)
        improved = state.early_stopping.update(state.epoch, monitored)
        if state.phase == HEAD:
            state.early_stopping.waited = 0  # early stopping counts from the first epoch that trains the entire model
        elif not self.config.linear_probe:
            state.schedule.after_epoch(monitored)
        if improved and self.ranks.main:
            state.keep_best(apart=bool(self.callbacks))
            self.folder.write_model(state.evaluated_model)
        state.offer(monitored, self.ranks.main)
        return improved

    def _close_epoch(self, images: int, learning_rate: float, validation: AnyEvaluation | None) -> None:
        state = self.state
        improved = self._judge(validation)
        record = epoch_record(self.parts, images, learning_rate, validation, improved)
        self.callbacks.epoch_end(record)
        state.history.append(record)
        state.seconds += state.epoch_seconds
        state.epoch += 1
        state.epoch_seconds = state.epoch_wait = 0.0
        state.totals = state.totals.begin_anew()
        state.loader.set_epoch(state.epoch)
        self._save()
        if self.ranks.main:
            self.folder.write_history(state.history)
        self.tracker.sync()
        tell(
            self.console,
            "epoch",
            record,
            epoch_line(record, epochs=self.parts.last_epoch, monitored=self.config.monitored.short),
        )
        if (after_epoch := self.after_epoch) is not None:
            self.ended = self.ranks.from_main(lambda: bool(after_epoch(record)))
        agreed = self._agree()
        if agreed.stop:
            self._stop(agreed.stop)
        self.ended |= agreed.ended

    def _finish(self) -> TrainResult:
        began = time.perf_counter()
        state = self.state
        if state.early_stopping.should_stop and state.epoch < self.config.epochs:
            waited = state.early_stopping.waited
            self._say(f"early stopping: no improvement of {self.config.monitor} for {counted(waited, 'epoch')}")
        if summary := self.timed.summary():
            self._say(summary)
        if self.callbacks.stopping:
            self._say(f"stopped by {self.callbacks.view.stopped_by}")
        if not self.config.linear_probe:
            self.parts.leave_features()  # needed if a callback has ended the run during head_epochs
        loaders = self.parts.loaders
        split, loader = ("test", loaders.test) if loaders.test else ("val", loaders.val)
        averaged = average_best(self.parts, self.folder, self._validate, self._say)
        best = state.evaluated_model
        if self.ranks.main and state.phase != REFIT:
            self.folder.read_model(best)
        elif self.ranks.main:
            self.folder.write_model(best)
        self.ranks.share(best.state_dict().values())
        if self.start.model is not None and best is not state.model:
            state.model.load_state_dict(best.state_dict())
        evaluation, kept = evaluate_weights(self.parts, best, split, loader, self._evaluate)
        result = TrainResult(
            folder=self.folder.path,
            history=state.history,
            best_epoch=state.early_stopping.best_epoch + 1,
            evaluation=evaluation,
            seconds=state.seconds + time.perf_counter() - began,
            monitor=self.config.monitor,
            averaged=averaged,
            refit_epochs=state.epoch - state.phase_epoch if state.phase == REFIT else 0,
            mlflow_run_id=self.tracker.wait_for_run(),
            total_seconds=self._total_seconds(),
        )
        self.saving.wait()
        if self.ranks.main:
            write_result(result, kept, split, self.parts, self.folder, self.tracker, self.console)
        self.callbacks.train_end(result)
        result = replace(result, total_seconds=self._total_seconds())
        if self.ranks.main:
            print_result(result, split, self.parts, self.folder, self.tracker, self.console)
        return result
