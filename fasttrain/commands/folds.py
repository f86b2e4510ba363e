"""`train --folds`: cross-validation with a run for each fold, and the out-of-fold prediction of every photograph."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.text import Text

from fasttrain.checkpoint.folder import CHECKPOINTS, FINISHED
from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.commands.train import STOPPING, train_here
from fasttrain.config.load import read_toml, resolve
from fasttrain.config.location import user_path
from fasttrain.config.resuming import changes, lasting
from fasttrain.config.schema import TrainConfig
from fasttrain.environment import require_one_process
from fasttrain.errors import Stopped, UserError, of_os
from fasttrain.evaluation.bootstrap import accuracy_intervals
from fasttrain.evaluation.metrics import Interval
from fasttrain.evaluation.prediction_file import (
    OUT_OF_FOLD,
    StoredPredictions,
    joined,
    read_predictions,
    write_predictions,
)
from fasttrain.files import atomic_write_bytes, make_folder
from fasttrain.ranks import Ranks
from fasttrain.shards.convert import ensure_shards
from fasttrain.shards.folds import fold_of_each
from fasttrain.shards.format import SPLITS
from fasttrain.shards.reader import ShardSet
from fasttrain.stop import StopRequest
from fasttrain.terminal import make_console, tell
from fasttrain.text import counted, read_text
from fasttrain.tracking.mirrored import require_trackers, start_trackers
from fasttrain.tracking.tracker import NullTracker

FOLDS = "folds.json"


@dataclass(frozen=True)
class FoldsResult:
    """The result of a cross-validation in `folder`. All accuracies are in [0, 1].

    runs: the folder of each run. top1: the top-1 accuracy of each run on its fold. mean, deviation: mean and standard
    deviation of `top1`. overall: the share of all `photographs` that were classified right by the run that was not
    trained on them. interval: the 95 % bootstrap interval of `overall`, (low, high).
    """

    folder: Path
    runs: list[Path]
    top1: list[float]
    mean: float
    deviation: float
    overall: float
    interval: Interval
    photographs: int

    def to_dict(self) -> dict[str, Any]:
        """Return the accuracies as JSON data, without the paths."""
        return {
            "top1": self.top1,
            "mean": self.mean,
            "deviation": self.deviation,
            "out_of_fold_top1": self.overall,
            "interval": list(self.interval),
            "photographs": self.photographs,
        }


def train_folds(
    config: TrainConfig | str | Path | None = None, /, *, console: Console | None = None, **settings: Any
) -> FoldsResult:
    """Cross-validate: divide the train and val splits into `folds` parts, and train one model for each part.

    Each model is validated on its part and trained on all other parts. `config` and `settings` are those of `train`;
    the setting `folds` is required. `console`: prints the progress.

    The folder `out`/TIME-MODEL-folds gets the runs fold-1, fold-2, … and `out_of_fold.npz`: the prediction for each
    photograph by the model that was not trained on it. To resume, set `resume` to this folder, or to "auto" for the
    newest unfinished one. Raises UserError for invalid settings or data, Stopped after SIGTERM and KeyboardInterrupt
    after Ctrl-C.
    """
    if isinstance(config, TrainConfig):
        settings = {**config.model_dump(exclude_unset=True), **settings}
        config = None
    require_one_process("--folds starts its processes itself")
    given = {name: each for name, each in settings.items() if each is not None}
    given = {**(read_toml(Path(config)) if config else {}), **given}
    asked = resolve(given, origin=str(config or "settings"))
    require_trackers(asked.track)
    for name in ("fold", "run_name"):
        if name in given:
            raise UserError(f"{name} = {given[name]}: --folds sets this for each fold; leave it out")
    if asked.refit:
        raise UserError(
            "refit would train on the fold that --folds validates on; leave refit out, or refit a single run"
        )
    folder, count, before = _find_started(asked)
    own = {name: each for name, each in given.items() if name not in ("folds", "resume", "out")}
    shared = {**before, **own}
    now = resolve(shared)
    console = console or make_console(asked.log_format)
    if folder is not None:
        changed = changes(resolve(before), now, folder / CHECKPOINTS / FOLDS)
        done = [path.parent.name for path in sorted(folder.glob(f"fold-*/{FINISHED}"))]
        if changed and done:
            line = f"changed settings don't apply to {', '.join(done)}, which are finished: {'; '.join(changed)}"
            console.print(line, style="yellow")
    with StopRequest(STOPPING) as stop:
        shards = ShardSet.open(ensure_shards(now.data), now.cache_size)
        expected = fold_of_each(shards, count, now.seed)  # raises before a folder is created if the split is impossible
        if folder is None:
            folder = _new_folder(asked)
            _write(folder, count, _explicit(now))
        return _Folds(folder, count, now, shared, console, stop).run(shards, expected)


def is_folds_folder(path: str | Path | None) -> bool:
    """Return whether `path` is a folder that `train_folds` made."""
    return path is not None and (user_path(path) / FOLDS).is_file()


def _explicit(config: TrainConfig) -> dict[str, Any]:
    """Return those settings that the user gave. Each fold's run chooses the others, such as the image size."""
    return lasting({name: each for name, each in config.plain().items() if name in config.model_fields_set})


class _Folds:
    """Runs the folds in `folder` one after the other, and writes their result."""

    def __init__(
        self,
        folder: Path,
        count: int,
        config: TrainConfig,
        given: Mapping[str, Any],
        console: Console,
        stop: StopRequest,
    ) -> None:
        self.folder, self.count, self.config, self.given = folder, count, config, given
        self.console, self.stop = console, stop

    def run(self, shards: ShardSet, expected: npt.NDArray[np.int64]) -> FoldsResult:
        """Train all folds that aren't finished yet, and return the result.

        `expected`, int64 [N]: the fold of each photograph in `shards`, negative for photographs without one.
        """
        with self._tracker() as tracker:
            for number in range(1, self.count + 1):
                self._one_fold(number, tracker)
            result = self._result(shards, expected)
            tracker.log_metrics(
                {
                    "val/mean_top1": result.mean,
                    "val/deviation_top1": result.deviation,
                    "val/out_of_fold_top1": result.overall,
                },
                step=self.count,
            )
        self._print(result)
        return result

    def _path(self, number: int) -> Path:
        return self.folder / f"fold-{number}"

    def _one_fold(self, number: int, tracker: NullTracker) -> None:
        path, title = self._path(number), f"fold {number}/{self.count}"
        if (path / FINISHED).exists():
            self.console.print(f"{title}: already finished, in {path}", soft_wrap=True)
            return
        values = {"fold": number, "folds": self.count, "folder": path}
        tell(self.console, "fold", values, Text.assemble((title, "bold cyan")))
        make_folder(path / CHECKPOINTS)
        tags = {"study": str(self.folder.resolve()), "trial": str(number)}
        if parent := tracker.wait_for_run():
            tags["mlflow.parentRunId"] = parent
        settings = {**self.given, "fold": f"{number}/{self.count}", "run_name": title, "out": self.folder}
        resume = f"resume with: fasttrain train --resume {self.folder}"
        try:
            train_here(Ranks(), self.stop, None, settings, restarted=path, console=self.console, tags=tags)
        except Stopped as error:
            raise Stopped(f"stopped in {title}; {resume}") from error
        except KeyboardInterrupt:
            self.console.print(f"stopped in {title}; {resume}", soft_wrap=True)
            raise
        if self.stop.requested and number < self.count:
            if self.stop.requested is signal.SIGINT:
                raise KeyboardInterrupt
            raise Stopped(f"stopped after {title}; {resume}")

    def _tracker(self) -> NullTracker:
        return start_trackers(
            self.config.track,
            experiment=self.config.given_experiment,
            run_name=self.folder.name,
            params={**lasting(self.config.plain()), "folds": self.count},
            tags={"study": str(self.folder.resolve())},
            folder=self.folder,
            report=lambda line: self.console.print(line, style="yellow"),
        )

    def _result(self, shards: ShardSet, expected: npt.NDArray[np.int64]) -> FoldsResult:
        val = SPLITS.index("val")
        parts: list[StoredPredictions] = []
        for number in range(1, self.count + 1):
            found = read_predictions(RunFolder(self._path(number)).predictions)
            parts.append(found.part(np.flatnonzero(found.splits == val)))
        everything = joined(parts)
        row_of = {key: row for row, key in enumerate(shards.index["key"].tolist())}
        order = np.argsort([row_of[key] for key in everything.keys.tolist()], kind="stable")
        top1 = [float(_is_right(each).mean()) for each in parts]
        right = _is_right(everything)
        low, high = accuracy_intervals(np.array([right.sum()]), np.array([len(right)]))[0].tolist()
        result = FoldsResult(
            folder=self.folder,
            runs=[self._path(number) for number in range(1, self.count + 1)],
            top1=top1,
            mean=float(np.mean(top1)),
            deviation=float(np.std(top1, ddof=1)),
            overall=float(right.mean()),
            interval=(low, high),
            photographs=len(right),
        )
        if missing := int((expected >= 0).sum()) - len(right):
            without = counted(missing, "photograph")
            cause = "bad samples" if self.config.limit_batches is None else "--limit-batches"
            line = f"{without} without a prediction, because of {cause}"
            self.console.print(line, style="yellow")
        _write(self.folder, self.count, _explicit(self.config), result.to_dict())
        write_predictions(
            self.folder / OUT_OF_FOLD, everything.part(order)
        )  # last, as this marks the folds as finished
        return result

    def _print(self, result: FoldsResult) -> None:
        each = "  ".join(f"{top1:.2%}" for top1 in result.top1)
        low, high = result.interval
        text = (
            f"top1 of the folds: {each}; mean {result.mean:.2%}, standard deviation {result.deviation:.2%}\n"
            f"out-of-fold top1: {result.overall:.2%} of {result.photographs:,} photographs, 95 % interval {low:.2%} to "
            f"{high:.2%}\n"
            f"predictions: {self.folder / OUT_OF_FOLD}\n"
            f"look for wrong labels: fasttrain inspect --labels {self.folder}"
        )
        tell(self.console, "folds", {"folder": self.folder, **result.to_dict()}, text)


def _is_right(predictions: StoredPredictions) -> Any:
    return predictions.top[:, 0] == predictions.labels


def _find_started(asked: TrainConfig) -> tuple[Path | None, int, dict[str, Any]]:
    """Return the folder of the folds to resume, the number of folds, and the settings that they were started with.

    Return None as the folder, and no settings, if new folds have to be started.
    """
    if asked.resume is None or asked.resume == "auto":
        found = _newest_unfinished(asked.out) if asked.resume else None
        if found is None:
            if asked.folds is None:
                raise UserError("folds is not set; give a number of folds, such as --folds 5")
            return None, asked.folds, {}
    else:
        found = user_path(asked.resume)
        if not is_folds_folder(found):
            raise UserError(f"{found} is not a folder of `train --folds`; give --resume such a folder, or auto")
    count, config = _read(found)
    if asked.folds not in (None, count):
        raise UserError(
            f"folds = {asked.folds}: {found} was started with {count}; leave --folds out, or start without --resume"
        )
    return found, count, config


def _newest_unfinished(out: Path) -> Path | None:
    unfinished = [path.parent for path in out.glob(f"*/{FOLDS}") if not (path.parent / OUT_OF_FOLD).exists()]
    return max(unfinished, key=lambda folder: (folder / FOLDS).stat().st_mtime_ns, default=None)


def _new_folder(config: TrainConfig) -> Path:
    """Create a new folder for the folds, with a unique name."""
    run = RunFolder.create(config.out, f"{config.model.removesuffix('()')}-folds")
    try:
        run.checkpoints.rmdir()
    except OSError as error:
        raise of_os(error, run.path, "choose another --out") from error
    return run.path


def _write(folder: Path, count: int, config: Mapping[str, Any], result: Mapping[str, Any] | None = None) -> None:
    plain = {"folds": count, "config": config, **(result or {})}
    try:
        atomic_write_bytes(folder / FOLDS, (json.dumps(plain, indent=2) + "\n").encode())
    except OSError as error:
        raise of_os(error, folder, "choose another --out") from error


def _read(folder: Path) -> tuple[int, dict[str, Any]]:
    path = folder / FOLDS
    try:
        plain = json.loads(read_text(path))
        return int(plain["folds"]), dict(plain["config"])
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give --resume another folder") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}); start the folds again without --resume"
        ) from error
