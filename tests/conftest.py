"""A small data set, drawn and converted once for the whole session."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them send themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
def model_folder(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a small model of the six classes for 48 px: not trained, but it tells photographs apart."""
    import torch

    from fasttrain.evaluation.predict import read_photograph
    from fasttrain.model.factory import create_model, model_spec
    from fasttrain.model.preprocess import Normalise
    from fasttrain.report.artifacts import RunFolder

    classes = sorted(path.name for path in photographs.iterdir())
    torch.manual_seed(0)
    model = create_model("mobilenetv2_035", len(classes))
    spec = model_spec(model, "mobilenetv2_035", classes, 48)
    some = torch.stack([read_photograph(path, 48) for path in sorted(photographs.glob("*/000[0-3].jpg"))])
    pictures = Normalise(spec.mean, spec.std, channels_last=False)(some)
    with torch.no_grad():
        for _ in range(20):  # BatchNorm's running means, which are those of no picture at first
            model(pictures)
        logits, head = model.eval()(pictures), model.get_classifier()  # type: ignore[operator]
        head.bias.sub_(logits.mean(0))
        for each in (head.weight, head.bias):
            each.mul_(2 / logits.std(0).mean())
    folder = RunFolder.create(tmp_path_factory.mktemp("runs"), spec.name)
    folder.write_model(model)
    folder.write_model_spec(spec)
    return folder.path
