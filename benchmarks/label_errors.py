"""Flip labels of real photographs at random, find them again with `inspect --labels`, and train on what is corrected.

    python benchmarks/label_errors.py --weights lite0.safetensors --scratch /tmp/label-errors

The photographs are those of `../shared/clothing`; `tools/lite0_weights.py` makes the weights. 5 % of the labels of the
train split are replaced by another class. Five folds of linear probes give the out-of-fold predictions, the list is
compared with what was flipped, and linear probes on the photographs as they were, flipped, and corrected are evaluated
on the test split, whose labels are never touched. What is in the scratch folder isn't done again, so the same command
goes on after a stop. It prints docs/benchmarks/label_errors.md.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path
from typing import Any

import numpy as np

from fasttrain import convert, train, train_folds
from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.evaluation.metrics import Evaluation
from fasttrain.evaluation.paired import compare_pairs
from fasttrain.evaluation.prediction_file import OUT_OF_FOLD, read_predictions
from fasttrain.inspection.labels import LabelIssue, find_label_issues, write_label_table
from fasttrain.photos.source import SourceOptions
from fasttrain.report.comparison import pair_lines
from fasttrain.report.summary import span
from fasttrain.tracking.record import read_json

ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = ROOT.parent / "shared" / "clothing"
PROBE: dict[str, Any] = {"model": "tf_efficientnet_lite0", "image_size": 128, "linear_probe": True, "epochs": 5}
PROBE |= {"track": False, "device": "cpu", "save_every": "off"}
SHARE, SEED, FOLDS = 0.05, 0, 5


def flip_labels(folder: Path) -> dict[str, str]:
    """Make the photographs anew in `folder`, as links, some of the train split in a wrong class's folder.

    Return the true class of each whose label was flipped, by its path in the folder.
    """
    photographs = sorted(PHOTOGRAPHS.glob("*/*/*"))
    classes = sorted({path.parent.name for path in photographs})
    generator = random.Random(SEED)
    of_train = [path for path in photographs if path.parts[-3] == "train"]
    chosen = set(generator.sample(of_train, round(SHARE * len(of_train))))
    flipped = {}
    for path in photographs:
        split, true = path.parts[-3:-1]
        given = generator.choice([each for each in classes if each != true]) if path in chosen else true
        place = folder / split / given / path.name  # the names are all different
        if path in chosen:
            flipped[str(place.relative_to(folder))] = true
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.is_symlink():
            place.symlink_to(path)
    return flipped


def shards_of(source: Path, out: Path, relabel: Path | None = None) -> Path:
    """Return shards of `source` in `out`, made now if they aren't there."""
    if not (out / "manifest.json").exists():
        convert(source, out, progress=False, workers=1, options=SourceOptions(relabel=relabel))
    return out


def probe(shards: Path, out: Path, weights: Path) -> RunFolder:
    """Return the folder of a linear probe on `shards`, trained now if it isn't there."""
    found = [path.parent for path in out.glob("*/evaluation.json")]
    return RunFolder(found[0] if found else train(data=shards, out=out, weights=weights, seed=SEED, **PROBE).folder)


def folds(shards: Path, out: Path, weights: Path) -> Path:
    """Return the folder of the folds on `shards`, trained or resumed now if they aren't finished."""
    done = [path.parent for path in out.glob(f"*/{OUT_OF_FOLD}")]
    settings = {"data": shards, "weights": weights, "seed": SEED, **PROBE}
    return done[0] if done else train_folds(folds=FOLDS, out=out, resume="auto", **settings).folder


def reviewed(issues: list[LabelIssue], flipped: dict[str, str]) -> list[LabelIssue]:
    """Return the issues that a person who knows the true class of each flipped photograph would accept."""
    return [each for each in issues if flipped.get(each.file) == each.suggested]


def quality(issues: list[LabelIssue], flipped: dict[str, str]) -> list[str]:
    """Return rows of the list's precision and recall, for its beginning and as it is."""
    hits = np.cumsum([each.file in flipped for each in issues])
    rows = []
    for count in sorted({min(each, len(issues)) for each in (50, 100, len(flipped), len(issues))}):
        right = int(hits[count - 1])
        name = "all" if count == len(issues) else f"first {count:,}"
        rows.append(f"| {name} | {count:,} | {right:,} | {right / count:.1%} | {right / len(flipped):.1%} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    given = parser.parse_args()
    scratch, weights = given.scratch, given.weights
    flipped = flip_labels(scratch / "photographs")
    noisy = shards_of(scratch / "photographs", scratch / "noisy")
    folder = folds(noisy, scratch / "folds", weights)
    found = find_label_issues(folder)
    write_label_table(found, scratch / "labels.csv")
    accepted = type(found)(found.location, found.photographs, found.stored, reviewed(found.issues, flipped))
    write_label_table(accepted, scratch / "reviewed.csv")
    with (scratch / "true.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *flipped.items()])
    runs = {"5 % flipped": probe(noisy, scratch / "run-noisy", weights)}
    for name, table in (
        ("all suggestions applied", "labels.csv"),
        ("those applied that a person would accept", "reviewed.csv"),
        ("labels as they were", "true.csv"),
    ):
        kind = table.removesuffix(".csv")
        shards = shards_of(scratch / "photographs", scratch / f"shards-{kind}", scratch / table)
        runs[name] = probe(shards, scratch / f"run-{kind}", weights)
    print(f"{len(flipped):,} of {found.photographs:,} labels flipped, {len(found.issues):,} listed\n")
    print("| of the list | photographs | flipped | precision | recall |\n| --- | ---: | ---: | ---: | ---: |")
    print("\n".join(quality(found.issues, flipped)))
    right = sum(flipped.get(each.file) == each.suggested for each in found.issues)
    listed = sum(each.file in flipped for each in found.issues)
    print(f"\nOf the {listed:,} flipped ones in the list {right:,} have the true class as their suggestion.\n")
    print("| linear probe trained on | top1, test | 95 % |\n| --- | ---: | --- |")
    for name, run in runs.items():
        evaluation = Evaluation.from_dict(read_json(run.evaluation, {}))
        print(f"| {name} | {evaluation.top1:.2%} | {span(evaluation.top1_interval or (0, 0))} |")
    first = read_predictions(runs["5 % flipped"].predictions)
    for name, run in runs.items():
        if name != "5 % flipped":
            line = pair_lines(compare_pairs(first, read_predictions(run.predictions)), "B")[-1]
            print(f"\nA: 5 % flipped; B: {name}: {line}")


if __name__ == "__main__":
    main()
