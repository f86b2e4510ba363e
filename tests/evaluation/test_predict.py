"""`predict`: files, folders and globs in, the same answers in every format and batch size out, broken files told of."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest
import torch

from fasttrain import predict
from fasttrain.checkpoint.trained import load_trained
from fasttrain.data.photograph import read_photograph
from fasttrain.errors import UserError
from fasttrain.evaluation.inputs import Refused, find_photographs
from fasttrain.evaluation.predict import Prediction, Predictor
from fasttrain.evaluation.printed import print_predictions
from fasttrain.model.preprocess import NormalizePixels


@pytest.fixture(scope="module")
def food(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of three photographs, among them a broken one and one that a glob would misread, and a text."""
    folder = tmp_path_factory.mktemp("food")
    for name in ("pizza", "soup"):
        (folder / name).mkdir()
        for number in range(3):
            data = (photographs / name / f"{number:04d}.jpg").read_bytes()
            (folder / name / f"{number}.jpg").write_bytes(data)
    (folder / "pizza" / "[1].jpg").write_bytes((folder / "pizza" / "1.jpg").read_bytes())
    (folder / "soup" / "1.jpg").write_bytes((folder / "soup" / "1.jpg").read_bytes()[:3000])
    (folder / "soup" / "notes.txt").write_text("hot")
    return folder


@pytest.fixture(scope="module")
def predictor(model_folder: Path) -> Predictor:
    return Predictor(model_folder, batch_size=2, device="cpu", workers=2)


def names(found: list[Path | Refused], root: Path) -> list[str]:
    return [str(each.relative_to(root)) for each in found if isinstance(each, Path)]


def test_folders_files_and_globs_name_the_same_photographs(food):
    below = ["pizza/0.jpg", "pizza/1.jpg", "pizza/2.jpg", "pizza/[1].jpg"]
    assert names(list(find_photographs([food / "pizza"])), food) == below
    assert names(list(find_photographs([f"{food}/p*"])), food) == below
    assert names(list(find_photographs([f"{food}/**/[01].jpg"])), food) == [
        *("pizza/0.jpg", "pizza/1.jpg", "soup/0.jpg", "soup/1.jpg")
    ]
    assert names(list(find_photographs([food / "pizza/[1].jpg"])), food) == ["pizza/[1].jpg"]
    soup = [each for each in find_photographs([food / "soup"]) if isinstance(each, Refused)]
    assert [(Path(each.path).name, each.broken) for each in soup] == [("notes.txt", False)]


def test_what_names_nothing_is_told(food, tmp_path):
    found = list(find_photographs([f"{food}/x*.jpg", tmp_path]))
    assert [each.broken for each in found] == [True, True]
    assert "x*.jpg" in str(found[0]) and "no photograph" in str(found[1])


def test_a_file_that_is_not_there_is_missing_and_not_broken(food, model_folder, tmp_path):
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    found = list(find_photographs([food / "nope.jpg", food / "soup" / "0.jpg" / "nope.jpg", tmp_path / "link.jpg"]))
    assert [getattr(each, "missing", None) for each in found] == [True, True, None]
    with pytest.raises(UserError, match=r"nope\.jpg: no such file; check the path"):
        predict(model_folder, food / "nope.jpg")


def test_the_stream_goes_on_after_a_broken_file_and_batches_make_no_difference(food, predictor, model_folder):
    refused: list[Refused] = []
    streamed = list(predictor.stream([food, food / "none.jpg"], refused.append))
    assert [each.image.name for each in streamed] == ["0.jpg", "1.jpg", "2.jpg", "[1].jpg", "0.jpg", "2.jpg"]
    broken = {Path(each.path).name for each in refused if each.broken}
    assert broken == {"1.jpg", "none.jpg"}
    alone = [predict(model_folder, each.image, device="cpu", batch_size=1)[0] for each in streamed]
    for one, other in zip(alone, streamed, strict=True):
        assert one.classes == other.classes
        assert one.probabilities == pytest.approx(other.probabilities, rel=1e-4)
    assert len({each.probabilities for each in alone}) == 5  # pizza 1 is there twice


def test_python_refuses_a_broken_file_by_its_name(food, model_folder):
    with pytest.raises(UserError, match=r"soup/1\.jpg: truncated"):
        predict(model_folder, [food])


def test_no_more_than_what_is_decoded_ahead_is_asked_for(food, predictor):
    asked = 0

    def endless():
        nonlocal asked
        while asked < 1000:
            asked += 1
            yield food / "pizza" / "0.jpg"

    stream = predictor.stream(endless())
    for _ in range(4):
        next(stream)
    stream.close()
    assert 4 <= asked < 20


def test_tta_averages_the_logits_of_the_mirror_image_too(food, model_folder):
    path = food / "pizza" / "0.jpg"
    model, spec = load_trained(model_folder)
    pixels = torch.from_numpy(read_photograph(path, spec.image_size))
    inputs = NormalizePixels(spec.mean, spec.std, channels_last=True)(torch.stack([pixels, pixels.flip(1)]))
    with torch.inference_mode():
        logits = model(inputs)
    for tta, wanted in (("none", logits[0]), ("flip", logits.mean(0))):
        said = predict(model_folder, path, device="cpu", top_k=6, tta=tta)[0]
        probabilities = wanted.softmax(0).sort(descending=True)
        assert said.classes == tuple(spec.classes[label] for label in probabilities.indices)
        assert said.probabilities == pytest.approx(probabilities.values.tolist(), rel=1e-3)
    with pytest.raises(UserError, match="tta"):
        predict(model_folder, path, tta="rotate")


def written(predictions, format, width=None):
    out = io.StringIO()
    count = print_predictions(iter(predictions), format, out, width=width)
    assert count == len(predictions)
    return out.getvalue()


def test_every_format_says_the_same(food, predictor):
    predictions = list(predictor.stream([food / "pizza"]))
    said = [each.to_dict() for each in predictions]
    assert json.loads(written(predictions, "json")) == said
    assert [json.loads(line) for line in written(predictions, "jsonl").splitlines()] == said
    rows = list(csv.DictReader(io.StringIO(written(predictions, "csv"))))
    assert [row["image"] for row in rows] == [str(each.image) for each in predictions]
    assert [row["class_2"] for row in rows] == [each.classes[1] for each in predictions]
    assert float(rows[0]["probability_1"]) == pytest.approx(predictions[0].probabilities[0], rel=1e-5)
    lines = written(predictions, "table").splitlines()
    assert len(lines) == 1 + len(predictions)
    assert all(
        str(each.image) in line and each.classes[0] in line for each, line in zip(predictions, lines[1:], strict=True)
    )
    assert written([], "json") == "[]\n" and written([], "table") == ""


def test_a_terminal_is_not_overrun_and_keeps_the_end_of_a_path():
    long = Prediction(
        Path("/a/very/long/way/to/the/kitchen/of/the/dishes/pizza/0001.jpg"), ("pizza", "soup"), (0.9, 0.1)
    )
    lines = written([long], "table", width=50).splitlines()
    assert max(map(len, lines)) <= 50
    assert "pizza/0001.jpg" in lines[1] and "90.0%" in lines[1]


def test_the_command_prints_what_it_can_and_lists_the_rest(food, model_folder, monkeypatch, capsys):
    from fasttrain.cli import main

    line = ["predict", "--checkpoint", str(model_folder), "--format", "jsonl", "--device", "cpu", str(food)]
    line.append(f"{food}/nope.jpg")
    monkeypatch.setattr(sys, "argv", ["fasttrain", *line])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == 2
    assert len(shown.out.splitlines()) == 6
    assert f"missing: {food}/nope.jpg: no such file" in shown.err.splitlines()
    assert f"broken: {food}/soup/1.jpg: truncated" in shown.err and "notes.txt: not a photograph" in shown.err
    assert shown.err.splitlines()[-1] == (
        "fasttrain: 2 files could not be read, see the list above; predictions were made for 6 photographs"
    )
