"""The geometry of evaluation: one for validation, evaluate, predict, the report and export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fasttrain import Loader, decode, evaluate, predict, train
from fasttrain.checkpoint.trained import load_trained
from fasttrain.config.geometry import Geometry
from fasttrain.config.load import resolve
from fasttrain.data.crops import CenterCrop, Resize, evaluation_crop
from fasttrain.errors import UserError
from fasttrain.export.export import export
from fasttrain.model.preprocess import NormalizePixels
from fasttrain.training.image_size import with_fitting_sizes
from fasttrain.training.result import TrainResult
from tests.support.runs import SMALL

LETTERBOXED = {**SMALL, "image_size": 32, "eval_size": 64, "resize_mode": "letterbox", "epochs": 1, "track": False}
READ: dict[str, Any] = {"loader": "torchvision", "workers": 0, "batch_size": 64}  # the settings of the runs


@pytest.fixture(scope="module")
def oblong_folder(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Path:
    """Return a folder of photographs of several aspect ratios, each stretched from a square one."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("oblong") / "photographs"
    for number, path in enumerate(sorted(photographs.glob("*/*.jpg"))):
        target = folder / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize([(96, 64), (60, 100), (80, 80)][number % 3]).save(target, quality=95)
    return folder


@pytest.fixture(scope="module")
def trained(oblong_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(data=oblong_folder, out=tmp_path_factory.mktemp("runs"), **LETTERBOXED)


def test_a_geometry_is_a_crop_and_words() -> None:
    for geometry, crop, words in (
        (Geometry(224), CenterCrop(224), "224 px"),
        (Geometry(224, 1.0), CenterCrop(224, 1.0), "224 px, the centre 1 of the short side"),
        (Geometry(96, resize_mode="squash"), Resize(96, "squash"), "96 px, squashed"),
        (Geometry(96, resize_mode="letterbox"), Resize(96, "letterbox"), "96 px, letterboxed"),
        (Geometry(224, interpolation="bicubic"), CenterCrop(224, interpolation="bicubic"), "224 px, bicubic"),
        (
            Geometry(96, resize_mode="squash", interpolation="bicubic"),
            Resize(96, "squash", interpolation="bicubic"),
            "96 px, squashed, bicubic",
        ),
    ):
        assert evaluation_crop(geometry) == crop and str(geometry) == words


def test_settings_make_the_geometry() -> None:
    assert resolve({}).geometry == Geometry(224, 0.875, "crop")
    assert resolve({"image_size": 176, "eval_size": 224, "crop_pct": 1}).geometry == Geometry(224, 1.0, "crop")
    assert resolve({"interpolation": "bicubic"}).geometry == Geometry(224, interpolation="bicubic")
    with pytest.raises(
        UserError, match=r"crop_pct = 0.9 has no meaning with resize_mode = 'squash'.*leave one of them"
    ):
        resolve({"crop_pct": 0.9, "resize_mode": "squash"})


@pytest.mark.slow
def test_an_evaluation_size_that_the_model_does_not_take() -> None:
    said = r"^eval_size = 96: a vit_tiny_patch16_224 of 64 px does not take 96 px; leave it out$"
    with pytest.raises(UserError, match=said):
        with_fitting_sizes(resolve({"model": "vit_tiny_patch16_224", "image_size": 64, "eval_size": 96}))


@pytest.mark.slow
def test_a_run_stores_what_evaluate_predict_and_export_need(trained: TrainResult, oblong_folder: Path) -> None:
    folder = trained.folder
    written = json.loads((folder / "model.json").read_text())
    assert [written[name] for name in ("image_size", "crop_pct", "resize_mode")] == [64, 0.875, "letterbox"]
    assert trained.history[0]["image_size"] == 32
    assert "trained on 32 px, evaluated on 64 px, letterboxed" in (folder / "report.html").read_text("utf-8")

    model, spec = load_trained(folder)
    with Loader(oblong_folder, split="val", crop=Resize(64, "letterbox"), **READ) as loader:
        ((images, labels),) = loader
        ids = loader.ids
        keys = loader.shards.index["key"][ids]
    with torch.inference_mode():
        logits = model(NormalizePixels(spec.mean, spec.std, channels_last=True)(images))
    loss = float(torch.nn.functional.cross_entropy(logits, labels))
    again = evaluate(folder, oblong_folder, split="val", device="cpu", **READ)
    assert again.loss == pytest.approx(trained.evaluation.loss, abs=1e-4) == pytest.approx(loss, abs=1e-3)

    for key, expected in list(zip(keys, (logits / spec.temperature).softmax(1), strict=True))[:3]:
        photograph = oblong_folder / f"{key.decode()}.jpg"
        (found,) = predict(folder, photograph, top_k=6, device="cpu", workers=1)
        in_order = [found.probabilities[found.classes.index(name)] for name in spec.classes]
        assert in_order == pytest.approx(
            expected.tolist(), abs=0.05
        )  # the temperature enlarges what decoders differ by

    said = export(folder, "torchscript", data=oblong_folder, photographs=3, speed=False).metadata
    assert (said["image_size"], said["resize_mode"]) == (64, "letterbox") and "grey (114)" in said["preprocess"]
    assert said["input"].startswith("uint8 [n, 64, 64, 3]")


@pytest.mark.slow
def test_an_older_model_json_means_the_usual_crop(trained: TrainResult, oblong_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.folder, tmp_path / "run"))
    written = json.loads((folder / "model.json").read_text())
    older = {name: each for name, each in written.items() if name not in ("crop_pct", "resize_mode")}
    (folder / "model.json").write_text(json.dumps(older))
    assert load_trained(folder)[1].geometry == Geometry(64)
    for wrong in ({"crop_pct": 0}, {"crop_pct": "all"}, {"resize_mode": "stretch"}):
        (folder / "model.json").write_text(json.dumps({**written, **wrong}))
        with pytest.raises(UserError, match=r"not a model\.json of fasttrain "):
            load_trained(folder)


@pytest.mark.slow
def test_a_linear_probe_has_features_of_what_is_evaluated(
    oblong_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    settings: dict[str, Any] = {**LETTERBOXED, "linear_probe": True}
    settings.pop("learning_rate")
    result = train(data=oblong_folder, out=tmp_path / "runs", **settings)
    again = evaluate(result.folder, oblong_folder, split="val", device="cpu", **READ)
    assert again.loss == pytest.approx(result.evaluation.loss, abs=1e-3)


def test_decode_shows_a_photograph_as_the_loader_does(oblong_folder: Path) -> None:
    for crop in (Resize(48, "letterbox"), Resize(48, "squash"), CenterCrop(48, crop_pct=0.6)):
        with Loader(oblong_folder, convert=False, split="val", crop=crop, workers=1, batch_size=64) as loader:
            ((images, _),) = loader
            files = [loader.shards.describe(int(each)) for each in loader.ids]
        mode = crop.mode if isinstance(crop, Resize) else "crop"
        share = crop.crop_pct if isinstance(crop, CenterCrop) else 0.875
        pixels = decode(files, 48, crop_pct=share, resize_mode=mode, workers=1)
        assert np.abs(pixels.numpy().astype(int) - images.numpy()).max() <= 2
    with pytest.raises(UserError, match="give 'squash' or 'letterbox'"):
        decode(b"", resize_mode="stretch")  # type: ignore[arg-type]
