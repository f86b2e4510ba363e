"""simplejpeg and OpenCV in threads: TurboJPEG's fast settings, and a scaled decode where the crop is large enough."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from peers import SIZE
from peers.crops import random_box
from peers.threaded import ThreadedFolder

cv2.setNumThreads(1)  # the photographs are shared among the threads, not their rows


class Antialiased(ThreadedFolder):
    resize: ClassVar[int] = cv2.INTER_AREA

    def load(self, path: str, out: NDArray[np.uint8]) -> None:
        data = Path(path).read_bytes()
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        box = random_box(height, width)
        scale = min(SIZE / min(box[2:]), 1)
        # Factors below 2 have no SIMD code in libjpeg-turbo, and are slower than a decode of every pixel.
        picture = simplejpeg.decode_jpeg(
            data,
            fastdct=True,
            fastupsample=True,
            min_height=math.ceil(height * scale),
            min_width=math.ceil(width * scale),
            min_factor=2,
        )
        down, right = picture.shape[0] / height, picture.shape[1] / width
        top, left = round(box[0] * down), round(box[1] * right)
        crop = picture[top : top + round(box[2] * down), left : left + round(box[3] * right)]
        cv2.resize(crop, (SIZE, SIZE), dst=out, interpolation=self.resize)
        if random.random() < 0.5:
            cv2.flip(out, 1, dst=out)


class Linear(Antialiased):
    """Faster and aliased: OpenCV's default, which looks at two by two of the crop's pixels."""

    resize: ClassVar[int] = cv2.INTER_LINEAR
