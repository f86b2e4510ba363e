"""Which photographs `evaluate` and `export` take, with which labels, and that it is said how many there were."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fasttrain import evaluate, predict
from fasttrain.cli import app
from fasttrain.errors import UserError
from fasttrain.evaluation.splits import batches
from fasttrain.export.photographs import some_photographs
from fasttrain.loaders.registry import loader_class
from fasttrain.shards.convert import convert, ensure_shards
from fasttrain.shards.reader import ShardSet

PLAIN = {"loader": "auto", "workers": 0, "device": "cpu"}  # whose decoder is that of `predict`, too


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def lay(root: Path, photographs: Path, classes: dict[str, int], first: int = 0) -> Path:
    """Class folders in `root`, each with so many of the session's photographs from number `first` on."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for path in sorted((photographs / name).iterdir())[first : first + count]:
            shutil.copy(path, root / name)
    return root


def right(model: Path, folder: Path) -> float:
    """The share of the photographs in class folders that `predict` names rightly."""
    found = predict(model, folder, top_k=1, device="cpu")
    return float(np.mean([each.classes[0] == each.image.parent.name for each in found]))


def told(*line: object) -> str:
    done = CliRunner().invoke(app, [str(each) for each in line])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return " ".join(done.output.split())


@pytest.mark.parametrize(
    "classes",
    [
        {"donuts": 5, "pancakes": 5, "pizza": 5, "salad": 5, "soup": 5, "sushi": 5},
        {"donuts": 3, "pizza": 1, "salad": 2, "sushi": 16},
        {"soup": 7},
        {"pizza": 4, "soup": 0, "sushi": 3},
    ],
    ids=["all classes", "some classes", "one class", "an empty class"],
)
@pytest.mark.slow
def test_a_folder_of_class_folders_is_evaluated_whole(classes, model_folder, photographs, tmp_path):
    folder = lay(tmp_path / "held out", photographs, classes)
    found = evaluate(model_folder, folder, report=tmp_path / "page.html", **PLAIN)
    assert found.samples == sum(classes.values())
    support = {each.name: each.support for each in found.classes}
    assert support == {**dict.fromkeys(support, 0), **classes} and len(support) == 6
    assert found.top1 == pytest.approx(right(model_folder, folder))
    page = " ".join(re.sub(r"<[^>]*>", "", (tmp_path / "page.html").read_text()).split())
    assert f"all splits, {found.samples} photographs" in page and "--split all" in page
    printed = told("evaluate", "--checkpoint", model_folder, "--data", folder, "--workers", 0)
    assert f"all splits, {found.samples} samples" in printed
    absent = [name for name, count in support.items() if not count]
    assert ("no samples of" in printed) == bool(absent) and all(name in printed for name in absent[:5])
    plain = json.loads(told("evaluate", "--checkpoint", model_folder, "--data", folder, "--workers", 0, "--json"))
    assert (plain["data"], plain["split"], plain["samples"]) == (str(folder), "all", found.samples)


@pytest.mark.slow
def test_a_split_that_is_asked_for_is_the_one_that_training_draws(model_folder, photographs, shard_folder):
    found = evaluate(model_folder, photographs, split="val", **PLAIN)
    assert found == evaluate(model_folder, shard_folder, split="val", **PLAIN)
    assert found.samples == len(ShardSet.open(shard_folder).ids("val")) < 96
    with pytest.raises(UserError, match=r"no photograph in the test split; .*train \(78\), val \(18\) or all"):
        evaluate(model_folder, photographs, split="test", **PLAIN)
    with pytest.raises(UserError, match="split = 'vall' is not one of train, val, test, all; did you mean 'val'"):
        evaluate(model_folder, photographs, split="vall", **PLAIN)


@pytest.mark.slow
def test_shards_have_splits_of_their_own_and_can_be_taken_whole(model_folder, photographs, shard_folder, tmp_path):
    shards = ShardSet.open(shard_folder)
    assert evaluate(model_folder, shard_folder, **PLAIN).samples == len(shards.ids("val"))
    whole = evaluate(model_folder, shard_folder, split="all", **PLAIN)
    assert whole.samples == len(shards) == 96
    of_folder = evaluate(model_folder, photographs, **PLAIN)
    assert (whole.confusion_matrix == of_folder.confusion_matrix).all()
    assert whole.loss == pytest.approx(of_folder.loss, rel=1e-4)  # other photographs share a batch
    out = tmp_path / "no val"
    convert(photographs, out, val_fraction=0.0, workers=1, progress=False)
    with pytest.raises(UserError, match=r"no photograph in the val split; give another --split: train \(96\) or all"):
        evaluate(model_folder, out, **PLAIN)
    assert (evaluate(model_folder, out, split="all", **PLAIN).confusion_matrix == whole.confusion_matrix).all()


@pytest.mark.parametrize("name", ["native", "ffcv", "dali"])
@pytest.mark.slow
def test_every_loader_takes_all_splits(name, model_folder, shard_folder):
    if reason := loader_class(name).unavailable(ShardSet.open(shard_folder), "cpu"):
        pytest.skip(reason)
    found = evaluate(model_folder, shard_folder, split="all", **{**PLAIN, "loader": name, "workers": 1})
    expected = evaluate(model_folder, shard_folder, split="all", **PLAIN)
    assert [each.support for each in found.classes] == [each.support for each in expected.classes] == [16] * 6
    assert found.loss == pytest.approx(expected.loss, rel=0.1)


@pytest.mark.parametrize("layout", ["folders", "Food-101"])
@pytest.mark.slow
def test_a_folder_with_splits_of_its_own_is_evaluated_by_them(layout, model_folder, photographs, tmp_path):
    root, classes = tmp_path / "data", ["donuts", "pizza", "soup"]
    if layout == "folders":
        for split, count, first in (("train", 5, 0), ("val", 2, 5), ("test", 3, 7)):
            lay(root / split, photographs, dict.fromkeys(classes, count), first)
        expected = {"train": 15, "val": 6, "test": 9, "all": 30}
    else:
        lay(root / "images", photographs, dict.fromkeys(classes, 8))
        names = [f"{path.parent.name}/{path.stem}" for path in sorted(root.glob("images/*/*.jpg"))]
        (root / "meta").mkdir()
        for part, chosen in (("test", names[::4]), ("train", [name for name in names if name not in names[::4]])):
            (root / "meta" / f"{part}.txt").write_text("\n".join(chosen))
        expected = {"train": 15, "val": 3, "test": 6, "all": 24}
    assert {split: evaluate(model_folder, root, split=split, **PLAIN).samples for split in expected} == expected
    assert f"val split, {expected['val']} samples" in told(
        "evaluate", "--checkpoint", model_folder, "--data", root, "--workers", 0
    )


def test_classes_in_another_order_keep_their_names(model_folder, photographs, tmp_path):
    """A model from elsewhere may have classes that are not sorted."""
    other = shutil.copytree(model_folder, tmp_path / "model")
    spec = json.loads((other / "model.json").read_text())
    order = [3, 0, 5, 1, 4, 2]
    spec["classes"] = [spec["classes"][number] for number in order]
    (other / "model.json").write_text(json.dumps(spec))
    weights = load_file(other / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][order].clone()
    save_file(weights, other / "model.safetensors")
    folder = lay(tmp_path / "held out", photographs, {"pizza": 6, "salad": 6, "sushi": 6})
    found, expected = evaluate(other, folder, **PLAIN), evaluate(model_folder, folder, **PLAIN)
    assert {each.name: each for each in found.classes} == {each.name: each for each in expected.classes}
    assert (found.top1, found.loss) == pytest.approx((expected.top1, expected.loss), rel=1e-4)


def test_classes_that_the_model_does_not_know_are_refused(model_folder, photographs, tmp_path):
    folder = lay(tmp_path / "a", photographs, {"pizza": 2, "soup": 2})
    (folder / "soup").rename(folder / "ramen")
    with pytest.raises(UserError, match=r"of a class that the model doesn't know \(ramen\); the model's are"):
        evaluate(model_folder, folder, **PLAIN)
    with pytest.raises(UserError, match=r"doesn't know \(test\); did you mean --data .*/b/test\?"):
        evaluate(model_folder, lay(tmp_path / "b/test", photographs, {"pizza": 2, "soup": 2}).parent, **PLAIN)
    assert not (tmp_path / "cache").exists(), "nothing was converted"
    shards = tmp_path / "shards"
    convert(folder, shards, workers=1, progress=False)
    with pytest.raises(UserError, match=r"doesn't know \(ramen\)"):
        evaluate(model_folder, shards, **PLAIN)


def test_what_is_converted_to_be_evaluated_is_not_what_is_trained_on(model_folder, photographs, tmp_path):
    folder = lay(tmp_path / "food", photographs, {"pizza": 5, "soup": 5})
    for _ in range(2):  # the second time both are in the cache
        assert evaluate(model_folder, folder, **PLAIN).samples == 10
        shards = ShardSet.open(ensure_shards(folder))
        assert [len(shards.ids(split)) for split in ("train", "val")] == [8, 2]
    one = lay(tmp_path / "one", photographs, {"pizza": 5})
    assert evaluate(model_folder, one, **PLAIN).samples == 5
    with pytest.raises(UserError, match="one class only, 'pizza'; a classifier needs two"):
        ensure_shards(one)


def test_what_is_left_out_is_told(model_folder, photographs, tmp_path, caplog):
    folder = lay(tmp_path / "food", photographs, {"pizza": 2, "soup": 3})
    broken = next((folder / "pizza").iterdir())
    broken.write_bytes(broken.read_bytes()[:1000])
    (folder / "notes.txt").write_text("hot")
    with caplog.at_level(logging.WARNING, "fasttrain"):
        found = evaluate(model_folder, folder, report=tmp_path / "page.html", **PLAIN)
    assert found.samples == 4
    assert "left out: broken photographs 1, other files 1; listed in" in caplog.text
    assert "left out: broken photographs 1" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_photographs_that_the_run_was_trained_on_are_told(model_folder, photographs, tmp_path, caplog):
    run = shutil.copytree(model_folder, tmp_path / "run")
    (run / "config.toml").write_text(f'data = "{photographs}"\n')
    for data, split, warned in ((photographs, None, True), (photographs, "val", False), (tmp_path / "x", None, False)):
        if data != photographs:
            lay(data, photographs, {"pizza": 2})
        caplog.clear()
        evaluate(run, data, split=split, **PLAIN)
        assert ("was trained on most of" in caplog.text) == warned


def test_export_checks_photographs_of_all_splits(shard_folder, photographs, tmp_path):
    pixels, source = some_photographs(shard_folder, 96, 16)
    assert len(pixels) == 96 and source == f"of the 96 in {shard_folder}, all splits"
    folder = lay(tmp_path / "food", photographs, {"pizza": 3})
    broken = next((folder / "pizza").iterdir())
    broken.write_bytes(b"broken")
    pixels, source = some_photographs(folder, 64, 16)
    assert len(pixels) == 2 and source.startswith(f"of the 3 in {folder}; 1 could not be read, such as {broken}")


def test_a_process_group_does_not_divide_what_is_evaluated(shard_folder) -> None:
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from fasttrain import Loader

    shards = ShardSet.open(shard_folder)
    ids = shards.ids("val")
    dist.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    try:
        delivered = [
            sample for *_, each in batches(shards, ids, 32, batch_size=4, workers=1) for sample in each.tolist()
        ]
        with Loader(shards, split="val", crop=32, batch_size=4, with_ids=True, workers=1) as loader:
            share = [sample for *_, each in loader for sample in each.tolist()]
    finally:
        dist.destroy_process_group()
    assert delivered == ids.tolist() and 0 < len(share) < len(ids)
