"""torchcodec's `decode_jpeg` and torchvision's crop in threads, which cost less here than worker processes do."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchcodec.decoders import decode_jpeg
from torchvision.transforms.v2 import functional as F

from peers import SIZE
from peers.crops import random_box
from peers.threaded import ThreadedFolder


class Threads(ThreadedFolder):
    def __init__(self, photographs: Path, folder: Path, threads: int) -> None:
        super().__init__(photographs, folder, threads)
        torch.set_num_threads(1)  # the photographs are shared among the threads, not their rows

    def load(self, path: str, out: NDArray[np.uint8]) -> None:
        picture = decode_jpeg(path)
        crop = F.resized_crop(picture, *random_box(*picture.shape[1:]), [SIZE, SIZE], antialias=True)
        if random.random() < 0.5:
            crop = crop.flip(2)
        torch.from_numpy(out).copy_(crop.permute(1, 2, 0))
