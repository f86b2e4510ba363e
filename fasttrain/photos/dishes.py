"""Draw the dishes of the sample data set. Each function paints one kind of dish on a plate, different every time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Brush:
    """Draws in the coordinates of a plate, whose edge is the unit circle.

    The plate has the centre `centre` and the radius `radius`, both in pixels. `squash`, in (0, 1], is its height
    divided by its width, as it is seen at an angle. It is rotated by `turn`, in radians.
    """

    draw: ImageDraw
    rng: np.random.Generator
    centre: tuple[float, float]
    radius: float
    squash: float
    turn: float

    def between(self, low: float, high: float) -> float:
        """Return a random number between `low` and `high`."""
        return float(self.rng.uniform(low, high))

    def count(self, low: int, high: int) -> int:
        """Return a random integer from `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def choice(self, colours: list[Colour]) -> Colour:
        """Return one of `colours` at random."""
        return colours[int(self.rng.integers(len(colours)))]

    def vary(self, colour: Colour, spread: float = 14) -> Colour:
        """Return a random colour near `colour`. `spread` is the standard deviation of each channel, of 256 levels."""
        red, green, blue = np.clip(np.array(colour) + self.rng.normal(0, spread, 3), 0, 255).astype(int).tolist()
        return red, green, blue

    def within(self, radius: float) -> tuple[float, float]:
        """Return a random point (x, y) in the disc with `radius`, uniformly distributed."""
        angle, distance = self.between(0, 2 * math.pi), radius * math.sqrt(self.between(0, 1))
        return distance * math.cos(angle), distance * math.sin(angle)

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        """Draw a filled polygon."""
        self.draw.polygon([self._pixel(x, y) for x, y in points], fill=colour)

    def line(self, points: list[tuple[float, float]], width: float, colour: Colour) -> None:
        """Draw a line through `points`. `width` is a share of the plate's radius."""
        pixels = [self._pixel(x, y) for x, y in points]
        self.draw.line(pixels, fill=colour, width=max(1, round(width * self.radius)), joint="curve")

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Draw a disc."""
        across, down = self._pixel(x, y)
        half, tall = radius * self.radius, radius * self.radius * self.squash
        self.draw.ellipse((across - half, down - tall, across + half, down + tall), fill=colour)

    def blob(self, x: float, y: float, radius: float, colour: Colour, wobble: float = 0.1) -> None:
        """Draw a disc with a wavy edge. `wobble` is the height of the waves as a share of `radius`."""
        phases = self.rng.uniform(0, 2 * math.pi, 3)
        points = []
        for step in range(28):
            angle = step * 2 * math.pi / 28
            wave = sum(math.sin((n + 2) * angle + phases[n]) for n in range(3)) / 2
            reach = radius * (1 + wobble * wave)
            points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        self.polygon(points, colour)

    def oval(self, x: float, y: float, length: float, width: float, angle: float, colour: Colour) -> None:
        """Draw an ellipse with the half axes `length` and `width`, rotated by `angle`, in radians."""
        cos, sin = math.cos(angle), math.sin(angle)
        points = []
        for step in range(20):
            along, across = length * math.cos(step * math.pi / 10), width * math.sin(step * math.pi / 10)
            points.append((x + along * cos - across * sin, y + along * sin + across * cos))
        self.polygon(points, colour)

    def leaf(self, x: float, y: float, length: float, colour: Colour) -> None:
        """Draw a leaf with a random direction."""
        angle = self.between(0, 2 * math.pi)
        self.oval(x, y, length, length * self.between(0.3, 0.55), angle, colour)
        tip = (x + 0.8 * length * math.cos(angle), y + 0.8 * length * math.sin(angle))
        pale: Colour = (min(colour[0] + 40, 255), min(colour[1] + 40, 255), min(colour[2] + 30, 255))
        self.line([(2 * x - tip[0], 2 * y - tip[1]), tip], 0.015, pale)

    def _pixel(self, x: float, y: float) -> tuple[float, float]:
        """Return the position in pixels of a point on the plate."""
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        across, down = x * cos - y * sin, x * sin + y * cos
        return self.centre[0] + across * self.radius, self.centre[1] + down * self.radius * self.squash


def donuts(brush: Brush, plate: Colour) -> None:
    """Draw one to five rings with glaze and sprinkles. The plate shows through the hole."""
    count = brush.count(1, 5)
    size = {1: 0.8, 2: 0.46, 3: 0.43, 4: 0.38, 5: 0.34}[count]
    sprinkles: list[Colour] = [
        (250, 90, 150),
        (90, 190, 250),
        (255, 235, 90),
        (120, 220, 110),
        (255, 255, 255),
    ]
    for number in range(count):
        angle, away = 2 * math.pi * number / count, 0 if count == 1 else 0.52
        x, y = away * math.cos(angle), away * math.sin(angle)
        glaze = brush.choice([(240, 120, 170), (236, 150, 190), (85, 45, 30), (170, 110, 200)])
        brush.blob(x, y, size, brush.vary((205, 150, 85)), 0.03)
        brush.blob(x, y, 0.88 * size, brush.vary(glaze, 8), 0.05)
        for _ in range(brush.count(0, 30)):
            away_x, away_y = brush.within(0.75 * size)
            angle = brush.between(0, math.pi)
            dx, dy = 0.07 * size * math.cos(angle), 0.07 * size * math.sin(angle)
            ends = [(x + away_x - dx, y + away_y - dy), (x + away_x + dx, y + away_y + dy)]
            brush.line(ends, 0.045 * size, brush.choice(sprinkles))
        brush.disc(x, y, 0.36 * size, brush.vary((180, 125, 70), 8))
        brush.disc(x, y + 0.03 * size, 0.27 * size, plate)


def pancakes(brush: Brush, plate: Colour) -> None:
    """Draw a stack, seen from the side and above, with syrup, butter and berries."""
    layers = brush.count(3, 6)
    size = brush.between(0.6, 0.8)
    rise = brush.between(0.1, 0.16)
    x, y = 0.0, 0.0
    upright = Brush(brush.draw, brush.rng, brush.centre, brush.radius, brush.squash, 0.0)
    for layer in range(layers):
        x, y = brush.between(-0.05, 0.05), 0.3 - rise * layer
        upright.disc(x, y + 0.6 * rise, size, brush.vary((225, 175, 110), 8))
        upright.disc(x, y, size, brush.vary((190, 120, 55), 8))
    upright.disc(x, y, 0.9 * size, brush.vary((212, 150, 78), 8))
    syrup = brush.vary((120, 55, 18), 10)
    upright.blob(x, y, brush.between(0.4, 0.62) * size, syrup, 0.3)
    for _ in range(brush.count(1, 4)):
        start = x + brush.between(-0.7, 0.7) * size
        upright.line([(start, y + 0.3), (start, y + 0.3 + brush.between(0.2, 0.6))], 0.09, syrup)
    upright.oval(x, y, 0.2, 0.15, brush.between(0, 3), brush.vary((252, 228, 120), 8))
    for _ in range(brush.count(0, 9)):
        away_x, away_y = brush.within(0.85)
        upright.disc(away_x, away_y, 0.07, brush.vary(brush.choice([(60, 60, 130), (200, 30, 60)])))


def pizza(brush: Brush, plate: Colour) -> None:
    """Draw crust, sauce, molten cheese, salami and basil, sometimes cut into slices."""
    brush.blob(0, 0, 0.97, brush.vary((196, 140, 78)), 0.03)
    brush.blob(0, 0, 0.84, brush.vary((185, 58, 28)), 0.03)
    brush.blob(0, 0, 0.79, brush.vary((238, 192, 96), 10), 0.05)
    for _ in range(brush.count(20, 40)):
        spot = brush.choice([(252, 228, 160), (222, 142, 62), (205, 80, 36)])
        brush.blob(*brush.within(0.76), brush.between(0.03, 0.12), brush.vary(spot), 0.3)
    for _ in range(brush.count(5, 15)):
        x, y = brush.within(0.68)
        size = brush.between(0.09, 0.14)
        brush.disc(x, y, size, brush.vary((130, 28, 22), 8))
        brush.disc(x, y, 0.84 * size, brush.vary((178, 48, 36), 8))
    for _ in range(brush.count(0, 8)):
        brush.leaf(*brush.within(0.65), brush.between(0.08, 0.14), brush.vary((50, 110, 40)))
    if brush.between(0, 1) < 0.4:
        for number in range(4):
            angle = number * math.pi / 4
            x, y = 0.95 * math.cos(angle), 0.95 * math.sin(angle)
            brush.line([(-x, -y), (x, y)], 0.018, (120, 70, 30))


def salad(brush: Brush, plate: Colour) -> None:
    """Draw leaves in many greens, tomato, cucumber, onion rings and cheese."""
    greens: list[Colour] = [(70, 130, 40), (110, 165, 60), (40, 95, 35), (150, 190, 90), (90, 60, 80)]
    for _ in range(brush.count(60, 90)):
        brush.leaf(*brush.within(0.78), brush.between(0.12, 0.28), brush.vary(brush.choice(greens)))
    for _ in range(brush.count(2, 7)):
        x, y = brush.within(0.65)
        brush.disc(x, y, 0.14, brush.vary((205, 40, 30)))
        brush.disc(x, y, 0.1, brush.vary((230, 90, 70)))
    for _ in range(brush.count(0, 6)):
        x, y = brush.within(0.65)
        brush.disc(x, y, 0.13, brush.vary((60, 120, 50)))
        brush.disc(x, y, 0.11, brush.vary((195, 220, 150)))
    for _ in range(brush.count(0, 5)):
        x, y = brush.within(0.6)
        arc = [(x + 0.13 * math.cos(t / 3), y + 0.13 * math.sin(t / 3)) for t in range(16)]
        brush.line(arc, 0.03, brush.vary((170, 80, 140)))
    for _ in range(brush.count(0, 8)):
        brush.blob(*brush.within(0.65), brush.between(0.04, 0.07), brush.vary((245, 242, 232), 6), 0.4)


def soup(brush: Brush, plate: Colour) -> None:
    """Draw a smooth surface in a deep bowl, a swirl of cream, croutons or herbs, and a window's reflection."""
    rim: Colour = (int(plate[0] * 0.72), int(plate[1] * 0.72), int(plate[2] * 0.72))
    brush.disc(0, 0, 0.95, rim)
    liquid = brush.choice([(206, 70, 26), (230, 132, 30), (232, 164, 60), (216, 104, 40)])
    brush.disc(0, 0.04, 0.88, brush.vary(liquid))
    if brush.between(0, 1) < 0.7:
        start, turns = brush.between(0, 6), brush.between(1.0, 2.2)
        spiral = [
            (0.6 * t / 40 * math.cos(start + turns * t / 6), 0.6 * t / 40 * math.sin(start + turns * t / 6))
            for t in range(40)
        ]
        brush.line(spiral, brush.between(0.03, 0.07), brush.vary((248, 240, 222), 6))
    for _ in range(brush.count(0, 24)):
        brush.disc(*brush.within(0.7), brush.between(0.012, 0.03), brush.vary((60, 105, 40)))
    for _ in range(brush.count(0, 6)):
        brush.blob(*brush.within(0.55), brush.between(0.06, 0.1), brush.vary((200, 145, 70)), 0.35)
    brush.oval(-0.45, -0.5, 0.2, 0.05, -0.7, (255, 250, 238))


def sushi(brush: Brush, plate: Colour) -> None:
    """Draw rolls in rows, or rice with fish on it, with wasabi and ginger at the side."""
    fish: list[Colour] = [(240, 125, 75), (205, 50, 60), (245, 180, 150), (120, 170, 70), (250, 210, 90)]
    filling = brush.choice(fish)
    across, down = brush.count(3, 4), brush.count(2, 4)
    step = 1.7 / max(across, down)
    nigiri = brush.between(0, 1) < 0.35
    for number in range(across * down):
        x = (number % across - (across - 1) / 2) * step + brush.between(-0.03, 0.03)
        y = (number // across - (down - 1) / 2) * step + brush.between(-0.03, 0.03)
        if nigiri:
            brush.oval(x, y, 0.46 * step, 0.32 * step, 1.3, brush.vary((242, 240, 232), 4))
            brush.oval(x, y - 0.04, 0.5 * step, 0.26 * step, 1.3, brush.vary(filling, 8))
            for stripe in (-0.2, 0, 0.2):
                left, right = (
                    (x - 0.14 * step, y + stripe * step),
                    (x + 0.14 * step, y + (stripe + 0.1) * step),
                )
                brush.line([left, right], 0.025, (250, 225, 205))
        else:
            brush.disc(x, y, 0.45 * step, brush.vary((24, 34, 30), 6))
            brush.disc(x, y, 0.38 * step, brush.vary((243, 241, 234), 4))
            for _ in range(10):
                away_x, away_y = brush.within(0.33 * step)
                brush.disc(x + away_x, y + away_y, 0.03 * step, (222, 220, 208))
            brush.blob(x, y, 0.17 * step, brush.vary(filling, 8), 0.15)
    if brush.between(0, 1) < 0.6:
        brush.blob(0.72, -0.6, 0.12, brush.vary((150, 190, 90)), 0.2)
        brush.blob(-0.7, 0.62, 0.14, brush.vary((245, 190, 180)), 0.3)


DISHES: dict[str, Callable[[Brush, Colour], None]] = {
    dish.__name__: dish for dish in (donuts, pancakes, pizza, salad, soup, sushi)
}
"""The function that draws each class. It is called with a brush and the plate's colour."""
