"""The pool gives each batch the same pixels whatever its threads, reports errors by position and ends cleanly."""

from __future__ import annotations

import io
import re
import signal
import threading
import weakref
from pathlib import Path
from typing import Any

import jpegs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.stored import located

native = pytest.importorskip("fasttrain._native")

SIZE = (48, 40)


class Batch:
    """Arguments of `Pool.submit` for JPEGs, and what `decode_crop` makes of each."""

    def __init__(self, stored: list[bytes], seed: int = 0, sizes: list[tuple[int, int]] | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.stored = [np.frombuffer(jpeg, np.uint8) for jpeg in stored]
        self.where = located(self.stored)
        self.sizes = np.array(sizes or [_size(jpeg) for jpeg in stored], np.int32)
        tops = rng.integers(0, self.sizes // 2)
        self.boxes = np.concatenate([tops, rng.integers(1, self.sizes - tops + 1)], 1).astype(np.int32)
        self.flips = rng.integers(0, 2, len(stored)).astype(np.uint8)
        self.out = np.full((len(stored), *SIZE, 3), 77, np.uint8)

    def submit(self, pool: Any, out: NDArray[np.uint8] | None = None, raw: bool = False) -> int:
        out = self.out if out is None else out
        return pool.submit(*self.where, self.sizes, self.boxes, self.flips, out, raw=raw)

    def expected(self) -> NDArray[np.uint8]:
        return np.stack(
            [
                native.decode_crop(jpeg, tuple(box.tolist()), bool(flags & 1), SIZE, bicubic=bool(flags & 8))
                for jpeg, box, flags in zip(self.stored, self.boxes, self.flips, strict=True)
            ]
        )


def _size(jpeg: bytes) -> tuple[int, int]:
    info = native.jpeg_info(jpeg)
    return info["height"], info["width"]


def mixed(count: int, seed: int = 0) -> list[bytes]:
    """Cut, uncut, grey and progressive ones of several sizes."""
    kinds = [
        jpegs.sample("4:2:0", 90, 70, 1),
        jpegs.sample("grey", 61, 64, 1),
        jpegs.pillow_jpeg("RGB", 120, 100),
        jpegs.pillow_jpeg("RGB", 80, 60, progressive=True),
        jpegs.sample("4:4:4", 33, 150, 3),
    ]
    return [kinds[(seed + i * 3) % len(kinds)] for i in range(count)]


def slow_batch(count: int) -> Batch:
    """Takes a second or more on one thread."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (1000, 1000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG", progressive=True, quality=95)
    batch = Batch([file.getvalue()] * count)
    batch.boxes[:] = (0, 0, 1000, 1000)
    return batch


def native_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").is_dir() else 0


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_batches_in_flight_match_single_decodes(threads: int) -> None:
    pool = native.Pool(threads)
    batches = [Batch(mixed(count, count), count) for count in (1, 7, 32, 64)]
    tickets = [batch.submit(pool) for batch in batches]
    for batch, ticket in reversed(list(zip(batches, tickets, strict=True))):
        assert pool.wait(ticket) == []
        np.testing.assert_array_equal(batch.out, batch.expected())


@pytest.mark.parametrize("side", [1, 2, 7, 33])
def test_pictures_are_turned_upside_down_before_they_are_letterboxed(side: int) -> None:
    """Flag 4 reverses the rows, also of an odd number, and leaves where the grey lies alone, with either filter."""
    made = {}
    for flags in range(16):
        batch = Batch(mixed(10))
        batch.flips[:] = flags
        batch.out = np.full((10, side, side, 3), 77, np.uint8)
        pool = native.Pool(1)
        assert pool.wait(batch.submit(pool)) == []
        made[flags] = batch.out
    for flags in (0, 1, 8, 9):
        np.testing.assert_array_equal(made[flags | 4], made[flags][:, ::-1])
        for upright, turned in zip(made[flags | 2], made[flags | 6], strict=True):
            grey = (upright == 114).all((1, 2))
            np.testing.assert_array_equal((turned == 114).all((1, 2)), grey)
            np.testing.assert_array_equal(turned[~grey], upright[~grey][::-1])


def test_flag_8_is_the_bicubic_filter() -> None:
    batch = Batch(mixed(10))
    batch.flips |= 8
    pool = native.Pool(1)
    assert pool.wait(batch.submit(pool)) == []
    np.testing.assert_array_equal(batch.out, batch.expected())
    batch.flips ^= 8
    assert (batch.out != batch.expected()).any()


def test_raw_photographs() -> None:
    rng = np.random.default_rng(1)
    sizes = [(50, 60), (70, 31)]
    stored = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    batch = Batch([pixels.tobytes() for pixels in stored], sizes=sizes)
    pool = native.Pool(2)
    assert pool.wait(batch.submit(pool, raw=True)) == []
    for i, pixels in enumerate(stored):
        box = tuple(batch.boxes[i].tolist())
        expected = native.decode_crop(pixels, box, bool(batch.flips[i]), SIZE, raw_size=sizes[i])
        np.testing.assert_array_equal(batch.out[i], expected)


def test_errors_have_positions_and_zeroed_output() -> None:
    stored = mixed(9)
    batch = Batch([*stored[:3], stored[3][: len(stored[3]) // 2], *stored[4:]])
    batch.boxes[3] = (0, 0, *batch.sizes[3])  # up to what is missing
    batch.sizes[6] = (1, 1)
    batch.boxes[8] = (0, 0, 10_000, 1)
    expected = {3: "truncated|libjpeg|corrupt", 6: "the index says 1 x 1", 8: "box outside"}
    for decode in ("pool", "batch"):
        batch.out[:] = 77
        if decode == "pool":
            pool = native.Pool(2)
            errors = pool.wait(batch.submit(pool))
        else:
            errors = native.decode_batch(*batch.where, batch.sizes, batch.boxes, batch.flips, batch.out)
        assert [position for position, _ in errors] == list(expected)
        for position, reason in errors:
            assert any(part in reason for part in expected[position].split("|"))
            assert not batch.out[position].any()
        good = [i for i in range(9) if i not in expected]
        assert all(batch.out[i].any() for i in good)


def test_arguments_that_do_not_fit_are_refused() -> None:
    pool = native.Pool(1)
    batch = Batch(mixed(4))
    with pytest.raises(TypeError):
        batch.submit(pool, out=batch.out[:, ::2])
    with pytest.raises(TypeError):
        batch.submit(pool, out=batch.out.astype(np.float32))
    read_only = batch.out.copy()
    read_only.flags.writeable = False
    with pytest.raises(TypeError):
        batch.submit(pool, out=read_only)
    with pytest.raises(ValueError, match="equally long"):
        batch.submit(pool, out=batch.out[:3])
    with pytest.raises(ValueError, match="threads"):
        native.Pool(0)


def test_tickets_are_good_once() -> None:
    pool = native.Pool(1)
    ticket = Batch(mixed(2)).submit(pool)
    assert pool.wait(ticket) == []
    for unknown in (ticket, 10_000):
        with pytest.raises(IndexError, match="no such ticket"):
            pool.wait(unknown)


def test_an_empty_batch_is_done_at_once() -> None:
    pool = native.Pool(1)
    batch = Batch(mixed(1))
    arrays = (batch.sizes, batch.boxes, batch.flips, batch.out)
    assert pool.wait(pool.submit(*located([]), *(array[:0] for array in arrays))) == []


FAR = 2**64 - 1


@pytest.mark.parametrize(
    ("which", "offset", "length", "said"),
    [
        (0, 0, 101, "part 1: 101 bytes from byte 0 on are not inside buffer 0, which has 100 bytes"),
        (0, 90, 11, "11 bytes from byte 90 on"),
        (0, 101, 0, "0 bytes from byte 101 on"),
        (0, FAR, 1, "1 bytes from byte 18446744073709551615 on"),
        (0, 2, FAR, "18446744073709551615 bytes from byte 2 on"),
        (0, FAR, FAR, "not inside buffer 0"),
        (1, 0, 1, "buffer 1, which has 0"),
        (2, 0, 1, "part 1: no buffer has the number 2; there are 2, counted from 0"),
        (-1, 0, 1, "no buffer has the number -1"),
    ],
)
def test_bytes_outside_of_their_buffer_are_refused(which: int, offset: int, length: int, said: str) -> None:
    buffers = [bytes(100), b""]
    numbers = np.array([0, which], np.int32)
    where = (buffers, numbers, np.array([0, offset], np.uint64), np.array([100, length], np.uint64))
    boxes, out = np.zeros((2, 4), np.int32), np.full((2, *SIZE, 3), 7, np.uint8)
    pool = native.Pool(1)
    arrays = (boxes[:, :2], boxes, np.zeros(2, np.uint8), out)
    for call in (
        lambda: pool.submit(*where, *arrays),
        lambda: native.decode_batch(*where, *arrays),
        lambda: native.slice_batch(*where, boxes),
        lambda: native.will_need(*where),
        lambda: native.crc32s(*where),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            call()
    assert (out == 7).all()


def test_numbers_of_other_types_are_refused_and_no_view_is_left() -> None:
    data = bytearray(100)
    which, ends = np.zeros(1, np.int32), np.array([100], np.uint64)
    for wrong in (
        (which.astype(np.int64), ends - ends, ends),  # 2**32 would become 0
        (which, (ends - ends).astype(np.int64), ends),
        (which, ends - ends, ends.astype(np.float64)),
    ):
        with pytest.raises(TypeError):
            native.crc32s([data], *wrong)
    with pytest.raises(ValueError, match="not inside buffer"):
        native.crc32s([data], which, ends, ends)
    with pytest.raises(BufferError):
        native.crc32s([memoryview(data)[::2]], which, ends - ends, ends - ends)
    assert native.crc32s([data], which, ends - ends, ends) == native.crc32(data)
    data.append(0)  # BufferError while anything holds a view of it


def test_a_closed_pool_lets_its_buffers_go() -> None:
    pool = native.Pool(1)
    batch = slow_batch(6)
    kept = weakref.ref(batch.stored[-1])
    batch.submit(pool)
    del batch
    assert kept() is not None
    pool.close()
    assert kept() is None


def test_the_pool_keeps_what_it_writes_to_and_what_it_reads() -> None:
    pool = native.Pool(1)
    blocking = slow_batch(6)
    first = blocking.submit(pool)
    batch = Batch(mixed(3))
    dropped, kept = weakref.ref(batch.out), weakref.ref(batch.stored[0])
    ticket = batch.submit(pool)
    del batch
    assert dropped() is not None
    assert kept() is not None
    assert pool.wait(first) == []
    assert pool.wait(ticket) == []
    assert dropped() is None
    assert kept() is None


def test_ctrl_c_ends_a_wait_and_a_close_ends_the_work() -> None:
    pool = native.Pool(1)
    batch = slow_batch(200)
    ticket = batch.submit(pool)
    assert pool.wait(ticket, timeout_ms=1) is None
    timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        pool.wait(ticket)
    timer.join()
    assert pool.wait(ticket, timeout_ms=0) is None
    pool.close()
    pool.close()
    assert not batch.out[-1].all() or (batch.out[-1] == 77).all()  # dropped, not decoded
    with pytest.raises(RuntimeError, match="closed"):
        pool.wait(ticket)
    with pytest.raises(RuntimeError, match="closed"):
        batch.submit(pool)


def test_a_close_in_another_thread_ends_a_wait() -> None:
    pool = native.Pool(1)
    ticket = slow_batch(200).submit(pool)
    closer = threading.Timer(0.1, pool.close)
    closer.start()
    with pytest.raises(RuntimeError, match="closed"):
        pool.wait(ticket)
    closer.join()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_pools_come_and_go_without_leaving_threads() -> None:
    batch = Batch(mixed(16))
    before = native_threads()
    for round_ in range(60):
        pool = native.Pool(3)
        assert native_threads() >= 4
        ticket = batch.submit(pool)
        if round_ % 3 == 0:
            pool.wait(ticket)
        elif round_ % 3 == 1:
            pool.close()
        del pool
    assert native_threads() < before + 4  # 180 were started; /proc may still list the last ones
