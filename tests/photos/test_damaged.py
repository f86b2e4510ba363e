"""Damaged JPEGs: the share of the picture that is intact decides, in `convert`, in `predict` and for every loader."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from fasttrain.data.photograph import Unreadable, read_photograph
from fasttrain.errors import UserError
from fasttrain.loaders.torchvision import decode_crop
from fasttrain.photos.normalize import BrokenPhoto, decode, normalize
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet

_native = pytest.importorskip("fasttrain._native")

HEIGHT, WIDTH = 240, 320


@pytest.fixture
def photograph() -> Image.Image:
    across, down = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    smooth = np.stack([across * 255 // (WIDTH - 1), down * 255 // (HEIGHT - 1), (across + down) % 256], -1)
    noise = np.random.default_rng(1).normal(0, 12, smooth.shape)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def overwritten(jpeg: bytes, share: float) -> bytes:
    """Return `jpeg` with 300 bytes of junk at `share` of its entropy-coded data."""
    scan = jpeg.index(b"\xff\xda") + 14
    start = scan + int((len(jpeg) - scan) * share)
    junk = np.random.default_rng(2).integers(0, 255, 300, dtype=np.uint8).tobytes()  # without FF
    return jpeg[:start] + junk + jpeg[start + 300 :]


def pixels(jpeg: bytes) -> NDArray[np.int64]:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(np.int64)


@pytest.mark.parametrize("cut", ["mcu", "row", "none"])
@pytest.mark.parametrize("lost", [2, 22])
def test_a_few_missing_bytes_cost_the_last_mcus(photograph, encode, cut, lost) -> None:
    jpeg = encode(photograph)
    ends = [b"", bytes(512)] if lost == 2 else [b"", bytes(512), b"\xff\xd9"]
    for data in (jpeg[:-lost] + end for end in ends):
        stored = normalize(data, cut=cut)
        assert stored.how == (("stripped", "damaged") if cut == "none" else ("stripped", "cut", "damaged"))
        assert stored.reason.startswith("damaged; 9") or stored.reason.startswith("damaged; 100 %")
        assert (pixels(stored.jpeg)[:-32] == pixels(jpeg)[:-32]).all()
        assert normalize(stored.jpeg, cut=cut).how[0] == "as-is"


def test_a_missing_refinement_is_no_damage_to_speak_of(photograph, encode) -> None:
    jpeg = encode(photograph, progressive=True)
    stored = normalize(jpeg[: jpeg.rindex(b"\xff\xda")] + b"\xff\xd9", cut="mcu", accept_damaged=1)
    assert stored.reason == "damaged; 100 % of the picture is known to be intact"
    assert np.abs(pixels(stored.jpeg) - pixels(jpeg)).mean() < 6


@pytest.mark.parametrize("options", [{}, {"max_size": 100}, {"cut": "mcu"}])
def test_the_share_that_is_intact_decides(photograph, encode, options) -> None:
    data = overwritten(encode(photograph), 0.5)
    with pytest.raises(BrokenPhoto, match=r"(4|5)\d\.\d+ % of the picture is known to be intact, less than 98 %$"):
        normalize(data, **options)
    stored = normalize(data, accept_damaged=0.4, **options)
    assert stored.how[-1] == "damaged" and "% of the picture is known to be intact" in stored.reason
    with pytest.raises(BrokenPhoto, match="less than 60 %"):
        normalize(data, accept_damaged=0.6, **options)


def test_raw_pixels_obey_the_same_rule(photograph, encode) -> None:
    jpeg = encode(photograph)
    with pytest.raises(BrokenPhoto, match="is known to be intact, less than 98 %"):
        decode(overwritten(jpeg, 0.5), max_size=400)
    raw = decode(jpeg[:-22], max_size=400)
    assert raw.how == ("decoded: jpeg", "damaged")
    upper = np.frombuffer(raw.pixels, np.uint8).reshape(HEIGHT, WIDTH, 3)[:-32]
    assert (upper == pixels(jpeg)[:-32]).all()


def test_wrong_bytes_that_are_valid_codes_leave_nothing_known(photograph, encode) -> None:
    """The picture is shifted from there on, and MCUs are missing or left over only at its end."""
    jpeg = encode(photograph)
    scan = jpeg.index(b"\xff\xda") + 14
    accepted = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        start = scan + int(random.random() * (len(jpeg) - scan) * 0.9)
        data = jpeg[:start] + random.integers(0, 255, 300, dtype=np.uint8).tobytes() + jpeg[start + 300 :]
        with contextlib.suppress(BrokenPhoto):
            accepted += normalize(data).width > 0
    # Nobody can tell where the number of MCUs happens to stay the same, one time in twenty.
    assert accepted <= 4


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_components_do_not_matter(photograph, encode, mode) -> None:
    jpeg = encode(photograph.convert(mode))
    assert "damaged" in normalize(jpeg[:-22], accept_damaged=0.95).how  # CMYK's is counted in rows of MCUs
    with pytest.raises(BrokenPhoto, match=r"[45]\d(\.\d+)? % of the picture is known to be intact"):
        normalize(jpeg[: len(jpeg) // 2])


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (WIDTH - 3, HEIGHT - 5)])
def test_orientation_and_colors_are_those_of_the_file(photograph, encode, size) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    jpeg = encode(photograph.resize(size), exif=exif, icc_profile=profile, quality=95, subsampling="4:4:4")
    stored = normalize(jpeg[:-22], cut="mcu")
    assert (stored.width, stored.height) == (size[1], size[0]) and "damaged" in stored.how
    assert np.abs(pixels(stored.jpeg) - pixels(normalize(jpeg, cut="mcu").jpeg)).mean() < 1


def test_predict_obeys_the_same_rule(photograph, encode, tmp_path) -> None:
    jpeg = encode(photograph)
    file = tmp_path / "photo.jpg"
    file.write_bytes(jpeg[:-22])
    assert read_photograph(file, 64).shape == (64, 64, 3)
    file.write_bytes(overwritten(jpeg, 0.2))
    with pytest.raises(Unreadable, match="of the picture is known to be intact"):
        read_photograph(file, 64)


def test_predict_refuses_what_convert_refuses(photograph, encode, tmp_path) -> None:
    """Also where the damage lies below the crop, or where the decoder takes it for pixels."""
    jpeg, file = encode(photograph), tmp_path / "photo.jpg"
    refused = 0
    for data in [*(overwritten(jpeg, share / 20) for share in range(1, 20)), jpeg[: -len(jpeg) // 30]]:
        file.write_bytes(data)
        try:
            normalize(data)
        except BrokenPhoto as error:
            refused += 1
            with pytest.raises(Unreadable) as caught:
                read_photograph(file, 64)
            assert str(caught.value) == error.reason
        else:
            read_photograph(file, 64)
    assert refused > 10


@pytest.fixture
def folder(photograph, encode, tmp_path) -> Path:
    jpeg = encode(photograph)
    restarts = encode(photograph, restart_marker_rows=1)
    third = [at for at in range(len(restarts) - 1) if restarts[at] == 0xFF and 0xD0 <= restarts[at + 1] <= 0xD7][2]
    progressive = encode(photograph, progressive=True)
    files = {
        "cut short.jpg": jpeg[:-22],
        "half.jpg": overwritten(jpeg, 0.5),
        "jfif 0.00.jpg": progressive[:11] + b"\0\0" + progressive[13:],
        "restart missing.jpg": restarts[:third] + restarts[third + 2 :],
        "restart numbered wrongly.jpg": restarts[: third + 1] + b"\xd7" + restarts[third + 2 :],
        "sound.jpg": jpeg,
    }
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for file, data in files.items():
            (tmp_path / "photos" / name / file).write_bytes(data)
    return tmp_path / "photos"


@pytest.mark.parametrize("cut", ["mcu", "row", "none"])
@pytest.mark.parametrize("accept", [0.1, 0.98])
def test_what_is_stored_is_read_by_every_decoder(folder, tmp_path, cut, accept) -> None:
    convert(folder, tmp_path / "shards", cut=cut, accept_damaged=accept, progress=False)
    shards = ShardSet.open(tmp_path / "shards")
    assert shards.verify() == []
    assert len(shards) == (12 if accept == 0.1 else 8)
    for row in range(len(shards)):
        jpeg = bytes(shards.bytes(row))
        ours = _native.decode_crop(jpeg, (0, 0, HEIGHT, WIDTH), False, (HEIGHT, WIDTH))
        theirs = decode_crop(jpeg, np.array([0, 0, HEIGHT, WIDTH], dtype=np.int32), False, (HEIGHT, WIDTH))
        assert np.abs(ours.astype(int) - pixels(jpeg)).mean() < 1
        assert np.abs(theirs.numpy().astype(int) - pixels(jpeg)).mean() < 1


def test_both_outcomes_are_listed_by_name(folder, tmp_path) -> None:
    result = convert(folder, tmp_path / "shards", progress=False)
    assert result.manifest.counts["damaged"] == 4 and result.manifest.counts["broken"] == 4
    assert result.manifest.settings["accept_damaged"] == 0.98
    stored = (tmp_path / "shards" / "converted.tsv").read_text()
    refused = (tmp_path / "shards" / "rejected.tsv").read_text()
    assert "cat/cut short.jpg\tdamaged; 99." in stored
    assert "cat/restart numbered wrongly.jpg\tdamaged; 100 % of the picture" in stored
    assert "cat/restart missing.jpg\t" in refused
    assert "cat/half.jpg\t" in refused and "% of the picture is known to be intact, less than 98 %" in refused
    assert "sound" not in stored + refused and "jfif" not in stored + refused


@pytest.mark.parametrize("cut", ["mcu", "row", "none"])
def test_a_restart_marker_with_a_wrong_number_costs_nothing(folder, cut) -> None:
    """If libjpeg ignores the number, nothing is missing; the next marker's number would mean a lost interval."""
    damaged = (folder / "cat" / "restart numbered wrongly.jpg").read_bytes()
    stored = normalize(damaged, cut=cut, accept_damaged=1)
    assert stored.reason == "damaged; 100 % of the picture is known to be intact"
    assert (pixels(stored.jpeg) == pixels(damaged)).all()
    assert normalize(stored.jpeg, cut=cut).how[0] == "as-is"
    with pytest.raises(BrokenPhoto, match="less than 98 %"):
        normalize(damaged.replace(b"\xff\xd7", b"\xff\xd3", 1), cut=cut)


@pytest.mark.parametrize("given", [-0.1, 1.1, float("nan")])
def test_the_share_has_a_range(folder, tmp_path, given) -> None:
    with pytest.raises(UserError, match=r"--accept-damaged .*: give 0 to 1"):
        convert(folder, tmp_path / "shards", accept_damaged=given, progress=False)
