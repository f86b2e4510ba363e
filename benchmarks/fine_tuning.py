"""Fine-tune real weights on real photographs: each of fasttrain's settings against a plain PyTorch loop.

    python benchmarks/fine_tuning.py run default 1 --weights lite0.safetensors     # one run, added to fine_tuning.json
    python benchmarks/fine_tuning.py run loop 1 --weights lite0.safetensors
    python benchmarks/fine_tuning.py run probe 1 --weights lite0.safetensors       # and scikit-learn on its features
    python benchmarks/fine_tuning.py table                                         # what has been run so far

`--column released`, with an older fasttrain on PYTHONPATH, fills the column of that name. The photographs are those of
`../shared/clothing`; accuracy is top1 over its validation and test photographs together. `tools/lite0_weights.py` makes
the weights. Runs are resumable one by one: a run that is in the file is not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = ROOT.parent / "shared" / "clothing"
MODEL, SIDE, EPOCHS = "tf_efficientnet_lite0", 128, 5
SAME = {"model": MODEL, "image_size": SIDE, "epochs": EPOCHS, "track": False, "device": "cpu", "save_every": "off"}
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": {"recipe": "fast"},
    "accurate": {"recipe": "accurate"},
    "classic": {"recipe": "classic"},
    "freeze": {"freeze": 17},
    "probe": {"linear_probe": True, "epochs": 10},
    "probe, fast": {"linear_probe": True, "recipe": "fast"},
}
ONE_EPOCH = {"epochs": 1, "image_size": 96}
STARTS: dict[str, Callable[[torch.Tensor], Any] | None] = {  # of the classifier's weights; the biases start at zero
    "start: zeros": torch.nn.init.zeros_,
    "start: std 0.01": lambda weight: torch.nn.init.normal_(weight, std=0.01),
    "start: LeCun": lambda weight: torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5),
    "start: timm": None,
}
LOOPS = {"loop": 0, "loop, freeze": 17}


def of_fasttrain(name: str, seed: int, weights: Path, scratch: Path) -> dict[str, np.ndarray]:
    """Train with `SETTINGS[name]`, or for one epoch from `STARTS[name]`, and return which photographs were right.

    The values are bool [n], by key, for the validation and the test split.
    """
    from fasttrain import convert, train

    shards = scratch / "shards"
    convert(PHOTOGRAPHS, shards, progress=False)
    own = ONE_EPOCH if name in STARTS else SETTINGS[name]
    settings = {**SAME, "data": str(shards), "weights": weights, "out": scratch / "runs", **own}
    with started_by(STARTS[name]) if name in STARTS else nullcontext():
        run = train(seed=seed, **settings)
    return {split: right_of(run.folder, shards, split, settings) for split in ("val", "test")}


@contextmanager
def started_by(start: Callable[[torch.Tensor], Any] | None) -> Iterator[None]:
    """Have new classifiers start so; None leaves them as timm makes them."""
    from fasttrain.model import factory

    def start_classifier(model: Any) -> None:
        if start is not None:
            start(model.get_classifier().weight)
            torch.nn.init.zeros_(model.get_classifier().bias)

    ours = factory.start_classifier
    factory.start_classifier = start_classifier
    try:
        yield
    finally:
        factory.start_classifier = ours


def right_of(folder: Path, shards: Path, split: str, settings: dict[str, Any]) -> np.ndarray:
    """bool [n], by key: which photographs of `split` the run's best weights get right, as the run evaluates them."""
    from fasttrain.checkpoint.trained import load_trained
    from fasttrain.config.load import resolve
    from fasttrain.evaluation.evaluate import evaluate_model
    from fasttrain.loaders.base import LoaderSettings
    from fasttrain.loaders.registry import choose_loader
    from fasttrain.model.preprocess import NormalizePixels
    from fasttrain.model.tta import FlipAveraged
    from fasttrain.shards.reader import ShardSet

    model, spec = load_trained(folder)
    if resolve({name: settings[name] for name in settings if name != "seed"}).tta == "flip":
        model = FlipAveraged(model).eval()
    data = ShardSet.open(shards)
    kind, _ = choose_loader("auto", data, "cpu")
    loader = kind(data, data.ids(split), LoaderSettings(64, spec.image_size, None, workers=1, device="cpu"))
    try:
        _, seen = evaluate_model(
            model.to(memory_format=torch.channels_last),
            loader,
            num_classes=len(spec.classes),
            device="cpu",
            preprocess=NormalizePixels(spec.mean, spec.std, channels_last=True),
        )
    finally:
        loader.close()
    return (seen.top[:, 0] == seen.labels)[np.argsort(data.index["key"][seen.ids])]


def of_loop(freeze: int, seed: int, weights: Path) -> dict[str, np.ndarray]:
    """Run the loop that tutorials show: ImageFolder, Adam at 1e-3, the best epoch by validation loss; a zeroed head."""
    import timm
    from safetensors.torch import load_file
    from timm.models import group_parameters
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    torch.manual_seed(seed)
    model = timm.create_model(MODEL, num_classes=10)
    state = {name: value for name, value in load_file(weights).items() if not name.startswith("classifier")}
    model.load_state_dict(state, strict=False)
    torch.nn.init.zeros_(model.classifier.weight)
    torch.nn.init.zeros_(model.classifier.bias)
    groups = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(groups[name] >= freeze)
    config = timm.data.resolve_model_data_config(model)
    end = [transforms.ToTensor(), transforms.Normalize(config["mean"], config["std"])]
    augmented = [transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip(), *end]
    plain = [transforms.Resize(round(SIDE / 0.875)), transforms.CenterCrop(SIDE), *end]
    folders = {"train": "train", "val": "validation", "test": "test"}
    data = {
        split: datasets.ImageFolder(PHOTOGRAPHS / folder, transforms.Compose(augmented if split == "train" else plain))
        for split, folder in folders.items()
    }
    batches = DataLoader(data["train"], 64, shuffle=True)
    optimizer = torch.optim.Adam((each for each in model.parameters() if each.requires_grad), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)
    best = (float("inf"), {})
    for _ in range(EPOCHS):
        model.train()
        for images, labels in batches:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        found = {split: loop_predictions(model, DataLoader(data[split], 64)) for split in ("val", "test")}
        loss = found["val"][1]
        scheduler.step(loss)
        best = min(best, (loss, {split: right for split, (right, _) in found.items()}), key=lambda each: each[0])
    return best[1]


@torch.inference_mode()
def loop_predictions(model: torch.nn.Module, batches: Any) -> tuple[np.ndarray, float]:
    """Which photographs are right, bool [n], and the mean loss."""
    model.eval()
    right, losses = [], []
    for images, labels in batches:
        logits = model(images)
        right.append(logits.argmax(1) == labels)
        losses.append(torch.nn.functional.cross_entropy(logits, labels, reduction="none"))
    return torch.cat(right).numpy(), float(torch.cat(losses).mean())


def of_regression(seed: int, weights: Path, scratch: Path) -> dict[str, np.ndarray]:
    """scikit-learn's LogisticRegression on the features that fasttrain cached, its C chosen by validation accuracy."""
    from safetensors.torch import load_file
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from fasttrain.photos.sources import cache_root
    from fasttrain.shards.reader import ShardSet

    of_fasttrain("probe", seed, weights, scratch)
    data = ShardSet.open(scratch / "shards")
    newest = max((cache_root() / "features").glob("*-train.safetensors"), key=lambda path: path.stat().st_mtime)
    features, labels = {}, {}
    for split in ("train", "val", "test"):
        path = newest.with_name(newest.name.replace("-train", f"-{split}"))
        features[split], labels[split] = load_file(path)["features"].numpy(), data.labels()[data.ids(split)]
    scaler = StandardScaler().fit(features["train"])
    tried = [
        LogisticRegression(C=strength, max_iter=5000).fit(scaler.transform(features["train"]), labels["train"])
        for strength in np.logspace(-5, 1, 13)
    ]
    best = max(tried, key=lambda each: each.score(scaler.transform(features["val"]), labels["val"]))
    order = {split: np.argsort(data.index["key"][data.ids(split)]) for split in ("val", "test")}
    return {
        split: (best.predict(scaler.transform(features[split])) == labels[split])[rows] for split, rows in order.items()
    }


def interval(ours: list[np.ndarray], theirs: list[np.ndarray]) -> tuple[float, float, float]:
    """The mean difference in top1, and its 95 % interval: a bootstrap over photographs, paired, all seeds together."""
    difference = np.mean(ours, axis=0, dtype=float) - np.mean(theirs, axis=0, dtype=float)
    rows = np.random.default_rng(0).integers(0, len(difference), (10_000, len(difference)))
    low, high = np.quantile(difference[rows].mean(1), [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def table(runs: list[dict[str, Any]]) -> str:
    """The Markdown table of what has been run."""

    def rights(column: str, setting: str) -> list[np.ndarray]:
        return [
            np.array([mark == "1" for mark in run["val"] + run["test"]])
            for run in runs
            if (run["column"], run["setting"]) == (column, setting)
        ]

    def shown(found: list[np.ndarray]) -> str:
        return (
            f"{100 * np.mean(found):.1f} ({', '.join(f'{100 * each.mean():.1f}' for each in found)})" if found else "–"
        )

    against = {"freeze": "loop, freeze", "probe": "regression", "probe, fast": "regression"}
    lines = ["| setting | released | now | compared with | its top1 | now - it, 95 % interval |", "| --- " * 6 + "|"]
    for setting in SETTINGS:
        other = against.get(setting, "loop")
        ours, theirs = rights("now", setting), rights("now", other)
        difference = "–"
        if ours and theirs:
            mean, low, high = interval(ours, theirs)
            difference = f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        cells = [setting, shown(rights("released", setting)), shown(ours), other, shown(theirs), difference]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| classifier, one epoch at 96 px | its top1 |", "| --- | --- |"]
    lines += [f"| {start.removeprefix('start: ')} | {shown(rights('now', start))} |" for start in STARTS]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("setting", nargs="?", choices=[*SETTINGS, *STARTS, *LOOPS, "regression"])
    parser.add_argument("seed", nargs="?", type=int, default=1)
    parser.add_argument("--weights", type=Path, default=Path("lite0.safetensors"))
    parser.add_argument("--column", default="now")
    parser.add_argument("--scratch", type=Path, default=Path("build/fine_tuning"))
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "benchmarks" / "fine_tuning.json")
    given = parser.parse_args()
    runs = json.loads(given.results.read_text()) if given.results.exists() else []
    if given.what == "run":
        key = {"column": given.column, "setting": given.setting, "seed": given.seed}
        if not any(run.items() >= key.items() for run in runs):
            began = time.perf_counter()
            if given.setting in LOOPS:
                found = of_loop(LOOPS[given.setting], given.seed, given.weights)
            elif given.setting == "regression":
                found = of_regression(given.seed, given.weights, given.scratch)
            else:
                found = of_fasttrain(given.setting, given.seed, given.weights, given.scratch)
            marks = {split: "".join("01"[int(each)] for each in right) for split, right in found.items()}
            runs = json.loads(given.results.read_text()) if given.results.exists() else []
            runs.append({**key, **marks, "seconds": round(time.perf_counter() - began)})
            given.results.write_text(json.dumps(runs, indent=0) + "\n")
    given.results.with_suffix(".md").write_text(table(runs) + "\n")
    print(table(runs))


if __name__ == "__main__":
    main()
