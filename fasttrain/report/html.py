"""`report.html`: what a person wants to see of a run, in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fasttrain.errors import of_os
from fasttrain.evaluation.baseline import majority_baseline
from fasttrain.evaluation.calibration import calibration_of, uncalibrated
from fasttrain.evaluation.label_sets import SetClassResult, SetEvaluation, SetPredictions
from fasttrain.files import atomic_write_bytes
from fasttrain.report.charts import FEW, learning_charts, reliability_chart, speed_charts
from fasttrain.report.figures import most_confused
from fasttrain.report.matrix import matrix_view
from fasttrain.report.summary import accuracy_rows, duration, epoch_parameter, percent, span, split_title

if TYPE_CHECKING:
    from fasttrain.evaluation.evaluate import Predictions
    from fasttrain.evaluation.metrics import ClassResult, Evaluation
    from fasttrain.report.photographs import Seen, WorstClass

TEMPLATE = "report.html.jinja"
PAIRS = 20
LISTED_UP_TO, LISTED_OF_MANY = 1000, 200


@dataclass(frozen=True)
class Report:
    """The content of the page. Empty parts are left out.

    title, subtitle: of the page. split: what was evaluated. worst: classes with photographs that were got wrong.
    history: one record an epoch, as in `history.json`, `best_epoch` (from 1) among them. weights: whose they are.
    facts: (label, value) of the summary. commands: (what it does, command line). batch: pictures of the first one, and
    `batch_said`, a sentence about them, or about why there are none. config: settings; `changed` names those that are
    not the defaults. temperature: the model's, which divides its logits. warning: a line about a model that is hardly
    better than its baseline. mistakes: how many there are, and the file that lists them.
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
    batch: Sequence[Seen] = ()
    batch_said: str = ""
    config: Mapping[str, Any] | None = None
    changed: Sequence[str] = ()
    versions: Mapping[str, str] | None = None
    temperature: float = 1.0
    warning: str | None = None
    mistakes: tuple[int, str] | None = None


def render(report: Report) -> str:
    """The whole page. Names of classes, paths and settings are text in it, whatever they hold."""
    import jinja2

    # Class names are folders' names, which anyone may have chosen: everything is escaped.
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
    }
    evaluation = report.evaluation
    ranked: Sequence[ClassResult | SetClassResult]
    of_single_labels: dict[str, Any] = {}
    if isinstance(evaluation, SetEvaluation):
        ranked = evaluation.worst(len(evaluation.classes))
    else:
        present = (each for each in evaluation.classes if each.support)
        ranked = sorted(present, key=lambda each: (each.recall, each.name))
        of_single_labels = _of_single_labels(evaluation, cast("Predictions", report.predictions))
    unseen = [each.name for each in evaluation.classes if not each.support]
    return environment.get_template(TEMPLATE).render(
        report=report,
        evaluation=evaluation,
        sets=isinstance(evaluation, SetEvaluation),
        learning=learning_charts(report.history, report.best_epoch) if report.history else (),
        parameter=epoch_parameter(report.history[-1]) if report.history else None,
        accuracies=accuracy_rows(report.history[-1]) if report.history else (),
        speed=speed_charts(report.history) if report.history else (),
        **of_single_labels,
        ranked=ranked if len(ranked) <= LISTED_UP_TO else ranked[:LISTED_OF_MANY],
        ranked_of=len(ranked),
        unseen=unseen if len(unseen) <= LISTED_UP_TO else unseen[:LISTED_OF_MANY],
        unseen_of=len(unseen),
    )


def _of_single_labels(evaluation: Evaluation, predictions: Predictions) -> dict[str, Any]:
    """Return what the page shows of confusion and calibration, which sets of classes don't have."""
    names = [result.name for result in evaluation.classes]
    support = evaluation.confusion_matrix.sum(1)
    pairs = most_confused(evaluation.confusion_matrix, min(PAIRS, len(names) + 4))
    calibration = calibration_of(predictions)
    return {
        "calibration": calibration,
        "uncalibrated": uncalibrated(predictions),
        "reliability": reliability_chart(calibration),
        "few": FEW if ((calibration.counts > 0) & (calibration.counts < FEW)).any() else None,
        "matrix": matrix_view(evaluation.confusion_matrix, names),
        "baseline": majority_baseline(evaluation),
        "pairs": [(names[true], names[taken], count, int(support[true])) for true, taken, count in pairs],
    }


def write_page(path: Path, report: Report) -> None:
    """Writes the page, whole or not at all. Raises UserError where it can't be written."""
    page = render(report).encode()
    try:
        atomic_write_bytes(path, page)
    except OSError as error:
        raise of_os(error, path, "give another place for the report") from error


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, tuple)):
        return ", ".join(_setting(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
