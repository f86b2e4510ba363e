"""Check 10: DALI decodes the same on the GPU as on the CPU, and a broken JPEG doesn't harm the others."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from tools.gpu_check.findings import Findings, Skipped
from tools.gpu_check.registry import Setting, check

_SIZES = [(150, 90), (129, 131), (64, 48), (37, 129), (16, 16), (9, 7), (1, 1), (201, 33), (640, 480), (1600, 1200)]
_KINDS: dict[str, dict[str, Any]] = {
    "420": {"subsampling": 2},
    "422": {"subsampling": 1},
    "444": {"subsampling": 0},
    "progressive": {"subsampling": 2, "progressive": True},
    "grey": {},
}
_SIDE = 64
_CLOSE = 2.0
"""The greatest accepted mean difference of two decoders' pixels, in grey levels."""


@check(10, "DALI: sliced JPEGs, GPU against CPU, hardware decoder, a broken JPEG", limit=90)
def dali(setting: Setting, findings: Findings) -> None:
    """Compare DALI's pixels between devices and forms of JPEG, and measure its rate with the hardware decoder."""
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        findings.skip("DALI", "not installed")
        return
    from fasttrain.shards.reader import ShardSet

    kinds = ShardSet.open(_kinds_of_jpegs(setting))
    with findings.part("sliced against whole"):
        _sliced(setting, findings, kinds)
    with findings.part("GPU against CPU"):
        _devices(setting, findings, kinds)
    with findings.part("a broken JPEG"):
        _broken(setting, findings, kinds)
    for load in (0.0, 0.65, 1.0):
        with findings.part(f"hardware load {load:g}"):
            if not setting.cuda:
                raise Skipped("needs CUDA")
            _hardware(setting, findings, kinds, load)


def _kinds_of_jpegs(setting: Setting) -> Path:
    """Return the folder of shards with a class for each kind of JPEG and, in each class, a photograph of each size."""
    import numpy as np
    from PIL import Image

    from fasttrain import convert

    root, out, random = setting.folder / "kinds", setting.folder / "shards", np.random.default_rng(4)
    for kind, options in _KINDS.items():
        (root / kind).mkdir(parents=True)
        for number, (width, height) in enumerate(_SIZES):
            picture = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8)).resize((width, height))
            noisy = (np.asarray(picture) // 2 + random.integers(0, 120, (height, width, 3))).astype(np.uint8)
            mode = "L" if kind == "grey" else "RGB"
            Image.fromarray(noisy).convert(mode).save(root / kind / f"{number}.jpg", quality=90, **options)
    convert(str(root), out, progress=False)
    return out


def _pictures(
    setting: Setting, shards: Any, device: str, *, sliced: bool | None = None, checked: bool = True
) -> tuple[dict[int, Any], dict[int, str]]:
    """Return the training split's pictures on the CPU, and the reasons of bad samples, both by the sample's id."""
    from fasttrain.loaders.base import LoaderSettings
    from fasttrain.loaders.dali import DaliLoader
    from fasttrain.loaders.plan import Crop

    options = LoaderSettings(8, _SIDE, Crop(), workers=2, device=device, on_bad_sample="skip", report=print)
    loader = DaliLoader(shards, shards.ids("train"), options)
    if sliced is not None:
        loader.sliced = sliced
    if not checked:
        loader._checksums = None  # otherwise the changed bytes would be found before DALI decodes them
    found: dict[int, Any] = {}
    with closing(loader):
        for images, _, ids in loader:
            found |= dict(zip(ids.tolist(), images.cpu(), strict=True))
        return found, dict(loader.bad_samples)


def _difference(one: dict[int, Any], other: dict[int, Any]) -> dict[int, tuple[float, int]]:
    """Return the mean and the greatest difference of each sample's two pictures, in grey levels, by the sample's id."""
    assert one.keys() == other.keys() and one, f"the samples differ: {sorted(one)} and {sorted(other)}"
    both = {sample: (each.int() - other[sample].int()).abs() for sample, each in one.items()}
    return {sample: (float(each.float().mean()), int(each.max())) for sample, each in both.items()}


def _sliced(setting: Setting, findings: Findings, kinds: Any) -> None:
    sliced, _ = _pictures(setting, kinds, setting.device, sliced=True)
    entire, _ = _pictures(setting, kinds, setting.device, sliced=False)
    off = _difference(sliced, entire)
    findings.goal("sliced against whole: greatest difference", max(most for _, most in off.values()), at_most=0)
    worst = max(mean for mean, _ in off.values())
    assert worst <= _CLOSE, f"pixels of sliced and of whole JPEGs differ by {worst:.2f} grey levels (mean)"


def _devices(setting: Setting, findings: Findings, kinds: Any) -> None:
    here, _ = _pictures(setting, kinds, setting.device)
    off = _difference(here, _pictures(setting, kinds, "cpu")[0])
    labels = kinds.labels()
    for number, name in enumerate(kinds.classes):
        of_kind = [each for sample, each in off.items() if labels[sample] == number]
        findings.figure(f"{name}: mean and greatest difference from the CPU", f"{_worst(of_kind)}")
    wrong = {kinds.describe(sample): each for sample, each in off.items() if each[0] > _CLOSE}
    assert not wrong, f"pixels differ from the CPU's (mean, greatest difference): {wrong}"


def _worst(differences: list[tuple[float, int]]) -> str:
    if not differences:
        return "no photograph"
    return f"{max(mean for mean, _ in differences):.2f}, {max(most for _, most in differences)}"


def _broken(setting: Setting, findings: Findings, kinds: Any) -> None:
    from fasttrain.shards.reader import ShardSet

    copy = setting.folder / "broken"
    shutil.copytree(setting.folder / "shards", copy)
    samples = kinds.ids("train")
    sample = int(max(samples, key=lambda each: len(kinds.bytes(int(each)))))
    row = kinds.index[sample]
    path = copy / kinds.manifest.shards[row["shard"]].name
    jpeg = bytearray(kinds.bytes(sample))
    tables = jpeg.find(b"\xff\xc4")  # the Huffman tables: without these no decoder can begin
    jpeg[tables + 4 : tables + 24] = bytes([255]) * 20
    with path.open("r+b") as file:
        file.seek(int(row["offset"]))
        file.write(jpeg)
    intact, _ = _pictures(setting, kinds, setting.device)
    found, bad = _pictures(setting, ShardSet.open(copy), setting.device, checked=False)
    findings.figure("broken JPEG", bad.get(sample, "decoded all the same"))
    assert set(bad) <= {sample}, f"intact samples were reported as bad: {bad}"
    others = {each: picture for each, picture in found.items() if each != sample}
    off = _difference(others, {each: picture for each, picture in intact.items() if each != sample})
    findings.goal("beside a broken JPEG: greatest difference", max(most for _, most in off.values()), at_most=0)


@contextmanager
def _hardware_load(load: float) -> Iterator[None]:
    """Make DALI give the share `load` of the JPEGs to the hardware decoder in this context."""
    from nvidia.dali import fn

    decode = fn.decoders.image_slice
    with mock.patch.object(
        fn.decoders, "image_slice", lambda *inputs, **options: decode(*inputs, **{**options, "hw_decoder_load": load})
    ):
        yield


def _hardware(setting: Setting, findings: Findings, kinds: Any, load: float) -> None:
    from fasttrain import Loader, RandomResizedCrop

    with _hardware_load(load):
        here, _ = _pictures(setting, kinds, setting.device)
        batches, first = 24, 4
        arrived = []
        with Loader(
            setting.many,
            batch_size=256,
            crop=RandomResizedCrop(224),
            loader="dali",
            workers=8,
            device=setting.device,
            limit=batches,
        ) as loader:
            for images, _ in loader:
                images.sum().item()  # waits for the GPU
                arrived.append(time.perf_counter())
    rate = 256 * (len(arrived) - first) / (arrived[-1] - arrived[first - 1])
    off = _difference(here, _pictures(setting, kinds, "cpu")[0])
    figures = {"img/s": round(rate), "mean and greatest difference from the CPU": _worst(list(off.values()))}
    findings.figure(f"hardware load {load:g}", figures)
