"""The temperature of logits that were drawn at a known one; the runs and files that hold it, and what uses it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fasttrain
from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.checkpoint.trained import load_trained
from fasttrain.errors import UserError
from fasttrain.evaluation import temperature as module
from fasttrain.evaluation.temperature import LogitSample, fit_temperature
from fasttrain.ranks import Ranks
from tests.support.host_waits import GPU, fake_gpu
from tests.support.runs import SMALL


def drawn(temperature: float, samples: int = 20_000, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their softmax at `temperature`."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(samples, classes, generator=generator)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]
    return logits.numpy(), labels.numpy()


def nll(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    return float(torch.nn.functional.cross_entropy(torch.tensor(logits).double() / temperature, torch.tensor(labels)))


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_at_is_found(true: float) -> None:
    logits, labels = drawn(true)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(true, rel=0.04)
    for other in (0.9 * found, 1.1 * found, 1.0):
        assert nll(logits, labels, found) <= nll(logits, labels, other)


def test_without_a_mistake_the_likelihood_says_nothing_and_without_a_hit_it_ends_at_the_bound() -> None:
    logits = np.array([[2.0, 1.0], [0.0, 3.0]], np.float32)
    assert fit_temperature(logits, np.array([0, 1])) == 1.0
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(20, rel=1e-3)
    assert 0.05 <= fit_temperature(1e4 * logits, np.array([0, 0])) <= 20


def test_of_many_photographs_every_kth_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = drawn(1.7, 3000)
    monkeypatch.setattr(module, "_MOST_LOGITS", 700 * 7)  # every fifth
    sample = LogitSample(3000, 7)
    for part in np.split(np.arange(3000), [1, 8, 1024, 1025]):
        sample.add(torch.tensor(logits[part]), torch.tensor(labels[part]))
    assert sample.temperature(Ranks()) == fit_temperature(logits[::5], labels[::5])


def test_logits_may_lie_where_the_last_batchs_lay_as_a_cuda_graphs_do() -> None:
    logits, labels = drawn(1.7, 3000)
    sample, output = LogitSample(3000, 7), torch.empty(1000, 7)
    for part in np.split(np.arange(3000), 3):
        sample.add(output.copy_(torch.tensor(logits[part])), torch.tensor(labels[part]))
    assert sample.temperature(Ranks()) == fit_temperature(logits, labels)


def test_no_batch_waits_for_the_device() -> None:
    with fake_gpu() as waits:
        LogitSample(8, 7).add(torch.randn(8, 7, device=GPU), torch.zeros(8, dtype=torch.int64, device=GPU))
    assert not waits


@pytest.fixture
def hot_folder(model_folder: Path, tmp_path: Path) -> Path:
    """The session's model with a temperature of 3."""
    folder = tmp_path / "run"
    shutil.copytree(model_folder, folder)
    _, spec = load_trained(folder)
    assert spec.temperature == 1
    RunFolder(folder).write_model_spec(replace(spec, temperature=3.0))
    return folder


def test_predict_divides_by_it_and_the_order_stays(hot_folder: Path, model_folder: Path, photographs: Path) -> None:
    some = sorted(photographs.glob("*/0000.jpg"))
    before, after = (fasttrain.predict(each, some, top_k=6, device="cpu") for each in (model_folder, hot_folder))
    for plain, hot in zip(before, after, strict=True):
        assert plain.classes == hot.classes
        cooled = np.array(hot.probabilities) ** 3
        np.testing.assert_allclose(cooled / cooled.sum(), plain.probabilities, rtol=1e-4)


def test_evaluate_gives_both_errors(hot_folder: Path, model_folder: Path, shard_folder: Path) -> None:
    options = {"split": "train", "workers": 0, "device": "cpu", "loader": "torchvision"}
    before, after = (fasttrain.evaluate(each, shard_folder, **options) for each in (model_folder, hot_folder))
    assert before.ece == before.uncalibrated_ece == after.uncalibrated_ece != after.ece
    assert (before.top1, before.loss) == (after.top1, after.loss)


def test_a_temperature_that_is_none_is_refused_and_an_old_file_has_1(hot_folder: Path) -> None:
    path = hot_folder / "model.json"
    written = json.loads(path.read_text())
    for bad in (0, -1, "hot", float("inf"), None):
        path.write_text(json.dumps({**written, "temperature": bad}))
        with pytest.raises(UserError, match=r"model\.json"):
            load_trained(hot_folder)
    del written["temperature"]
    path.write_text(json.dumps(written))
    assert load_trained(hot_folder)[1].temperature == 1


@pytest.mark.slow
def test_a_run_fits_it_on_the_validation_split(shard_folder: Path, tmp_path: Path) -> None:
    result = fasttrain.train(data=shard_folder, out=tmp_path, track=False, **SMALL)
    model, spec = load_trained(result.folder)
    checkpoint = max(result.folder.glob("checkpoints/*"))
    assert load_trained(checkpoint)[1].temperature == 1  # it wasn't fitted to those weights
    logits, labels = [], []

    from fasttrain.evaluation.splits import batches
    from fasttrain.model.preprocess import NormalizePixels
    from fasttrain.shards.reader import ShardSet

    shards = ShardSet.open(shard_folder)
    with torch.inference_mode():
        seen = batches(shards, shards.ids("val"), 48, batch_size=16, loader="torchvision", workers=0, device="cpu")
        for images, of_batch, _ in seen:
            logits.append(model(NormalizePixels(spec.mean, spec.std, channels_last=True)(images)))
            labels.append(of_batch)
    found = fit_temperature(torch.cat(logits).numpy(), torch.cat(labels).numpy())
    assert spec.temperature == pytest.approx(found, rel=1e-3) and spec.temperature != 1
    written = json.loads((result.folder / "evaluation.json").read_text())
    assert written["ece"] == result.evaluation.ece != written["uncalibrated_ece"]
    assert f"temperature of {spec.temperature:.3g}" in (result.folder / "report.html").read_text()
