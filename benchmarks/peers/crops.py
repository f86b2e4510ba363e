"""The crop that the peers draw whose library draws none."""

from __future__ import annotations

import math
import random

from peers import AREA, SIZE

RATIO = (3 / 4, 4 / 3)
Box = tuple[int, int, int, int]


def random_box(height: int, width: int) -> Box:
    """Draw (top, left, height, width) as torchvision's RandomResizedCrop does."""
    low, high = (math.log(each) for each in RATIO)
    for _ in range(10):
        area, ratio = height * width * random.uniform(*AREA), math.exp(random.uniform(low, high))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            break
    else:  # nothing fits a long and narrow photograph: its middle, in the nearest ratio
        box_height = min(height, round(width / RATIO[0]))
        box_width = min(width, round(height * RATIO[1]))
        return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
    return random.randint(0, height - box_height), random.randint(0, width - box_width), box_height, box_width


def reduction(box: Box) -> int:
    """Return how many times a decoder may halve the photograph before the crop is smaller than the result."""
    halvings = 0
    while halvings < 3 and min(box[2:]) >> (halvings + 1) >= SIZE:
        halvings += 1
    return halvings
