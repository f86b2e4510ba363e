"""The Python code on the pages: every block runs, and code for deployment sees pictures as `fasttrain predict` does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fasttrain
from fasttrain.commands import finish
from fasttrain.config.geometry import Geometry
from fasttrain.data.crops import evaluation_crop
from fasttrain.data.photograph import read_photograph
from fasttrain.errors import UserError
from tests.docs.blocks import Block, all_blocks
from tests.support.runs import SMALL

_BRIEF = {**SMALL, "model": "test_convnext", "image_size": 32, "epochs": 1, "limit_batches": 1, "track": False}


SNIPPETS = [block for block in all_blocks() if block.language == "python"]
DEPLOYED = [each for each in SNIPPETS if 'load_photograph("' in each.code]


def _run(snippet: Block) -> dict[str, Any]:
    """Execute a block in the working directory, as a script there; its variables."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(snippet.code, snippet.name, "exec"), names)
    return names


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda each: each.name)
@pytest.mark.full
def test_every_block_runs(
    snippet: Block,
    workplace: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if snippet.not_run:
        pytest.skip(snippet.not_run)
    if "model.onnx" in snippet.code:
        shutil.copy(request.getfixturevalue("onnx_file"), "model.onnx")
    if "convert(" in snippet.code:
        shutil.rmtree("shards")
    # Real training, of a small model for one step and without a report: the pages' settings are those of real data.
    train = fasttrain.train
    monkeypatch.setattr(finish, "_write_pictures", lambda *_: None)

    def brief(**settings: Any) -> Any:
        own = {"model": settings["model"]} if callable(settings.get("model")) else {}
        return train(**{**settings, **_BRIEF, **own})

    monkeypatch.setattr(fasttrain, "train", brief, raising=False)
    names = _run(snippet)
    assert capsys.readouterr().out.strip() or "print(" not in snippet.code
    assert len(names) > 2, "the block defines nothing"


def _scene(photographs: Path) -> Image.Image:
    """A photograph that is told from its turned and mirrored self, 480 x 320 px."""
    pictures = [Image.open(photographs / name / "0000.jpg").convert("RGB") for name in ("pizza", "salad")]
    scene = Image.new("RGB", (480, 320), (20, 60, 160))
    scene.paste(pictures[0].resize((260, 260)), (10, 10))
    scene.paste(pictures[1].resize((200, 150)), (270, 160))
    return scene


def _transparent(scene: Image.Image) -> Image.Image:
    """The scene with a see-through right part, whose hidden colour is black, and a half-transparent top."""
    alpha = np.full((scene.height, scene.width), 255, np.uint8)
    alpha[:, scene.width // 2 :] = 0
    alpha[: scene.height // 3] = 128
    pixels = np.asarray(scene) * (alpha[..., None] > 0)
    return Image.fromarray(np.dstack([pixels, alpha]).astype(np.uint8), "RGBA")


def _deep(scene: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(scene.convert("L")).astype(np.uint16) * 257)


def _turned(orientation: int, **options: Any) -> Callable[[Image.Image, Path], None]:
    def save(scene: Image.Image, path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        scene.save(path, exif=exif, **{"format": "JPEG", "quality": 95, **options})

    return save


def _animated(format: str, transparent: bool) -> Callable[[Image.Image, Path], None]:
    def save(scene: Image.Image, path: Path) -> None:
        first = _transparent(scene) if transparent else scene
        other = Image.new(first.mode, first.size, "red")
        first.save(path, format, save_all=True, append_images=[other], duration=100, lossless=True)

    return save


def _keyed(scene: Image.Image, path: Path) -> None:
    """An RGB PNG in which one colour stands for transparency."""
    scene.save(path, "PNG", transparency=(20, 60, 160))


def _palette(scene: Image.Image, path: Path) -> None:
    """A palette PNG, some of whose colours are transparent, some half."""
    picture = scene.quantize(16)
    picture.save(path, "PNG", transparency=bytes([0] * 5 + [128] * 3 + [255] * 8))


PICTURES: dict[str, Callable[[Image.Image, Path], None]] = {
    **{f"JPEG, EXIF orientation {number}": _turned(number) for number in range(1, 9)},
    "PNG, EXIF orientation 6": _turned(6, format="PNG"),
    "WebP, EXIF orientation 8": _turned(8, format="WEBP", lossless=True),
    "RGBA PNG": lambda scene, path: _transparent(scene).save(path, "PNG"),
    "RGBA WebP": lambda scene, path: _transparent(scene).save(path, "WEBP", lossless=True),
    "RGBA TIFF": lambda scene, path: _transparent(scene).save(path, "TIFF"),
    "grey PNG with alpha": lambda scene, path: _transparent(scene).convert("LA").save(path, "PNG"),
    "palette PNG with alpha": _palette,
    "PNG with a transparent colour": _keyed,
    "palette PNG": lambda scene, path: scene.quantize(64).save(path, "PNG"),
    "CMYK JPEG": lambda scene, path: scene.convert("CMYK").save(path, "JPEG", quality=95),
    "grey JPEG": lambda scene, path: scene.convert("L").save(path, "JPEG", quality=95),
    "16-bit grey PNG": lambda scene, path: _deep(scene).save(path, "PNG"),
    "16-bit grey TIFF": lambda scene, path: _deep(scene).save(path, "TIFF"),
    "1-bit PNG": lambda scene, path: scene.convert("1").save(path, "PNG"),
    "animated GIF": _animated("GIF", False),
    "animated GIF with alpha": _animated("GIF", True),
    "animated PNG": _animated("PNG", True),
    "animated WebP": _animated("WEBP", True),
}


@pytest.fixture(params=PICTURES)
def dinner(request: pytest.FixtureRequest, workplace: Path, photographs: Path) -> Path:
    """The photograph on the pages, as one kind of picture after the other."""
    PICTURES[request.param](_scene(photographs), workplace / "dinner.jpg")
    return workplace / "dinner.jpg"


def test_the_pixels_are_those_that_predict_sees(dinner: Path) -> None:
    (snippet,) = (each for each in SNIPPETS if each.file == "photograph.py")
    load = _run(snippet)["load_photograph"]
    for geometry in (
        Geometry(48),
        Geometry(48, crop_pct=1.0),
        Geometry(48, resize_mode="squash"),
        Geometry(48, resize_mode="letterbox"),
        Geometry(48, interpolation="bicubic"),
        Geometry(48, resize_mode="letterbox", interpolation="bicubic"),
    ):
        seen = read_photograph(dinner, evaluation_crop(geometry)).astype(int)
        found = load(dinner, 48, geometry.crop_pct, geometry.resize_mode, geometry.interpolation)
        assert found.dtype == np.uint8 and found.shape == (48, 48, 3)
        assert np.abs(seen - found).mean() < 1, "what is no JPEG is stored as one, which moves pixels a little"
    assert np.array_equal(load(dinner, 48), load(dinner, 48, 0.875, "crop", "bilinear"))


@pytest.mark.parametrize("snippet", DEPLOYED, ids=lambda each: each.name)
@pytest.mark.slow
def test_the_probabilities_are_those_of_predict(
    snippet: Block, dinner: Path, run_folder: Path, request: pytest.FixtureRequest
) -> None:
    if "model.onnx" in snippet.code:
        shutil.copy(request.getfixturevalue("onnx_file"), "model.onnx")
    (expected,) = fasttrain.predict(run_folder, dinner, top_k=6, device="cpu", workers=1)
    found = np.asarray(_run(snippet)["likely"])
    classes = json.loads((run_folder / "model.json").read_text())["classes"]
    in_order = [expected.probabilities[expected.classes.index(name)] for name in classes]
    assert found == pytest.approx(in_order, abs=0.03)


def test_floating_point_pixels_are_refused_as_predict_does(workplace: Path, run_folder: Path) -> None:
    Image.fromarray(np.full((32, 32), 0.5, np.float32)).save("dinner.jpg", "TIFF")
    with pytest.raises(UserError, match="floating-point"):
        fasttrain.predict(run_folder, "dinner.jpg", device="cpu")
    for snippet in DEPLOYED[1:]:
        with pytest.raises(ValueError, match="floating-point"):
            _run(snippet)


def test_there_is_code_for_deployment() -> None:
    assert len(DEPLOYED) == 2, "ONNX Runtime, and timm alone"
