"""CPU time of what `predict` decodes a photograph with, next to torchvision and Pillow, from bytes in memory.

All take the same centre crop and resize it to 224 px with an antialiased filter. One thread, rounds in which each runs
once in turn, and medians over them.
"""

from __future__ import annotations

import io
import statistics
import time

import numpy as np
import pytest
import torch
from PIL import Image
from rounds import median_ratio
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as F

from fasttrain.data.photograph import decode_photograph
from fasttrain.loaders.plan import centre_boxes
from fasttrain.photos.cut import native_available

SIZE = 224
PHONE = (4000, 3000)
OURS = "fasttrain"


def centre(width, height):
    top, left, side, _ = (int(each) for each in centre_boxes(np.array([[height, width]], dtype=np.int32))[0])
    return top, left, side


def by_torchvision(data):
    picture = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    top, left, side = centre(picture.shape[2], picture.shape[1])
    return F.resized_crop(picture, top, left, side, side, [SIZE, SIZE], antialias=True).permute(1, 2, 0)


def by_pillow(data):
    """`draft` decodes to the smallest of libjpeg's sizes that leaves the crop at least 224 px."""
    image = Image.open(io.BytesIO(data))
    _, _, side = centre(*image.size)
    wanted = [-(-each * SIZE // side) for each in image.size]
    image.draft("RGB", wanted)
    top, left, side = centre(*image.size)
    box = (left, top, left + side, top + side)
    return image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)


DECODERS = {OURS: lambda data: decode_photograph(data, SIZE), "torchvision": by_torchvision, "Pillow, draft": by_pillow}


def as_from_a_phone(data, noise):
    """Enlarge a photograph to 12 megapixels; `noise` is the standard deviation of a sensor's, in grey levels."""
    image = Image.open(io.BytesIO(data)).convert("RGB").resize(PHONE, Image.Resampling.BICUBIC)
    if noise:
        grain = np.random.default_rng(0).normal(0, noise, PHONE[::-1]).astype(np.float32)[:, :, None]
        image = Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
    image.save(encoded := io.BytesIO(), "JPEG", quality=90)
    return encoded.getvalue()


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_predict_decode(photographs, short, results, one_thread):
    if not native_available():
        pytest.skip("without the native module")
    every = sorted(photographs.rglob("*.jp*g"))
    few, many = (2, 8) if short else (6, 40)
    small = [path.read_bytes() for path in every[:: max(len(every) // many, 1)][:many]]
    sets = {
        f"{max(Image.open(every[0]).size)} px": small,
        "12 megapixels": [as_from_a_phone(data, 0) for data in small[:few]],
        "12 megapixels, noisy": [as_from_a_phone(data, 4) for data in small[:few]],
    }
    part, rows = {}, []
    for name, photos in sets.items():
        require_same_pixels(photos[0])
        times = measure(photos, rounds=3 if short else 7)
        part[name] = {
            "bytes_per_image": sum(map(len, photos)) / len(photos),
            **{each: {"cpu_ms": statistics.median(found)} for each, found in times.items()},
        }
        for each, found in times.items():
            part[name][each]["ours / this"] = median_ratio(times[OURS], found)
        rows.append(
            [
                f"{name}, {part[name]['bytes_per_image'] / 1000:,.0f} kB",
                *(f"{part[name][each]['cpu_ms']:.2f}" for each in DECODERS),
                *(f"{part[name][each]['ours / this']:.2f}" for each in DECODERS if each != OURS),
            ]
        )
    results.add("predict_decode", part)
    ratios = [f"{OURS} / {each}" for each in DECODERS if each != OURS]
    results.add_table("predict_decode", ["CPU ms a photograph", *DECODERS, *ratios], rows)


def measure(photos, rounds):
    """CPU ms a photograph of each decoder in each round."""
    times = {name: [] for name in DECODERS}
    for _ in range(rounds):
        for name, decode in DECODERS.items():
            start = time.process_time()
            for data in photos:
                decode(data)
            times[name].append(1000 * (time.process_time() - start) / len(photos))
    return times


def require_same_pixels(data):
    """All do the same work: their pixels differ by rounding, and by the scaled decode."""
    found = [np.asarray(decode(data)).astype(int) for decode in DECODERS.values()]
    for name, pixels in zip(DECODERS, found, strict=True):
        assert pixels.shape == (SIZE, SIZE, 3), name
        difference = np.abs(pixels - found[1]).mean()
        assert difference < 4, f"{name}: {difference:.1f} grey levels from torchvision's"
