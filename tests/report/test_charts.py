"""The page's charts: what they draw, in the page's colours, whatever the numbers."""

from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest

from fasttrain.evaluation.calibration import calibrate
from fasttrain.report.charts import Chart, learning_charts, reliability_chart, speed_charts
from fasttrain.report.figures import curves_figure
from fasttrain.report.matrix import MOST_TITLED, matrix_view


def record(epoch: int, **changes: Any) -> dict[str, Any]:
    plain = {"epoch": epoch, "train_loss": 1.0, "val_loss": 2.0, "train_top1": 0.5, "val_top1": 0.25, "img/s": 1234.5}
    return {**plain, "learning_rate": 1e-3, "wait_share": 0.004, "epoch_seconds": 60.0, "image_size": 96, **changes}


def texts(chart: Chart) -> list[str]:
    return [node.text or "" for node in ET.fromstring(chart.svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(
    "history",
    [
        [record(1)],
        [record(1, train_top1=0.0, val_top1=0.0, wait_share=0.0, learning_rate=0.0)],
        [record(epoch, learning_rate=10.0**-epoch, **{"img/s": 5000.0 * epoch}) for epoch in range(1, 9)],
        [record(epoch, image_size=64 + 32 * (epoch // 20)) for epoch in range(1, 61)],
    ],
    ids=["one", "nothing", "many decades", "sixty"],
)
@pytest.mark.slow
def test_any_history_has_its_charts(history: list[dict[str, Any]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        charts = [*learning_charts(history, 1), *speed_charts(history)]
    assert len(charts) == (7 if len(history) == 60 else 6)
    for chart in charts:
        svg = ET.fromstring(chart.svg)  # well-formed
        assert svg.get("class") == "chart" and svg.get("viewBox") and svg.get("width") is None
        assert "var(--first)" in chart.svg and "#fa00" not in chart.svg
        assert "font-family" not in chart.svg and "<style" not in chart.svg
        assert "epoch" in texts(chart) and len(texts(chart)) >= 3
        assert not re.search(r'id="(figure|axes)_\d', chart.svg)


def test_numbers_are_put_for_people() -> None:
    loss, accuracy, rate = learning_charts([record(1), record(2, learning_rate=1e-4)], None)
    speed, waiting, _ = speed_charts([record(1), record(2)])
    assert "40\u00a0%" in texts(accuracy) and "0\u00a0%" in texts(waiting) and "10\u00a0%" in texts(waiting)
    assert "1,000" in texts(speed) and "0.001" in texts(rate)
    assert loss.lines == (("train", "first"), ("validation", "second"))


@pytest.mark.slow
def test_a_linear_probe_that_became_fine_tuning_has_its_charts() -> None:
    probe = {name: value for name, value in record(1).items() if name != "learning_rate"}
    tries = [{**probe, "epoch": epoch, "l2": l2} for epoch, l2 in enumerate((0.01, 0.0001, 1.0), 1)]
    for history in (tries, tries[:1]):
        charts = learning_charts(history, 1)
        assert [each.title for each in charts] == ["loss", "accuracy"]
        assert "L2 penalty" in texts(charts[0]) and "0.01" in texts(charts[0])
    loss, accuracy = curves_figure(tries, 1).axes
    assert list(loss.lines[0].get_xdata()) == [0.0001, 0.01, 1.0] and loss.get_xscale() == "log"
    assert list(accuracy.lines[-1].get_xdata()) == [0.01, 0.01], "the best penalty is marked"
    both = [{**probe, "l2": 0.01}, record(2)]
    assert [each.title for each in learning_charts(both, None)][2] == "learning rate"
    assert curves_figure(both).axes[2].get_title() == "learning rate"


def test_each_bin_of_the_reliability_chart_is_drawn() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.2, 1, 800)
    chart = reliability_chart(calibrate(sure, rng.random(800) < sure**2))
    assert chart.svg.count("var(--second)") >= 12
    assert chart.svg.count("var(--soft)") > 15
    assert reliability_chart(calibrate(np.array([0.5]), np.array([True]))).svg


@pytest.mark.parametrize(("count", "named"), [(1, True), (20, True), (101, True), (400, False)])
def test_the_matrix_fits_a_page_and_tells_its_cells(count: int, named: bool) -> None:
    rng = np.random.default_rng(1)
    matrix = rng.poisson(0.4, (count, count)).astype(np.int64)
    matrix[np.arange(count), np.arange(count)] += 30
    classes = [f"class_{number:03d}_of_a_dish_with_a_long_name" for number in range(count)]
    view = matrix_view(matrix, classes)
    assert view.side + view.label_width <= 1190 and view.side == view.cell * count
    assert bool(view.names) == bool(view.cells) == named
    assert sorted(view.full_names) == classes
    assert len(view.cells) == (min(MOST_TITLED, int((matrix > 0).sum())) if named else 0)
    for cell in view.cells:
        true, predicted = classes.index(cell.true), classes.index(cell.predicted)
        assert view.full_names[cell.row] == cell.true and view.full_names[cell.column] == cell.predicted
        assert cell.count == matrix[true, predicted] and cell.support == matrix[true].sum()
        assert cell.share == pytest.approx(cell.count / cell.support)
