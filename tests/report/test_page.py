"""`report.html` of real runs, read and then looked at in a real Chromium."""

from __future__ import annotations

import csv
import html
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fasttrain import evaluate, train
from fasttrain.evaluation.baseline import majority_baseline
from fasttrain.evaluation.bootstrap import with_intervals
from fasttrain.evaluation.evaluate import Predictions
from fasttrain.evaluation.metrics import ClassificationMeter
from fasttrain.report.html import Report, render, write_page
from fasttrain.report.summary import percent
from fasttrain.shards.convert import convert
from fasttrain.training.result import TrainResult
from tests.support.runs import SMALL

HOSTILE = ("<script>alert(1)", "<img src=x onerror=alert(1)>", "{{ 7*7 }} & ${x}", "a\"b' onload=alert(1)")
RUN_PAGE = "report.html"
RUN_NAME = "<b>first</b> try"
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def shards(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data set, its folders named as an enemy would."""
    folder = tmp_path_factory.mktemp("hostile")
    for number, source in enumerate(sorted(each for each in photographs.iterdir() if each.is_dir())):
        shutil.copytree(source, folder / "photographs" / (HOSTILE[number] if number < len(HOSTILE) else source.name))
    convert(str(folder / "photographs"), folder / "shards", workers=1, progress=False)
    return folder / "shards"


@pytest.fixture(scope="module")
def result(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.chdir(folder)
        settings = {**SMALL, "color_jitter": 0.4, "mixup": 0.3, "run_name": RUN_NAME}
        return train(data=shards, out=folder / "runs", **settings)


@pytest.fixture(scope="module")
def page(result: TrainResult) -> str:
    return (result.folder / "report.html").read_text()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 101 classes, all sections that need no photographs in it."""
    path = tmp_path_factory.mktemp("large") / "report.html"
    write_page(path, synthetic(101))
    return path


def synthetic(classes: int) -> Report:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(20)
    logits = torch.randn(len(labels), classes, generator=generator)
    logits[torch.arange(len(labels)), labels] += 2.0
    meter = ClassificationMeter(classes)
    ranked = meter.update(logits, labels)
    sure = logits.softmax(1).gather(1, ranked).numpy()
    names = [f"a_dish_with_a_rather_long_name_{number}" for number in range(classes)]
    return Report(
        "20261124-101500-net",
        "net",
        "test",
        meter.compute(names),
        Predictions(np.arange(len(labels)), labels.numpy(), ranked.numpy(), sure),
        facts=[("data", "/a/very/long/path" * 12)],
        commands=[("Evaluate the model again", "fasttrain evaluate --checkpoint " + "x" * 300)],
        config={"epochs": 3, "data": "y" * 200},
        changed=["epochs"],
    )


def text_of(page: str) -> str:
    """Return the text of the page, without markup."""
    bare = re.sub(r"<(script|style|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", bare)).split())


@pytest.mark.slow
def test_a_run_leaves_its_report_everywhere(result: TrainResult) -> None:
    from mlflow.tracking import MlflowClient

    made = {"report.html", "curves.png", "confusion_matrix.png", "accuracy_by_class.png", "reliability.png"}
    assert made <= {path.name for path in result.folder.iterdir()}
    client = MlflowClient(f"sqlite:///{result.folder.parents[1]}/mlflow.db")
    assert made <= {each.path for each in client.list_artifacts(result.mlflow_run_id)}


@pytest.mark.slow
def test_it_says_what_the_run_did(result: TrainResult, page: str, shards: Path) -> None:
    said, evaluation = text_of(page), result.evaluation
    for share in (evaluation.top1, evaluation.top3, evaluation.top5):
        assert " ".join(percent(share).split()) in said
    for value in (f"{evaluation.macro_f1:.3f}", f"best epoch {result.best_epoch} of 2", "mobilenetv2_035"):
        assert value in said
    for record in result.history:
        assert f"{record['val_loss']:.4f}" in said and f"{record['train_loss']:.4f}" in said
    for command in ("evaluate", "predict", "train --resume"):
        assert f"fasttrain {command} " in said
    assert f"--data {shards}" in said and str(result.mlflow_run_id) in said
    for setting in ("color_jitter 0.4", "mixup 0.3", "pretrained off", f"torch {torch.__version__}"):
        assert setting in said
    assert "first step, after crop and flip, colour jitter 0.4 and Mixup 0.3: all photographs" in said
    assert len(re.findall(r'<figure>\s*<img src="data:image/png', page)) == 16
    wrong = evaluation.confusion_matrix.sum(1) - np.diag(evaluation.confusion_matrix)
    shown = sum(min(int(count), 6) for count in wrong)
    assert page.count("<figure title=") == shown > 0
    for each in evaluation.classes:
        assert each.name in said
    assert f"<title>{html.escape(RUN_NAME)}: fasttrain</title>" in page and result.folder.name in said
    baseline = majority_baseline(evaluation)
    assert f"{' '.join(percent(baseline.share).split())} baseline: always {baseline.name}" in said
    assert f"mistakes.csv, beside this page, lists all {wrong.sum()} photographs" in said
    with (result.folder / "mistakes.csv").open(encoding="utf-8", newline="") as file:
        listed = [row["file"] for row in csv.DictReader(file)]
    named = [html.unescape(name) for name in re.findall(r"<br>([^<]*)</small></p></figure>", page)]
    assert len(listed) == wrong.sum() and set(named) <= set(listed) and len(named) == shown
    right = int(np.trace(evaluation.confusion_matrix))
    cells = re.findall(r'<text class="count[^>]*>(\d+)</text>', page)
    assert sum(map(int, cells)) == evaluation.samples
    assert right / evaluation.samples == evaluation.top1


class _Tags(HTMLParser):
    """Every tag's name and attributes, as a browser would take them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.slow
def test_nothing_that_a_name_holds_is_markup(page: str) -> None:
    tags = _Tags(page).found
    assert "script" not in {tag for tag, _ in tags}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    addresses = [attributes.get(name) or "" for _, attributes in tags for name in ("href", "src", "xlink:href")]
    assert "x" not in addresses and all(each.startswith(("#", "data:")) for each in addresses if each)
    for name in HOSTILE:
        assert name in text_of(page), "said as it is, so neither run nor expanded"
    assert {attributes.get("title", "").split(": ")[0] for tag, attributes in tags if tag == "li"} >= set(HOSTILE)


def test_it_stays_small_and_complete_at_101_classes(large: Path) -> None:
    page = large.read_text()
    assert large.stat().st_size < 3_000_000
    assert len(re.findall(r"<li title=", page)) == 101
    pairs = re.findall(r"<i>→</i>", page)
    confused = synthetic(101).evaluation.confusion_matrix
    more = int((confused > 0).sum() - (confused.diagonal() > 0).sum()) - 20
    assert len(pairs) == 20 and f"and {more:,} more" in page and more > 0
    assert "Classes that are often confused are neighbours" in page
    lonely = replace(synthetic(3), history=(), config=None)
    assert "Learning curves" not in render(lonely) and "Settings" not in render(lonely)


@pytest.mark.parametrize(
    ("confidence", "said"),
    [
        (
            0.81,
            "well calibrated: overall, its confidence is 1.0 points above its accuracy. A difference of up to 2 points",
        ),
        (0.95, "overconfident: overall, its confidence is 15.0 points above"),
        (0.6, "underconfident: overall, its confidence is 20.0 points below"),
    ],
)
def test_a_small_difference_is_called_well_calibrated(confidence: float, said: str) -> None:
    report = synthetic(3)
    labels = report.predictions.labels
    top = np.stack([(labels + place) % 3 for place in range(3)], axis=1)
    top[:12] = top[:12, ::-1]  # 12 of 60 are wrong
    sure = np.tile(np.array([confidence, 0.0, 0.0], np.float32), (60, 1))
    predictions = Predictions(np.arange(60), labels, top, sure)
    page = text_of(render(replace(report, predictions=predictions, temperature=1.3)))
    assert f"This one is {said}" in page and "It makes no difference here" in page
    assert "temperature" not in text_of(render(replace(report, predictions=predictions, temperature=1.0004)))


def test_every_class_has_an_interval_that_is_seen(browser: Any, tmp_path: Path) -> None:
    """The classes of 0 % and of 100 % have one, too, in a colour that differs from the bar's in both schemes."""
    labels = torch.arange(3).repeat_interleave(20)
    answers = torch.where(labels == 0, 1, labels)
    answers[25] = 2
    meter = ClassificationMeter(3)
    ranked = meter.update(torch.nn.functional.one_hot(answers, 3).float(), labels)
    evaluation = with_intervals(meter.compute(["none right", "nearly all", "all right"]))
    sure = np.full((60, 3), 0.3, np.float32)
    predictions = Predictions(np.arange(60), labels.numpy(), ranked.numpy(), sure)
    write_page(tmp_path / "page.html", Report("run", "net", "test", evaluation, predictions))
    for scheme in ("light", "dark"):
        tab = browser.new_page(color_scheme=scheme)
        tab.goto((tmp_path / "page.html").as_uri())
        spans = tab.evaluate("[...document.querySelectorAll('.track u')].map(each => each.offsetWidth)")
        assert len(spans) == 3 and min(spans) > 10
        colours = "['i', 'u'].map(each => getComputedStyle(document.querySelector(`.track ${each}`)).backgroundColor)"
        bar, line = ([int(part) for part in re.findall(r"\d+", each)[:3]] for each in tab.evaluate(colours))
        assert sum(abs(one - other) for one, other in zip(bar, line, strict=True)) > 150
        tab.close()


@pytest.mark.slow
def test_an_evaluation_has_one_too(result: TrainResult, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    found = evaluate(result.folder, shards, loader="torchvision", workers=0, report=out)
    said = text_of(out.read_text())
    assert " ".join(percent(found.top1).split()) in said and f"{result.folder.name} on val" in said
    assert "<figure title=" in out.read_text() and "Learning curves" not in said
    assert "page-mistakes.csv" in said and (tmp_path / "page-mistakes.csv").is_file()


@pytest.mark.slow
def test_a_report_that_fails_costs_one_line(
    result: TrainResult, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "again"
    shutil.copytree(result.folder, folder)
    for name in ("report.html", "evaluation.json"):
        (folder / name).unlink()
    (folder / "report.html").mkdir()
    (folder / "report.html" / "in the way").touch()
    again = train(resume=str(folder), track=False)
    assert again.evaluation == result.evaluation
    warnings = [line for line in capsys.readouterr().out.splitlines() if "report could not be written" in line]
    assert len(warnings) == 1 and str(folder / "train.log") in warnings[0]
    assert (folder / "evaluation.json").exists() and (folder / "reliability.png").exists()
    log = (folder / "train.log").read_text()
    assert "Traceback" in log and "report.html" in log


@pytest.mark.slow
def test_a_linear_probe_has_its_photographs(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    settings = {**SMALL, "image_size": 32, "epochs": 1, "linear_probe": True, "track": False}
    run = train(data=shard_folder, out=tmp_path / "runs", **settings)
    page = (run.folder / "report.html").read_text()
    said = text_of(page)
    assert "<figure title=" in page and "Only the classifier was trained, on features" in said
    for only_in_training in (
        "waiting",
        "images/s",
        "First batch",
        "Learning curves",
        "Speed",
        "more epochs",
        "epoch 1",
    ):
        assert only_in_training not in said.partition("Settings that differ")[0], only_in_training
    assert "L2 penalty" in said and "try 1 of 1" in said and "--no-linear-probe" in said


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", ["desktop", "phone"])
@pytest.mark.parametrize("kind", ["run", "large"])
@pytest.mark.slow
def test_it_opens_right(
    browser: Any, request: pytest.FixtureRequest, tmp_path: Path, device: str, scheme: str, kind: str
) -> None:
    path = request.getfixturevalue("large") if kind == "large" else request.getfixturevalue("result").folder / RUN_PAGE
    width, height = WIDTHS[device]
    view = {"viewport": {"width": width, "height": height}, "is_mobile": device == "phone"}
    context = browser.new_context(color_scheme=scheme, **view)
    tab = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("dialog", lambda dialog: complaints.append(dialog.message))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(path.as_uri())
    for opened in tab.query_selector_all("summary"):
        opened.click()
    tab.screenshot(path=tmp_path / "page.png", full_page=True)
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    assert tab.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert tab.evaluate("document.scripts.length") == 0
    assert tab.evaluate("[...document.images].every(each => each.complete && each.naturalWidth > 0)")
    # Nothing sticks out of its section but what lies in a box that scrolls.
    outside = """[...document.querySelectorAll('section *')].filter(each => !each.closest('.scroll, pre, svg')
        && each.getBoundingClientRect().right > each.closest('section').getBoundingClientRect().right + 1).length"""
    assert tab.evaluate(outside) == 0
    scrolls = "(each => each.scrollWidth > each.clientWidth)(document.querySelector('#confusion .scroll'))"
    if kind == "large":
        assert tab.evaluate(scrolls) == (device == "phone")
    charts = tab.evaluate("[...document.querySelectorAll('svg.chart')].map(each => each.getBoundingClientRect().width)")
    assert len(charts) == (7 if kind == "run" else 1) and min(charts) > 250
    shades = "['backgroundColor', 'color'].map(each => getComputedStyle(document.body)[each].match(/\\d+/)[0])"
    ground, ink = map(int, tab.evaluate(shades))
    assert ground - ink > 150 if scheme == "light" else ink - ground > 150
    lines = "getComputedStyle(document.querySelector('svg.chart text')).fill.match(/\\d+/)[0]"
    assert abs(int(tab.evaluate(lines)) - ground) > 80
    with Image.open(tmp_path / "page.png") as shot:
        assert shot.width == width and len(shot.convert("RGB").getcolors(1 << 24)) > 200
    context.close()
