"""A slice of a cut JPEG is a valid JPEG whose pixels, by any decoder, are the whole picture's."""

from __future__ import annotations

import struct
from collections.abc import Callable

import jpegs
import numpy as np
import pytest
from numpy.typing import NDArray

from fasttrain.photos.cut import jpeg_info, slice_jpeg
from tests.support.stored import located

native = pytest.importorskip("fasttrain._native")

Box = tuple[int, int, int, int]
SIZES = [(150, 90), (64, 48), (37, 129), (1, 1), (9, 7)]


def mcu_size(jpeg: bytes) -> tuple[int, int]:
    """(height, width) in pixels."""
    sof = next(body for code, body in jpegs.segments(jpeg) if code == 0xC0)
    factors = [sof[7 + 3 * i] for i in range(sof[5])]
    if len(factors) == 1:
        return 8, 8
    return 8 * max(f & 15 for f in factors), 8 * max(f >> 4 for f in factors)


def random_box(rng: np.random.Generator, jpeg: bytes) -> Box:
    info = jpeg_info(jpeg)
    height, width = (int(rng.integers(1, side + 1)) for side in (info["height"], info["width"]))
    return (
        int(rng.integers(info["height"] - height + 1)),
        int(rng.integers(info["width"] - width + 1)),
        height,
        width,
    )


def check_boxes(jpeg: bytes, decode: Callable[[bytes], NDArray[np.uint8]], count: int, seed: int = 0) -> None:
    whole = decode(jpeg)
    rng = np.random.default_rng(seed)
    for _ in range(count):
        top, left, height, width = box = random_box(rng, jpeg)
        part, y, x = slice_jpeg(jpeg, box)
        found = decode(part)[y : y + height, x : x + width]
        np.testing.assert_array_equal(found, whole[top : top + height, left : left + width], err_msg=str(box))


@pytest.mark.parametrize("kind", jpegs.FACTORS)
@pytest.mark.slow
def test_pillow(kind: str) -> None:
    for number, (width, height) in enumerate(SIZES):
        check_boxes(native.cut(jpegs.sample(kind, width, height), "mcu", True), jpegs.decode, 80, number)
        check_boxes(native.cut(jpegs.sample(kind, width, height), "row", False), jpegs.decode, 40, number)


def test_a_file_with_markers_at_every_mcu_needs_no_cut() -> None:
    for kind in jpegs.FACTORS:
        check_boxes(jpegs.sample(kind, 70, 50, 1), jpegs.decode, 30)


@pytest.mark.parametrize("kind", ["4:2:0", "4:2:2", "4:4:0", "4:4:4", "4:1:1", "grey"])
def test_torchvision(kind: str) -> None:
    torch = pytest.importorskip("torch")
    io = pytest.importorskip("torchvision.io")

    def decode(jpeg: bytes) -> NDArray[np.uint8]:
        data = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
        pixels: NDArray[np.uint8] = io.decode_jpeg(data).permute(1, 2, 0).numpy()
        return pixels

    check_boxes(native.cut(jpegs.sample(kind, 150, 90), "mcu", True), decode, 200)


@pytest.mark.parametrize("kind", ["4:2:0", "4:2:2", "4:4:0", "4:4:4", "4:1:1", "grey"])
def test_opencv(kind: str) -> None:
    cv2 = pytest.importorskip("cv2")

    def decode(jpeg: bytes) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
        return pixels

    check_boxes(native.cut(jpegs.sample(kind, 150, 90), "mcu", True), decode, 200)


@pytest.mark.parametrize("fancy", [True, False])
def test_dali_on_the_cpu(fancy: bool) -> None:
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=51, num_threads=2, device_id=None, prefetch_queue_depth=1)
    def pipeline():  # type: ignore[no-untyped-def]
        jpeg = fn.external_source(name="jpeg", dtype=types.UINT8, ndim=1)
        return fn.decoders.image(jpeg, device="cpu", jpeg_fancy_upsampling=fancy, adjust_orientation=False)

    pipe = pipeline()
    pipe.build()
    rng = np.random.default_rng(3)
    for kind in ["4:2:0", "4:2:2", "4:4:0", "4:4:4", "grey"]:
        jpeg = native.cut(jpegs.sample(kind, 150, 90), "mcu", True)
        boxes = [random_box(rng, jpeg) for _ in range(50)]
        slices = [slice_jpeg(jpeg, box) for box in boxes]
        batch = [np.frombuffer(data, np.uint8) for data in [jpeg, *(part for part, _, _ in slices)]]
        (decoded,) = pipe.run(jpeg=batch)
        whole = np.asarray(decoded[0])
        for i, ((top, left, height, width), (_, y, x)) in enumerate(zip(boxes, slices, strict=True)):
            found = np.asarray(decoded[i + 1])[y : y + height, x : x + width]
            np.testing.assert_array_equal(found, whole[top : top + height, left : left + width])


@pytest.mark.parametrize("interval", ["mcu", "row"])
@pytest.mark.parametrize("kind", jpegs.FACTORS)
def test_structure(kind: str, interval: str) -> None:
    jpeg = native.cut(jpegs.sample(kind, 150, 90), interval, True)
    tall, wide = mcu_size(jpeg)
    rng = np.random.default_rng(5)
    for _ in range(50):
        top, left, height, width = box = random_box(rng, jpeg)
        part, y, x = slice_jpeg(jpeg, box)
        first_row, first_column = max(top // tall - 1, 0), max(left // wide - 1, 0)
        if interval == "row":
            first_column = 0
        assert (y, x) == (top - first_row * tall, left - first_column * wide)

        end_y = min((-(-(top + height) // tall) + 1) * tall, 90)
        end_x = min((-(-(left + width) // wide) + 1) * wide, 150) if interval == "mcu" else 150
        info = jpeg_info(part)
        assert (info["height"], info["width"]) == (end_y - first_row * tall, end_x - first_column * wide)
        assert info["restart_interval"] == jpeg_info(jpeg)["restart_interval"]

        rows, columns = -(-info["height"] // tall), -(-info["width"] // wide)
        count = rows * columns if interval == "mcu" else rows
        assert jpegs.scan_markers(part) == [0xD0 + i % 8 for i in range(count - 1)] + [0xD9]
        assert part.endswith(b"\xff\xd9")
        if interval == "mcu" and kind != "4:4:4 as 2x1":
            assert native.cut(part, interval, True)  # libjpeg reads it without a warning


def restart_offsets(jpeg: bytes) -> list[int]:
    return [i for i in range(len(jpeg) - 1) if jpeg[i] == 0xFF and 0xD0 <= jpeg[i + 1] <= 0xD7]


@pytest.mark.parametrize("interval", ["mcu", "row"])
def test_markers_that_do_not_fit_the_size_are_refused(interval: str) -> None:
    jpeg = native.cut(jpegs.sample("4:2:0", 150, 90), interval, True)
    box = (0, 0, 8, 8)
    marks = restart_offsets(jpeg)
    first, last = marks[0], marks[-1]
    assert slice_jpeg(jpeg, box)
    bad = {
        "out of order": jpeg[:first] + jpeg[first + 2 :],
        "too few": jpeg[:last] + jpeg[last + 2 :],
        "too many": jpeg[:-2] + bytes([0xFF, 0xD0 | len(marks) % 8]) + jpeg[-2:],
        "no EOI": jpeg[:-2],
        "more than one scan": jpeg[:-2] + jpegs.marker(0xDA) + jpeg[-2:],
    }
    at = jpeg.index(struct.pack(">HH", 90, 150))
    bad["too many "] = jpeg[:at] + struct.pack(">HH", 40, 150) + jpeg[at + 4 :]
    bad["truncated: too short"] = jpeg[:at] + struct.pack(">HH", 60000, 150) + jpeg[at + 4 :]
    for reason, data in bad.items():
        with pytest.raises(ValueError, match=reason.strip()):
            slice_jpeg(data, box)


def test_fill_bytes_before_a_marker_are_no_marker() -> None:
    jpeg = native.cut(jpegs.sample("4:2:0", 150, 90), "mcu", True)
    at = restart_offsets(jpeg)[20]
    check_boxes(jpeg[:at] + b"\xff\xff" + jpeg[at:], jpegs.decode, 30)


def test_files_that_cannot_be_sliced_are_refused() -> None:
    box = (0, 0, 8, 8)
    for data, reason in [
        (native.cut(jpegs.sample("4:2:0", 70, 50), "none", True), "uncut"),
        (jpegs.sample("4:2:0", 70, 50, 3), "uncut"),
        (jpegs.sample("4:2:0", 70, 50, 1, False), "one interleaved baseline scan"),
        (jpegs.pillow_jpeg("RGB", 70, 50, 2, True), "one interleaved baseline scan"),
        (b"no picture", "not a JPEG"),
    ]:
        with pytest.raises(ValueError, match=reason):
            slice_jpeg(data, box)


@pytest.mark.parametrize(
    "box",
    [
        *[(-1, 0, 5, 5), (0, -1, 5, 5), (0, 0, 0, 5), (0, 0, 5, 0), (0, 0, 51, 5), (0, 0, 5, 71)],
        *[(46, 0, 5, 5), (0, 66, 5, 5), (1 << 40, 0, 5, 5), (0, 0, 5, (1 << 32) + 1), (50, 70, 1, 1)],
    ],
)
def test_boxes_outside_the_picture_are_refused(box: Box) -> None:
    jpeg = native.cut(jpegs.sample("4:2:0", 70, 50), "mcu", True)
    with pytest.raises(ValueError, match=r"^box:"):
        slice_jpeg(jpeg, box)


def test_damaged_files_raise_or_give_a_well_formed_slice() -> None:
    rng = np.random.default_rng(11)
    sources = [native.cut(jpegs.sample(kind, 70, 50), cut, True) for kind in jpegs.FACTORS for cut in ("mcu", "row")]
    sliced = 0
    for turn in range(6000):
        damaged = bytearray(sources[turn % len(sources)])
        for _ in range(rng.integers(1, 4)):
            if rng.random() < 0.2:
                del damaged[rng.integers(1, len(damaged)) :]
            else:
                damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        try:
            part, _, _ = slice_jpeg(damaged, random_box(rng, sources[turn % len(sources)]))
        except ValueError:
            continue
        sliced += 1
        info = jpeg_info(part)
        codes = jpegs.scan_markers(part)
        assert codes == [0xD0 + i % 8 for i in range(len(codes) - 1)] + [0xD9]
        assert info["restart_interval"] >= 1
    assert 500 < sliced < 5500


def batch_of(photographs: list[bytes], boxes: list[Box], threads: int = 1) -> list[tuple[bytes, int, int]]:
    buffer, offsets, lengths, corners = native.slice_batch(
        *located(photographs), np.array(boxes, np.int32).reshape(-1, 4), threads
    )
    assert (buffer.dtype, lengths.dtype, corners.dtype) == (np.uint8, np.uint64, np.int32)
    pieces = zip(offsets.tolist(), lengths.tolist(), corners.tolist(), strict=True)
    return [(buffer[start : start + length].tobytes(), y, x) for start, length, (y, x) in pieces]


@pytest.mark.parametrize("threads", [1, 4, 99])
def test_a_batch_is_the_slice_of_each(threads: int) -> None:
    rng = np.random.default_rng(2)
    photographs = [
        native.cut(jpegs.sample(kind, width, height), interval, True)
        for kind in jpegs.FACTORS
        for interval in ("mcu", "row")
        for width, height in SIZES
    ]
    boxes = [random_box(rng, data) for data in photographs]
    expected = [slice_jpeg(data, box) for data, box in zip(photographs, boxes, strict=True)]
    assert batch_of(photographs, boxes, threads) == expected


def test_a_batch_takes_in_whole_what_cannot_be_sliced() -> None:
    cut = native.cut(jpegs.sample("4:2:0", 70, 50), "mcu", True)
    inside = (3, 5, 8, 9)
    requests = [
        (cut, inside),
        (native.cut(jpegs.sample("4:2:0", 70, 50), "none", True), inside),
        (jpegs.pillow_jpeg("RGB", 70, 50, 2, True), inside),
        (b"no picture", inside),
        (b"", inside),
        (cut[: len(cut) // 2], inside),
        *[(cut, box) for box in [(-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 51, 5), (50, 0, 1, 1), (0, 1 << 30, 5, 5)]],
        (cut, (48, 69, 2, 1)),
    ]
    found = batch_of([data for data, _ in requests], [box for _, box in requests], 2)
    assert found[0] == slice_jpeg(*requests[0]) and found[-1] == slice_jpeg(*requests[-1])
    for (data, (top, left, _, _)), piece in list(zip(requests, found, strict=True))[1:-1]:
        assert piece == (data, top, left)


def test_an_empty_batch_and_wrong_arguments() -> None:
    assert batch_of([], []) == []
    for boxes, threads in [(1, 1), (0, 0)]:
        with pytest.raises(ValueError, match=r"as many boxes|at least 1"):
            native.slice_batch(*located([]), np.zeros((boxes, 4), np.int32), threads)
