"""Loaders over `convert --raw --max-size`: the same plan, no JPEG to decode."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from fasttrain import train
from fasttrain.errors import UserError
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.registry import choose_loader, loader_class
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet
from tests.support.old_torch import OLD_TORCH

READERS = ("native", "torchvision")
# Both resize the same pixels with the same triangular filter, each rounding its weights and the values between its two
# passes to fixed point: 2 grey levels at most, as in tests/native/test_decode.py, 0.03 in the mean were measured.
MOST, MEAN = 2, (0.3 if OLD_TORCH else 0.1)


@pytest.fixture(scope="module")
def shards(photographs, tmp_path_factory):
    out = tmp_path_factory.mktemp("raw") / "shards"
    convert(photographs, out, raw=True, max_size=128, workers=1, progress=False, shard_size=40)
    return ShardSet.open(out)


def make(name, shards, split="train", **changes):
    kind = loader_class(name)
    if reason := kind.unavailable(shards, "cpu"):
        pytest.skip(reason)
    settings = LoaderSettings(
        **{"batch_size": 16, "image_size": 48, "crop": Crop(), "seed": 3, "workers": 0, **changes}
    )
    return kind(shards, shards.ids(split), settings)


def reference(shards, sample, box, flip, size):
    """The crop of the stored pixels by torchvision's own functions, from the `.npy` file in the tar."""
    import io
    import tarfile

    from torchvision.transforms.v2 import functional as F

    row = shards.index[sample]
    with tarfile.open(shards.folder / shards.manifest.shards[row["shard"]].name) as tar:
        full = np.load(io.BytesIO(tar.extractfile(row["key"].decode() + ".npy").read()))
    top, left, height, width = box
    image = F.resized_crop(
        torch.from_numpy(full).permute(2, 0, 1), top, left, height, width, list(size), antialias=True
    )
    return (F.horizontal_flip(image) if flip else image).permute(1, 2, 0)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("workers", [0, 2])
def test_crops_are_those_of_the_plan(name, shards, split, workers):
    loader = make(name, shards, split, workers=workers, **({} if split == "train" else {"crop": None}))
    plan = loader.plan()
    batches = list(loader)
    loader.close()
    images, ids = torch.cat([batch[0] for batch in batches]), torch.cat([batch[2] for batch in batches]).tolist()
    assert ids == plan.ids.tolist()
    apart = [
        (image.int() - reference(shards, sample, box, flip, (48, 48)).int()).abs()
        for image, sample, box, flip in zip(images, ids, plan.boxes.tolist(), plan.flips.tolist(), strict=True)
    ]
    most = 0 if name == "torchvision" else MOST
    assert max(int(each.max()) for each in apart) <= most
    assert max(float(each.float().mean()) for each in apart) <= min(most, MEAN)


@pytest.mark.parametrize(("name", "repair"), [("ffcv", "--loader native"), ("dali", "--loader native")])
def test_who_needs_jpegs_says_so(name, repair, shards, shard_folder):
    reason = loader_class(name).unavailable(shards, "cuda")
    assert "pixels" in reason and repair in reason and "--raw" in reason and "\n" not in reason
    with pytest.raises(UserError, match=f"loader = '{name}'.*{repair}"):
        choose_loader(name, shards, "cpu")
    assert "pixels" not in (loader_class(name).unavailable(ShardSet.open(shard_folder), "cpu") or "")


def test_auto_takes_one_that_reads_them(shards):
    for device in ("cpu", "cuda"):
        assert choose_loader("auto", shards, device)[0].name in READERS


@pytest.mark.parametrize("name", READERS)
def test_a_photograph_whose_size_is_wrong_is_named(name, shards, tmp_path, signed):
    broken = tmp_path / "broken"
    shutil.copytree(shards.folder, broken)
    index = np.load(broken / "index.npy")
    index["height"][5] -= 1
    np.save(broken / "index.npy", index)
    loader = make(name, ShardSet.open(signed(broken)))
    with pytest.raises(UserError, match=f"{index['key'][5].decode()}.*--on-bad-sample skip"):
        list(loader)
    loader.close()


@pytest.mark.slow
def test_an_epoch_of_training(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    make("native", shards).close()
    result = train(
        data=shards.folder,
        out=tmp_path / "runs",
        model="mobilenetv2_035",
        pretrained=False,
        image_size=48,
        batch_size=16,
        epochs=1,
        limit_batches=2,
        workers=1,
        device="cpu",
        loader="native",
    )
    assert 0 <= result.evaluation.top1 <= 1 and (result.folder / "model.safetensors").exists()
