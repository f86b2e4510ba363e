"""A small data set, drawn and converted once for the whole session."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.patience import PATIENCE

# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them send themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same few examples each time, on a machine of any speed; `pytest --hypothesis-profile full` looks for new ones.
_quick = settings(deadline=None, max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
settings.register_profile("quick", _quick)
settings.register_profile("full", settings(_quick, max_examples=2000, derandomize=False, database=None))
settings.load_profile("full" if os.environ.get("FASTTRAIN_RELIABILITY") else "quick")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have what is left out by `-m "not full"` be left out by `-m "not slow"`, too."""
    for item in items:
        if item.get_closest_marker("full") is not None:
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def _patient_with_mlflow() -> Iterator[None]:
    """Runs in this process wait for MLflow, which is slow to begin, for as long as a busy machine takes."""
    from fasttrain.tracking import tracker as mlflow

    with pytest.MonkeyPatch.context() as patch:
        for name in ("FINISH_TIMEOUT", "RUN_TIMEOUT", "_KILLED_S"):
            patch.setattr(mlflow, name, PATIENCE)
        yield


@pytest.fixture(autouse=True)
def _torch_as_at_its_start() -> Iterator[None]:
    """Undo what a run in this process leaves in torch's process-wide switches, which the next test would inherit."""
    yield
    if (torch := sys.modules.get("torch")) is not None:
        from fasttrain.device import fast_math

        torch.use_deterministic_algorithms(False)
        fast_math(deterministic=False)
        torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of class folders: 6 classes of the sample, 16 photographs each."""
    from fasttrain.photos.sample import draw_sample

    folder = tmp_path_factory.mktemp("photographs") / "sample"
    draw_sample(folder, per_class=16)
    return folder


@pytest.fixture(scope="session")
def shard_folder(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, converted to shards."""
    from fasttrain.shards.convert import convert

    out = tmp_path_factory.mktemp("shards") / "sample"
    convert(str(photographs), out, workers=1, progress=False, shard_size=40, format="tar,beton")
    return out


@pytest.fixture(scope="session")
def multi_label_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures with any number of four shapes, and `labels.jsonl`."""
    from tests.support.multi_label import draw_scenes

    return draw_scenes(tmp_path_factory.mktemp("scenes") / "pictures", count=160).parent


@pytest.fixture(scope="session")
def multi_label_shards(multi_label_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, converted to shards."""
    from fasttrain.shards.convert import convert

    out = tmp_path_factory.mktemp("shards") / "scenes"
    convert(multi_label_pictures / "labels.jsonl", out, workers=1, progress=False, shard_size=40, format="tar,beton")
    return out


def make_model_folder(photographs: Path, runs: Path, name: str) -> Path:
    """A run folder in `runs` with the small model `name` for 48 px: not trained, but it tells photographs apart."""
    import numpy as np
    import timm
    import torch

    from fasttrain.checkpoint.run_folder import RunFolder
    from fasttrain.config.geometry import Geometry
    from fasttrain.data.photograph import read_photograph
    from fasttrain.model.factory import model_spec
    from fasttrain.model.preprocess import NormalizePixels

    classes = sorted(path.name for path in photographs.iterdir())
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=len(classes))  # with a random classifier
    spec = model_spec(model, name, classes, Geometry(48))
    some = np.stack([read_photograph(path, 48) for path in sorted(photographs.glob("*/000[0-3].jpg"))])
    pictures = NormalizePixels(spec.mean, spec.std, channels_last=False)(torch.from_numpy(some))
    with torch.no_grad():
        for _ in range(20):  # BatchNorm's running means, which are those of no picture at first
            model(pictures)
        logits, head = model.eval()(pictures), model.get_classifier()  # type: ignore[operator]
        head.bias.sub_(logits.mean(0))
        for each in (head.weight, head.bias):
            each.mul_(2 / logits.std(0).mean())
    folder = RunFolder.create(runs, spec.name)
    folder.write_model(model)
    folder.write_model_spec(spec)
    return folder.path


@pytest.fixture(scope="session")
def model_folder(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the six classes, see `make_model_folder`."""
    return make_model_folder(photographs, tmp_path_factory.mktemp("runs"), "mobilenetv2_035")


@pytest.fixture(scope="session")
def signed() -> Callable[[Path], Path]:
    """Makes the manifest of a folder of shards, and the record of its `.beton` files, speak of what lies there: as
    whoever damages them on purpose would."""

    def sign(folder: Path) -> Path:
        def digest(name: str) -> str:
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()

        plain = json.loads((folder / "manifest.json").read_bytes())
        plain["index"]["sha256"] = digest("index.npy")
        for shard in plain["shards"]:
            shard.update(sha256=digest(shard["name"]), bytes=(folder / shard["name"]).stat().st_size)
        plain["files"] = {name: digest(name) for name in plain["files"]}
        plain.pop("checksum", None)
        (folder / "manifest.json").write_text(json.dumps(plain))
        betons = {path.name: path for path in folder.glob("*.beton")}
        files = {
            name: {
                "samples": plain["splits"][name.removesuffix(".beton")],
                "bytes": path.stat().st_size,
                "sha256": digest(name),
            }
            for name, path in betons.items()
        }
        record = {"shards": f"sha256:{digest('manifest.json')}", "files": files}
        (folder / "beton.json").write_text(json.dumps(record))
        return folder

    return sign


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real, headless Chromium."""
    sync_playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright").sync_playwright
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)  # with --headless and --no-sandbox
        yield browser
        browser.close()
