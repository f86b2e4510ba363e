from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from fasttrain.photos.cut import native_available
from fasttrain.photos.jpeg import read_header
from fasttrain.photos.normalize import BrokenPhoto, normalize

needs_native = pytest.mark.skipif(not native_available(), reason="the C++ module isn't built")


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)


def apart(jpeg: bytes, image: Image.Image) -> float:
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert pixels(jpeg).shape == expected.shape
    return float(np.abs(pixels(jpeg) - expected).mean())


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4"}])
def test_jpegs_keep_their_bytes(picture, encode, options) -> None:
    jpeg = encode(picture, **options)
    stored = normalize(jpeg)
    assert (stored.jpeg, stored.width, stored.height, stored.how) == (jpeg, 64, 48, ("as-is",))
    grey = encode(picture.convert("L"), **options)
    assert normalize(grey).jpeg == grey


def test_metadata_goes_and_pixels_stay(picture, encode, native) -> None:
    exif = Image.Exif()
    exif[0x010F] = "CAMERA-XYZ"
    exif.get_ifd(0x8825)[1] = "N"
    jpeg = encode(picture, exif=exif)
    stored = normalize(jpeg)
    assert stored.how == ("stripped",)
    assert b"CAMERA" in jpeg and b"CAMERA" not in stored.jpeg and b"Exif" not in stored.jpeg
    assert (pixels(stored.jpeg) == pixels(jpeg)).all()


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("size", [(64, 48), (61, 43)])
def test_orientation_is_baked_in(picture, encode, native, orientation, size) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg = encode(picture.resize(size), exif=exif, quality=98, subsampling="4:4:4")
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(jpeg)))
    stored = normalize(jpeg)
    assert (stored.width, stored.height) == upright.size
    assert read_header(stored.jpeg).orientation == 1
    lossless = native and (size == (64, 48) or orientation == 5)  # a transposition mirrors nothing
    assert stored.how == (("rotated",) if lossless else ("re-encoded: orientation",))
    assert apart(stored.jpeg, upright) < (0.5 if lossless else 4)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGB", {}),
        ("PNG", "L", {}),
        ("PNG", "1", {}),
        ("PNG", "P", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("BMP", "RGB", {}),
        ("GIF", "P", {}),
        ("TIFF", "RGB", {}),
        ("TIFF", "CMYK", {}),
    ],
)
def test_other_formats_are_encoded_once(picture, encode, kind, mode, options) -> None:
    image = picture.quantize(64) if mode == "P" else picture.convert(mode)
    stored = normalize(encode(image, kind, **options))
    assert stored.how == (f"re-encoded: {kind.lower()}",)
    header = read_header(stored.jpeg)
    assert (header.components, header.progressive) == (1 if mode in ("L", "1") else 3, False)
    if header.components == 3:
        assert header.sampling == ((2, 2), (1, 1), (1, 1))
    # One-bit dither and palettes are all edges, where JPEG errs most.
    assert apart(stored.jpeg, image) < (10 if mode in ("1", "P") else 4)


def test_cmyk_jpegs_become_rgb(picture, encode) -> None:
    cmyk = picture.convert("CMYK")
    stored = normalize(encode(cmyk, quality=98))
    assert stored.how == ("re-encoded: CMYK JPEG",)
    assert read_header(stored.jpeg).components == 3
    assert apart(stored.jpeg, cmyk) < 4


def test_sixteen_bits_are_scaled(encode) -> None:
    ramp = np.linspace(0, 65_535, 64 * 48).reshape(48, 64).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        stored = normalize(encode(Image.fromarray(ramp), kind))
        assert apart(stored.jpeg, Image.fromarray((ramp // 257).astype(np.uint8))) < 2


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(picture, encode, mode) -> None:
    layer = picture.convert("RGBA")
    layer.putalpha(Image.fromarray(np.repeat([[0] * 32 + [255] * 32], 48, axis=0).astype(np.uint8)))
    data = encode(layer.convert(mode), "PNG") if mode != "P" else encode(layer.quantize(64), "PNG")
    found = pixels(normalize(data).jpeg)
    assert found[:, :24].min() > 240
    assert found[:, 40:].mean() < 200


def test_first_frame_of_an_animation(picture, encode) -> None:
    data = encode(picture.convert("P"), "GIF", save_all=True, append_images=[picture.rotate(180).convert("P")])
    assert apart(normalize(data).jpeg, picture) < 20


def test_png_orientation_is_baked_in_too(picture, encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = normalize(encode(picture, "PNG", exif=exif))
    assert (stored.width, stored.height) == (48, 64)


def test_max_size_shrinks_only_what_is_longer(picture, encode) -> None:
    jpeg = encode(picture)
    assert normalize(jpeg, max_size=64).jpeg == jpeg
    stored = normalize(jpeg, max_size=32)
    assert (stored.width, stored.height, stored.how) == (32, 24, ("re-encoded: size", "resized"))
    assert normalize(encode(picture, "PNG"), max_size=32).how == ("re-encoded: png", "resized")


def test_quality_and_tables_shape_what_is_encoded(picture, encode) -> None:
    png = encode(picture, "PNG")
    sizes = [len(normalize(png, quality=quality).jpeg) for quality in (40, 95)]
    assert sizes[0] < sizes[1]
    assert len(normalize(png).jpeg) < len(normalize(png, optimize=False).jpeg)


@pytest.mark.parametrize("cut", ["none", pytest.param("mcu", marks=needs_native)])
def test_truncated_is_broken(picture, encode, cut) -> None:
    big = picture.resize((400, 300))
    for jpeg in (encode(big), encode(big, progressive=True)):
        for length in (len(jpeg) // 4, len(jpeg) // 3):
            with pytest.raises(BrokenPhoto, match="truncated"):
                normalize(jpeg[:length], cut=cut)
    png = encode(big, "PNG")
    with pytest.raises(BrokenPhoto):
        normalize(png[: len(png) // 2])


@pytest.mark.parametrize("cut", ["none", pytest.param("mcu", marks=needs_native)])
def test_whole_but_undecodable_is_broken(picture, encode, cut) -> None:
    """Its markers are all there, so only decoding finds it."""
    jpeg = encode(picture)
    start = jpeg.index(b"\xff\xdb")
    end = start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
    with pytest.raises(BrokenPhoto):
        normalize(jpeg[:start] + jpeg[end:], cut=cut)


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(9)])
def test_what_is_no_photograph_is_broken(data) -> None:
    with pytest.raises(BrokenPhoto) as caught:
        normalize(data)
    assert caught.value.reason and "\n" not in caught.value.reason


@pytest.mark.slow
def test_bombs_are_refused_before_they_are_decoded(picture, encode, monkeypatch) -> None:
    jpeg = bytearray(encode(picture))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\x40\x00\x40\x00"  # 16,384 x 16,384
    with pytest.raises(BrokenPhoto, match="bomb"):
        normalize(bytes(jpeg))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # many scripts do this
    with pytest.raises(BrokenPhoto, match="bomb"):
        normalize(encode(Image.new("1", (16_384, 16_384)), "PNG"))


@needs_native
def test_cut_keeps_the_pixels_and_makes_progressive_ones_baseline(picture, encode) -> None:
    jpeg = encode(picture, progressive=True)
    stored = normalize(jpeg, cut="mcu")
    assert stored.how == ("as-is", "cut")
    assert not read_header(stored.jpeg).progressive
    assert b"\xff\xd3" in stored.jpeg
    assert (pixels(stored.jpeg) == pixels(jpeg)).all()
    assert b"\xff\xd3" in normalize(encode(picture, "PNG"), cut="mcu").jpeg


@needs_native
def test_stray_bytes_cost_nothing(picture, encode) -> None:
    jpeg = encode(picture, progressive=True)
    second = jpeg.index(b"\xff\xc4", jpeg.index(b"\xff\xda"))
    stored = normalize(jpeg[:second] + b"\x11\x22\x33\x44" + jpeg[second:], cut="mcu")
    assert stored.how == ("stripped", "cut", "damaged")
    assert (pixels(stored.jpeg) == pixels(jpeg)).all()


def test_floating_point_is_refused(picture, encode) -> None:
    with pytest.raises(BrokenPhoto, match="floating"):
        normalize(encode(picture.convert("F"), "TIFF"))
