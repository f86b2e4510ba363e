"""Write `report.html`, the report of a run or an evaluation in a single file without external resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fasttrain.errors import of_os
from fasttrain.evaluation.baseline import majority_baseline
from fasttrain.evaluation.calibration import CALIBRATED, calibration_of, uncalibrated
from fasttrain.evaluation.label_sets import SetClassResult, SetEvaluation, SetPredictions
from fasttrain.files import atomic_write_bytes
from fasttrain.report.charts import FEW, learning_charts, reliability_chart, speed_charts
from fasttrain.report.figures import most_confused, pairs_of
from fasttrain.report.matrix import matrix_view
from fasttrain.report.summary import accuracy_rows, duration, epoch_parameter, is_probe, percent, span, split_title
from fasttrain.text import probability_percent

if TYPE_CHECKING:
    from fasttrain.evaluation.evaluate import Predictions
    from fasttrain.evaluation.metrics import ClassResult, Evaluation
    from fasttrain.report.photographs import BatchPicture, WorstClass

TEMPLATE = "report.html.jinja"
PAIRS = 20
LISTED_UP_TO, LISTED_OF_MANY = 1000, 200


@dataclass(frozen=True)
class Report:
    """The content of the page. Empty parts are left out.

    `split`: the name of the evaluated split, or "all". `worst`: the classes with the most mistakes, with photographs.
    `history`: one record per epoch, as in `history.json`. `best_epoch`: from 1. `weights`: a phrase that says which
    weights were evaluated. `facts`: label and value of each row of the summary. `commands`: a description and the
    command line of each. `batch`: pictures of the run's first batch. `batch_note`: a sentence about that batch or, if
    there are no pictures, the reason. `config`: the settings. `changed`: the names of settings that differ from their
    defaults. `versions`: the version of each package. `temperature`: the number that divides the model's logits.
    `warning`: a line about a model that is hardly better than its baseline. `mistakes`: the number of mistakes, and the
    name of the file that lists them.
    """

    title: str
    subtitle: str
    split: str
    evaluation: Evaluation | SetEvaluation
    predictions: Predictions | SetPredictions
    worst: Sequence[WorstClass] = ()
    history: Sequence[Mapping[str, Any]] = ()
    best_epoch: int | None = None
    weights: str = ""
    facts: Sequence[tuple[str, str]] = ()
    commands: Sequence[tuple[str, str]] = ()
    batch: Sequence[BatchPicture] = ()
    batch_note: str = ""
    config: Mapping[str, Any] | None = None
    changed: Sequence[str] = ()
    versions: Mapping[str, str] | None = None
    temperature: float = 1.0
    warning: str | None = None
    mistakes: tuple[int, str] | None = None


def render(report: Report) -> str:
    """Return the page as HTML. Class names, paths and settings are escaped."""
    import jinja2

    # Class names come from folders of strangers, so everything is escaped.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "duration": duration,
        "setting": _setting,
        "split_title": split_title,
        "span": span,
        "shares": "{0[0]:.3f}–{0[1]:.3f}".format,
        "probability": lambda share: f"{probability_percent(share)}\u00a0%",
    }
    evaluation = report.evaluation
    ranked: Sequence[ClassResult | SetClassResult]
    single_label_parts: dict[str, Any] = {}
    if isinstance(evaluation, SetEvaluation):
        ranked = evaluation.worst(len(evaluation.classes))
    else:
        present = (each for each in evaluation.classes if each.support)
        ranked = sorted(present, key=lambda each: (each.recall, each.name))
        single_label_parts = _single_label_parts(evaluation, cast("Predictions", report.predictions))
    unseen = [each.name for each in evaluation.classes if not each.support]
    return environment.get_template(TEMPLATE).render(
        report=report,
        evaluation=evaluation,
        sets=isinstance(evaluation, SetEvaluation),
        learning=learning_charts(report.history, report.best_epoch) if report.history else (),
        parameter=epoch_parameter(report.history[-1]) if report.history else None,
        accuracies=accuracy_rows(report.history[-1]) if report.history else (),
        probe=is_probe(report.history),
        speed=() if not report.history or is_probe(report.history) else speed_charts(report.history),
        **single_label_parts,
        ranked=ranked if len(ranked) <= LISTED_UP_TO else ranked[:LISTED_OF_MANY],
        ranked_of=len(ranked),
        unseen=unseen if len(unseen) <= LISTED_UP_TO else unseen[:LISTED_OF_MANY],
        unseen_of=len(unseen),
    )


def _single_label_parts(evaluation: Evaluation, predictions: Predictions) -> dict[str, Any]:
    """Return the template's variables for confusion and calibration, which multi-label models don't have."""
    names = [result.name for result in evaluation.classes]
    support = evaluation.confusion_matrix.sum(1)
    pairs = most_confused(evaluation.confusion_matrix, min(PAIRS, len(names) + 4))
    calibration = calibration_of(predictions)
    return {
        "calibration": calibration,
        "uncalibrated": uncalibrated(predictions),
        "reliability": reliability_chart(calibration),
        "tolerance": CALIBRATED,
        "few": FEW if ((calibration.counts > 0) & (calibration.counts < FEW)).any() else None,
        "matrix": matrix_view(evaluation.confusion_matrix, names),
        "baseline": majority_baseline(evaluation),
        "more_pairs": pairs_of(evaluation.confusion_matrix) - len(pairs),
        "pairs": [(names[true], names[predicted], count, int(support[true])) for true, predicted, count in pairs],
    }


def write_page(path: Path, report: Report) -> None:
    """Write the page to `path` atomically. Raises UserError if it can't be written."""
    page = render(report).encode()
    try:
        atomic_write_bytes(path, page)
    except OSError as error:
        raise of_os(error, path, "give another path for the report") from error


def _setting(value: Any) -> str:
    """Format the value of a setting for the page."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, tuple)):
        return ", ".join(_setting(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
