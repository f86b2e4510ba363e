"""The functions of the C++ module. All release the GIL. Bad JPEGs raise ValueError with a short reason."""

from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

class JpegInfo(TypedDict):
    width: int
    height: int
    components: int
    sampling: Literal["4:2:0", "4:2:2", "4:4:0", "4:4:4", "4:1:1", "grey", "cmyk", "other"]
    progressive: bool
    restart_interval: int
    adobe_transform: int | None

def cut(jpeg: Buffer, interval: str, optimize: bool, orientation: int = 1) -> bytes: ...
def repair(jpeg: Buffer, interval: str, optimize: bool, orientation: int = 1) -> tuple[bytes, float]:
    """Cut a damaged JPEG as libjpeg shows it, and say which share of the picture, 0 to 1, is intact.

    What stands before the first error is intact: counted in MCUs, and in rows of them where there are several scans, of
    which the worst counts. A progressive scan that only adds the last bit to coefficients is left out, also where it is
    missing.
    Raises ValueError where libjpeg shows nothing.
    """

def slice(jpeg: Buffer, top: int, left: int, height: int, width: int) -> tuple[bytes, int, int]: ...

# Many files at a time: file i is the `lengths[i]` bytes from `offsets[i]` on of `buffers[which[i]]`, with `which` int32
# [n], `offsets` and `lengths` uint64 [n]. The buffers are kept for as long as they are read. What lies outside of its
# buffer raises ValueError, and so do arrays of different lengths.

def slice_batch(
    buffers: Sequence[Buffer],
    which: NDArray[np.int32],
    offsets: NDArray[np.uint64],
    lengths: NDArray[np.uint64],
    boxes: NDArray[np.int32],
    threads: int = 1,
) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int32]]:
    """`slice` for n JPEGs and `boxes` [n, 4], by `threads` threads.

    Returns (bytes, offsets, lengths, corners): JPEG i is `bytes[offsets[i] : offsets[i] + lengths[i]]`, uint64 [n]
    both, what lies between is undefined, and its box begins at `corners[i]`, (top, left) in pixels, int32 [n, 2].
    What `slice` refuses, broken files included, goes in whole, its box where it was. Raises ValueError for less
    than one thread.
    """

def jpeg_info(jpeg: Buffer) -> JpegInfo: ...

# Decoding crops. A box is (top, left, height, width) in the photograph's pixels. Pixels come out as uint8 RGB, resized
# with an antialiased filter of torchvision (`resize(antialias=True)`), mirrored where `flip` is true. The filter is
# bilinear unless `bicubic` is true. Any JPEG that libjpeg-turbo reads is taken; those with restart markers (see `cut`)
# cost only the crop. Raw means uint8 pixels [h, w, 3].

def decode_crop(
    data: Buffer,
    box: tuple[int, int, int, int],
    flip: bool,
    size: tuple[int, int],
    raw_size: tuple[int, int] | None = None,
    bicubic: bool = False,
) -> NDArray[np.uint8]:
    """One crop, uint8 [*size, 3]; `raw_size` is the height and width of raw pixels, None for a JPEG.

    Raises ValueError for broken data and for a box outside the picture.
    """

def decode_intact_crop(
    data: Buffer, box: tuple[int, int, int, int], flip: bool, size: tuple[int, int], bicubic: bool = False
) -> NDArray[np.uint8]:
    """Return `decode_crop` of a JPEG all of which is intact. A JPEG of one baseline scan is read once.

    Raises ValueError also where `cut` does.
    """

def decode_batch(
    buffers: Sequence[Buffer],
    which: NDArray[np.int32],
    offsets: NDArray[np.uint64],
    lengths: NDArray[np.uint64],
    sizes: NDArray[np.int32],
    boxes: NDArray[np.int32],
    flips: NDArray[np.uint8],
    out: NDArray[np.uint8],
    raw: bool = False,
) -> list[tuple[int, str]]:
    """`Pool.submit` and `Pool.wait` in the calling thread."""

def will_need(
    buffers: Sequence[Buffer], which: NDArray[np.int32], offsets: NDArray[np.uint64], lengths: NDArray[np.uint64]
) -> None:
    """Ask the kernel to read these bytes of mapped files ahead, and return at once."""

def set_simd(level: Literal["plain", "avx2", "avx512"]) -> str:
    """Choose the vector instructions for tests; returns the level before. ValueError where the machine lacks them."""

def crc32(data: Buffer) -> int:
    """Return zlib's CRC-32."""

def crc32s(
    buffers: Sequence[Buffer], which: NDArray[np.int32], offsets: NDArray[np.uint64], lengths: NDArray[np.uint64]
) -> NDArray[np.uint32]:
    """Return zlib's CRC-32 of each part, uint32 [n]."""

class Pool:
    """Threads that decode photographs of any number of batches, the earliest batch and its largest crop first.

    Memory a thread: about 3 bytes a sample of the crop (the planes, their resized copies), plus the length of a file
    without restart markers; what one photograph needs beyond 64 MiB is given back before the next.
    """

    def __init__(self, threads: int) -> None: ...
    def submit(
        self,
        buffers: Sequence[Buffer],
        which: NDArray[np.int32],
        offsets: NDArray[np.uint64],
        lengths: NDArray[np.uint64],
        sizes: NDArray[np.int32],
        boxes: NDArray[np.int32],
        flips: NDArray[np.uint8],
        out: NDArray[np.uint8],
        raw: bool = False,
    ) -> int:
        """Queue n photographs and return the batch's ticket at once.

        `sizes` [n, 2] are heights and widths, `boxes` [n, 4], `flips` [n]: a sum of 1 to mirror a picture, 2 to
        letterbox it, 4 to turn it upside down, and 8 to take the bicubic filter. `out` [n, H, W, 3] is C-contiguous and
        writable: it's kept, and mustn't be read before `wait` returns. Raises RuntimeError on a closed pool.
        """

    def wait(self, ticket: int, timeout_ms: int = -1) -> list[tuple[int, str]] | None:
        """The errors, (position in the batch, reason), whose pictures are zeroed; None if `timeout_ms` pass first.

        Signals are handled every 50 ms. Raises IndexError for a ticket that is unknown or already waited for,
        RuntimeError
        where the pool was closed first.
        """

    def close(self) -> None:
        """Finish the photographs in work, drop the others, end the threads."""
