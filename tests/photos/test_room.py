"""Memory is bounded by the pixels that are decoded at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from PIL import Image

from fasttrain.photos import room
from fasttrain.photos.jxl import jxl_size
from fasttrain.photos.normalize import BrokenPhoto, decode, normalize
from fasttrain.photos.room import Hold, PixelBudget
from tests.support.patience import PATIENCE


class Held:
    """A `hold` that writes down what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    @contextmanager
    def __call__(self, pixels: int) -> Iterator[None]:
        self.asked.append(pixels)
        yield


def test_no_more_pixels_than_the_budget_are_held_and_a_larger_photograph_is_alone() -> None:
    budget, lock = PixelBudget(100), threading.Lock()
    held, most, alone = [], [], []

    def work(hold: Hold, pixels: int) -> int:
        with hold(pixels):
            with lock:
                held.append(pixels)
                most.append(sum(held))
                alone.append(len(held) == 1 or max(held) <= 100)
            threading.Event().wait(0.001)
            with lock:
                held.remove(pixels)
        return pixels

    sizes = [30, 60, 500, 10, 45, 100, 7] * 8
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(budget.run, lambda hold, size=size: work(hold, size)) for size in sizes]
        assert [each.result(PATIENCE) for each in results] == sizes
    assert max(total for total in most if total < 500) <= 100
    assert all(alone)


def test_a_photograph_that_waits_is_read_again_and_one_without_pixels_never_waits() -> None:
    budget, reads, inside, go = PixelBudget(10), [], threading.Event(), threading.Event()

    def first(hold: Hold) -> None:
        with hold(8):
            inside.set()
            assert go.wait(PATIENCE)

    def second(hold: Hold) -> str:
        reads.append(threading.get_ident())
        with hold(1):  # the first step fits, the second does not
            pass
        with hold(1), hold(5):
            return "done"

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(budget.run, first)
        assert inside.wait(PATIENCE)
        other = pool.submit(budget.run, second)
        while not reads:
            threading.Event().wait(0.001)
        assert budget.run(lambda hold: hold(0).__enter__()) is None
        assert not other.done()
        go.set()
        assert (one.result(PATIENCE), other.result(PATIENCE)) == (None, "done")
    assert len(reads) == 2


def test_what_fails_gives_its_pixels_back() -> None:
    budget = PixelBudget(10)

    def fails(hold: Hold) -> None:
        with hold(10):
            raise BrokenPhoto("so")

    for _ in range(3):
        with pytest.raises(BrokenPhoto):
            budget.run(fails)
    assert budget.run(lambda hold: 1) == 1


def test_a_large_photograph_gives_its_thread_s_heap_back(monkeypatch) -> None:
    given, budget = [], PixelBudget(1600)
    monkeypatch.setattr(room, "give_back_heap", lambda: given.append(1))

    def work(hold: Hold, pixels: int) -> None:
        with hold(pixels):
            pass

    budget.run(lambda hold: work(hold, 100))
    assert not given
    budget.run(lambda hold: work(hold, 101))
    assert given


@pytest.mark.parametrize("kind", ["PNG", "WebP", "TIFF", "JPEG2000", "GIF", "BMP", "AVIF"])
def test_each_decoded_format_says_its_pixels(picture, encode, kind) -> None:
    Image.init()
    if kind == "AVIF" and kind not in Image.SAVE:
        pytest.skip("this Pillow has no AVIF")
    for convert in (normalize, lambda data, hold: decode(data, max_size=32, hold=hold)):
        held = Held()
        convert(encode(picture, kind), hold=held)
        assert held.asked == [64 * 48]


def test_a_jpeg_that_is_kept_says_its_coefficients_if_they_are_held_at_once(picture, encode) -> None:
    plain, progressive, cmyk = Held(), Held(), Held()
    normalize(encode(picture), hold=plain)
    normalize(encode(picture, progressive=True), hold=progressive)
    normalize(encode(picture.convert("CMYK")), hold=cmyk)
    assert (plain.asked, progressive.asked, cmyk.asked) == ([0], [64 * 48 // 4], [0, 64 * 48])


@pytest.mark.parametrize("size", [(64, 48), (8, 8), (1, 1), (640, 480), (511, 1), (513, 700), (9000, 3), (300, 300)])
@pytest.mark.parametrize("lossless", [True, False])
def test_the_size_of_a_jpeg_xl_is_in_its_header(encode, size, lossless) -> None:
    pytest.importorskip("pillow_jxl")
    data = encode(Image.new("RGB", size, "teal"), "JXL", lossless=lossless)
    assert jxl_size(data) == size
    container = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl "
    assert jxl_size(container + len(data + b"8 bytes!").to_bytes(4, "big") + b"jxlc" + data) == size
    assert jxl_size(container + b"\0\0\0\0jxlp\0\0\0\0" + data) == size
    held = Held()
    normalize(data, hold=held)
    assert held.asked[-1] == size[0] * size[1]


def test_a_jpeg_xl_without_a_header_has_no_size() -> None:
    container = b"\0\0\0\x0cJXL \r\n\x87\n"
    for data in (b"", b"\xff\x0a", b"\xff\x0a\x00", container, container + b"\0\0\0\x01jxlx"):
        assert jxl_size(data) == (0, 0)


def test_a_jpeg_xl_bomb_is_refused_before_it_is_decoded() -> None:
    pytest.importorskip("pillow_jxl")
    # 2**30 x 2**30: not small, the selector of 30 bits, all of them set; no ratio, the same again.
    bits = 0b110 | ((1 << 30) - 1) << 3 | 0b11 << 36 | ((1 << 30) - 1) << 38
    with pytest.raises(BrokenPhoto, match="1073741824x1073741824 px is more than"):
        normalize(b"\xff\x0a" + bits.to_bytes(12, "little"))
