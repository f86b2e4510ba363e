"""Embeddings of photographs, and the nearest neighbours by them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fasttrain.checkpoint.trained import load_trained
from fasttrain.data.photograph import read_photograph
from fasttrain.errors import UserError
from fasttrain.evaluation.embedding_file import check_embeddings_file
from fasttrain.evaluation.predict import Predictor
from fasttrain.model.preprocess import NormalizePixels

pytestmark = pytest.mark.slow


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int | str | None:
    from fasttrain.cli import main

    monkeypatch.setattr(sys, "argv", ["fasttrain", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def embedding(model_folder: Path, photograph: Path) -> np.ndarray:
    model, spec = load_trained(model_folder)
    pixels = torch.from_numpy(read_photograph(photograph, spec.image_size))[None]
    with torch.inference_mode():
        features = model.forward_features(NormalizePixels(spec.mean, spec.std, channels_last=True)(pixels))
        return model.forward_head(features, pre_logits=True)[0].numpy()


def test_the_rows_are_what_the_classifier_sees_in_the_order_of_the_predictions(
    model_folder, photographs, tmp_path, monkeypatch, capsys
):
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "torn.jpg").write_bytes(b"torn")
    files = [photographs / "soup" / "0000.jpg", tmp_path / "torn.jpg", photographs / "pizza" / "0000.jpg"]
    line = ["predict", "--checkpoint", model_folder, "--device", "cpu", "--format", "jsonl", *files, "--embeddings"]
    assert run(monkeypatch, *line, tmp_path / "e.npy") == 2, "one photograph is broken"
    assert f"embeddings: {tmp_path / 'e.npy'}, of 2 photographs\n" in capsys.readouterr().err
    rows = np.load(tmp_path / "e.npy")
    assert rows.dtype == np.float32 and len(rows) == 2
    for row, file in zip(rows, (files[0], files[2]), strict=True):
        assert row == pytest.approx(embedding(model_folder, file), rel=1e-3, abs=1e-4)
    run(monkeypatch, *line, tmp_path / "e.parquet")
    table = parquet.read_table(tmp_path / "e.parquet").to_pydict()
    assert table["image"] == [str(files[0]), str(files[2])]
    assert np.array_equal(np.array(table["embedding"], np.float32), rows)
    with pytest.raises(UserError, match=r"ends in \.npy or \.parquet"):
        check_embeddings_file(tmp_path / "e.txt")
    with pytest.raises(UserError, match="can't be combined with --tta"):
        Predictor(model_folder, tta="flip", with_embeddings=True)


def test_the_nearest_photographs_are_found_and_drawn(
    model_folder, shard_folder, photographs, tmp_path, monkeypatch, capsys
):
    files = [photographs / "soup" / "0003.jpg", photographs / "pizza" / "0002.jpg"]
    line = ["similar", "--checkpoint", model_folder, "--data", shard_folder, *files, "--count", 3, "--device", "cpu"]
    line += ["--batch-size", 16, "--out", tmp_path / "s.png", "--json"]
    assert not run(monkeypatch, *line)
    every = {path: embedding(model_folder, path) for path in sorted(photographs.glob("*/*.jpg"))}
    for file, found in zip(files, json.loads(capsys.readouterr().out), strict=True):
        assert found["image"] == str(file) and len(found["neighbours"]) == 3
        cosines = {
            path: float(row @ every[file] / np.linalg.norm(row) / np.linalg.norm(every[file]))
            for path, row in every.items()
        }
        wanted = sorted(cosines.values(), reverse=True)[:3]
        assert [each["similarity"] for each in found["neighbours"]] == pytest.approx(wanted, abs=5e-3)
        nearest = found["neighbours"][0]
        assert nearest["classes"] == [file.parent.name] and nearest["file"] == f"{file.parent.name}/{file.name}"
    sheet = Image.open(tmp_path / "s.png")
    assert sheet.width > sheet.height, "a row of four pictures for each"
