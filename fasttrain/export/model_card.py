"""Write the model card of a run, the hub's `README.md`: data, metrics, confusion, calibration and intended use."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.config.load import read_toml
from fasttrain.errors import UserError
from fasttrain.evaluation.confusion import cells_of, confusion_from_plain
from fasttrain.model.factory import ModelSpec
from fasttrain.shards.reader import ShardSet
from fasttrain.text import counted
from fasttrain.version import __version__

CARD = "README.md"
_MOST_CLASSES, _MOST_CONFUSIONS = 100, 10
_METRICS = {
    "top1": "top-1",
    "top3": "top-3",
    "top5": "top-5",
    "map": "mAP",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "weighted_f1": "weighted F1",
    "subset_accuracy": "subset accuracy",
}
_CLASS_METRICS = {"precision": "precision", "recall": "recall", "f1": "F1", "ap": "average precision"}


def write_model_card(run: RunFolder, spec: ModelSpec, repository: str, folder: Path) -> list[str]:
    """Write the model card of `run`, `README.md`, to `folder`, copy the pictures that it shows, and return their names.

    `spec`: the run's model. `repository`: the repository's name on the hub, USER/NAME. Raises UserError if the run
    hasn't finished, and OSError if a file can't be written.
    """
    try:
        evaluation = json.loads(run.evaluation.read_bytes())
    except (OSError, ValueError) as error:
        state = "missing" if isinstance(error, OSError) else "damaged"
        raise UserError(
            f"{run.path}: the model card needs {run.evaluation.name}, which is {state}; finish the run with --resume"
        ) from None
    pictures = [path for path in (run.confusion_matrix, run.reliability, run.curves) if path.is_file()]
    for path in pictures:
        shutil.copyfile(path, folder / path.name)
    shown = {path.name for path in pictures}
    (folder / CARD).write_text("\n".join(_card(run, spec, repository, evaluation, shown)) + "\n", encoding="utf-8")
    return [CARD, *shown]


def _card(
    run: RunFolder, spec: ModelSpec, repository: str, evaluation: Mapping[str, Any], pictures: set[str]
) -> Iterator[str]:
    split, samples = evaluation["split"], evaluation["samples"]
    yield from _front_matter(repository, evaluation)
    yield f"# {_text(repository.rpartition('/')[2])}"
    yield ""
    kind = "any number of" if spec.multi_label else "one of"
    yield f"{_text(spec.name)}, trained to recognize {kind} {len(spec.classes):,} classes in photographs at"
    yield f"{spec.image_size} px. The files were written by fasttrain {__version__}."
    yield ""
    yield from _use(repository, spec)
    yield from _data(run, spec)
    yield "## Metrics"
    yield ""
    yield f"On the {counted(samples, 'photograph')} of the {split} split{_of_choice(evaluation)}:"
    yield ""
    rows = [
        (label, _share(evaluation[name], evaluation.get(f"{name}_interval")))
        for name, label in _METRICS.items()
        if evaluation.get(name) is not None
    ]
    yield from _table(("metric", "value"), rows)
    yield from _classes(evaluation["classes"])
    yield from _confusions(evaluation, spec, pictures)
    yield from _calibration(evaluation, spec, pictures)
    yield from _intended_use(spec)
    yield from _training(run, pictures)


def _front_matter(repository: str, evaluation: Mapping[str, Any]) -> Iterator[str]:
    name = "accuracy" if "top1" in evaluation else "mean_average_precision"
    value = evaluation.get("top1", evaluation.get("map"))
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": "the run's own", "type": "imagefolder", "split": evaluation["split"]},
        "metrics": [{"type": name, "value": value}],
    }
    yield "---"
    yield "library_name: timm"
    yield "pipeline_tag: image-classification"
    yield "tags: [image-classification, timm, transformers, fasttrain]"
    # JSON is valid YAML, and it escapes any character of a name.
    yield f"model-index: {json.dumps([{'name': repository, 'results': [result]}])}"
    yield "---"


def _use(repository: str, spec: ModelSpec) -> Iterator[str]:
    yield "## Use"
    yield ""
    yield "```python"
    yield "import timm"
    yield ""
    yield f'model = timm.create_model("hf-hub:{repository}", pretrained=True).eval()'
    yield "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))"
    yield "logits = model(transform(image).unsqueeze(0))  # image: an RGB picture of Pillow's"
    yield 'names = model.pretrained_cfg["label_names"]'
    yield "```"
    yield ""
    yield f'With transformers: `AutoModelForImageClassification.from_pretrained("{repository}")`.'
    if spec.temperature != 1:
        yield f"Divide logits by the temperature, {spec.temperature:.4g}, before the softmax: see Calibration."
    if spec.thresholds is not None:
        cuts = ", ".join(f"{_text(name)} {cut:.3g}" for name, cut in zip(spec.classes, spec.thresholds, strict=True))
        yield f"A class counts as predicted if its sigmoid is at least its threshold: {cuts}."
    yield ""


def _data(run: RunFolder, spec: ModelSpec) -> Iterator[str]:
    yield "## Data"
    yield ""
    try:
        shards = Path(read_toml(run.config)["data"])
        manifest = ShardSet.open(shards).manifest if shards.is_dir() else None
    except (UserError, KeyError):
        manifest = None
    if manifest is None:
        yield "The shards were not on this machine when the card was written."
    else:
        counts = ", ".join(f"{count:,} for {split}" for split, count in manifest.splits.items() if count)
        yield f"{_text(manifest.source.name)}: photographs {counts}."
    yield ""
    names = ", ".join(map(_text, spec.classes[:_MOST_CLASSES]))
    yield f"Classes: {names}{', …' if len(spec.classes) > _MOST_CLASSES else ''}."
    yield ""


def _of_choice(evaluation: Mapping[str, Any]) -> str:
    if evaluation["split"] != "val":
        return ""
    return ", on which the best epoch was chosen (the figures are a little too good)"


def _classes(classes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not classes:
        return
    worst = sorted(classes, key=lambda each: each["f1"])[:_MOST_CLASSES]
    known = [name for name in _CLASS_METRICS if name in classes[0]]
    rows = [
        (_text(each["name"]), *(_share(each[name], each.get(f"{name}_interval")) for name in known), each["support"])
        for each in worst
    ]
    yield "The classes with the lowest F1 come first. Brackets hold 95 % intervals."
    yield ""
    yield from _table(("class", *(_CLASS_METRICS[name] for name in known), "photographs"), rows)


def _confusions(evaluation: Mapping[str, Any], spec: ModelSpec, pictures: set[str]) -> Iterator[str]:
    if "confusion_matrix" not in evaluation:
        return
    true, predicted, count = cells_of(confusion_from_plain(evaluation["confusion_matrix"], len(spec.classes)))
    wrong = [each for each in zip(count, true, predicted, strict=True) if each[1] != each[2] and each[0]]
    yield "## Confusion"
    yield ""
    rows = [
        (_text(spec.classes[label]), _text(spec.classes[answer]), int(times))
        for times, label, answer in sorted(wrong, key=lambda each: -each[0])[:_MOST_CONFUSIONS]
    ]
    yield from _table(("true class", "predicted class", "photographs"), rows)
    yield from _picture("confusion_matrix.png", "Confusion matrix", pictures)


def _calibration(evaluation: Mapping[str, Any], spec: ModelSpec, pictures: set[str]) -> Iterator[str]:
    if evaluation.get("ece") is None:
        return
    yield "## Calibration"
    yield ""
    yield f"The expected calibration error is {evaluation['ece']:.2%} at temperature {spec.temperature:.4g}, which was"
    yield f"fitted on the validation split, and {evaluation['uncalibrated_ece']:.2%} at temperature 1."
    yield ""
    yield from _picture("reliability.png", "Confidence and accuracy", pictures)


def _intended_use(spec: ModelSpec) -> Iterator[str]:
    yield "## Intended use"
    yield ""
    yield "The model is for photographs of the classes above, like those that it was trained on."
    if not spec.multi_label:
        yield "It names one of its classes for any picture, even for one that shows none of them."
    yield "The metrics hold only for the data above: measure again on your own photographs before you rely on it."
    yield "Before you use it for decisions about people, examine the consequences of its mistakes."
    yield ""


def _training(run: RunFolder, pictures: set[str]) -> Iterator[str]:
    yield "## Training"
    yield ""
    settings = read_toml(run.config)
    names = ("recipe", "epochs", "batch_size", "optimizer", "learning_rate", "scheduler", "image_size", "seed")
    yield ", ".join(f"{name} = {_text(str(settings[name]))}" for name in names if name in settings) + "."
    try:
        start = json.loads(run.provenance.read_bytes())["starts"][-1]
        versions = ", ".join(f"{name} {each}" for name, each in start["versions"].items())
        commit = start["git"].get("commit")
        yield f"Versions: {_text(versions)}{f'; commit {_text(commit)}' if commit else ''}."
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        pass
    yield ""
    yield from _picture("curves.png", "Loss and accuracy by epoch", pictures)


def _picture(name: str, title: str, pictures: set[str]) -> Iterator[str]:
    if name in pictures:
        yield f"![{title}]({name})"
        yield ""


def _table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield f"| --- {'| ---: ' * (len(titles) - 1)}|"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"
    yield ""


def _share(value: float | None, interval: Sequence[float] | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" + (f" ({interval[0]:.1%} to {interval[1]:.1%})" if interval else "")


def _text(name: str) -> str:
    """Return `name` on one line, with the special characters of Markdown and HTML escaped."""
    plain = html.escape(" ".join(name.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#" else letter for letter in plain)
