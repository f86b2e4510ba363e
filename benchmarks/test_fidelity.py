"""How near the pixels are to the photograph: PSNR of what is delivered against the same crop of the source.

The source's crop is resized twice, with torchvision's antialiased filter (ours is its like) and with OpenCV's
INTER_AREA (which FFCV uses), so that neither side is judged by its own filter alone.
"""

from __future__ import annotations

import numpy as np
import pytest


def psnr(errors):
    """dB, from the mean squared errors of all crops."""
    return 10 * np.log10(255**2 / np.mean(errors))


def squared_error(one, other):
    return float(np.mean((one.astype(np.float64) - other) ** 2))


def scaled(box, source, stored):
    """The box, (top, left, height, width), in a smaller copy's pixels, inside of it and not empty."""
    factor = np.array([stored[0] / source[0], stored[1] / source[1]])
    top, left = np.minimum(np.rint(box[:2] * factor).astype(int), np.array(stored) - 1)
    height, width = np.maximum(np.rint(box[2:] * factor).astype(int), 1)
    return top, left, min(height, stored[0] - top), min(width, stored[1] - left)


def test_psnr(photographs, short, results):
    if short:
        pytest.skip("not in the short form")
    cv2 = pytest.importorskip("cv2")
    rgb_image = pytest.importorskip("ffcv.fields.rgb_image")
    import torch
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms.v2 import functional as F

    from fasttrain import _native
    from fasttrain.loaders.plan import Crop, random_resized_crops
    from fasttrain.photos.normalize import normalize

    paths = sorted(photographs.rglob("*.jp*g"))[::5]
    pictures = [decode_image(str(path), ImageReadMode.RGB).permute(1, 2, 0).contiguous().numpy() for path in paths]
    sizes = np.array([picture.shape[:2] for picture in pictures], np.int32)
    boxes, _ = random_resized_crops(np.arange(len(paths)), sizes, seed=0, epoch=0, crop=Crop())
    errors, stored_bytes = {}, {}
    for path, picture, box in zip(paths, pictures, boxes, strict=True):
        top, left, height, width = box.tolist()
        crop = np.ascontiguousarray(picture[top : top + height, left : left + width])
        references = {
            "torchvision": F.resize(torch.from_numpy(crop).permute(2, 0, 1), [224, 224], antialias=True)
            .permute(1, 2, 0)
            .numpy(),
            "INTER_AREA": cv2.resize(crop, (224, 224), interpolation=cv2.INTER_AREA),
        }
        for size in (512, 400, 256):
            photo = normalize(path.read_bytes(), max_size=size if size < 512 else None, cut="mcu")
            place = scaled(box, picture.shape[:2], (photo.height, photo.width))
            ours = _native.decode_crop(photo.jpeg, tuple(int(n) for n in place), False, (224, 224))
            small = rgb_image.resizer(picture, size)
            encoded = rgb_image.encode_jpeg(small, 90)
            decoded = cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
            top, left, height, width = scaled(box, picture.shape[:2], decoded.shape[:2])
            theirs = cv2.resize(
                decoded[top : top + height, left : left + width], (224, 224), interpolation=cv2.INTER_AREA
            )
            for name, pixels, length in (("native", ours, len(photo.jpeg)), ("FFCV", theirs, len(encoded))):
                stored_bytes.setdefault((name, size), []).append(length)
                for against, reference in references.items():
                    errors.setdefault((name, size, against), []).append(squared_error(pixels, reference))
    rows, part = [], {}
    for size in (512, 400, 256):
        for name in ("native", "FFCV"):
            found = {against: psnr(errors[name, size, against]) for against in ("torchvision", "INTER_AREA")}
            size_kb = np.mean(stored_bytes[name, size]) / 1000
            part[f"{name}, {size} px"] = {**found, "kB/img": size_kb}
            rows.append([f"{name}, {size} px", *(f"{each:.2f}" for each in found.values()), f"{size_kb:.1f}"])
    results.add("psnr", part)
    header = ["stored as", "PSNR, dB, against torchvision's resize", "against INTER_AREA", "kB/img"]
    results.add_table("psnr", header, rows)
