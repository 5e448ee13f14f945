"""Tacos, sandwiches and hot dogs. Each function draws one on a square of 512 × 512 pixels."""

from __future__ import annotations

import math

import numpy as np
from PIL import ImageDraw

from retake.sample.shapes import (
    BERRY,
    BREAD,
    CHEESE,
    CORN,
    CREAM,
    CRUST,
    HAM,
    KETCHUP,
    LEAF,
    LETTUCE,
    MEAT,
    MUSTARD,
    ONION,
    SAUSAGE,
    TOMATO,
    Color,
    arc,
    bar,
    blob,
    mix,
    pick,
    shade,
    tint,
)

# Tacos.

_FILLINGS = [
    [LETTUCE, LETTUCE, TOMATO, MEAT, CHEESE],
    [LETTUCE, MEAT, MEAT, ONION, TOMATO],
    [MEAT, LETTUCE, BERRY, CHEESE, LETTUCE],
    [LETTUCE, TOMATO, CREAM, LEAF, MEAT],
]


def hard_taco(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    _folded(rng, pen, tint(rng, CORN, 18), spots=90, size=(2, 6))


def soft_taco(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    _folded(rng, pen, tint(rng, (240, 218, 172), 10), spots=34, size=(4, 13))


def _folded(
    rng: np.random.Generator,
    pen: ImageDraw.ImageDraw,
    color: Color,
    spots: int,
    size: tuple[float, float],
) -> None:
    """Half a disc, its filling peeking out all along the round edge."""
    rx, ry = rng.uniform(200, 228), rng.uniform(195, 240)
    x, y = 256.0, 256 + ry * 0.46
    pen.polygon(arc(x + 10, y - 6, rx, ry, 176, 364), shade(color, 0.72))
    filling = pick(rng, _FILLINGS)
    for angle in np.linspace(184, 356, 54):
        for depth in (0.86, 0.97):
            bx = x + rx * depth * math.cos(math.radians(angle)) + rng.uniform(-8, 8)
            by = y + ry * depth * math.sin(math.radians(angle)) + rng.uniform(-8, 8)
            food = tint(rng, pick(rng, filling), 22)
            if rng.random() < 0.3:  # a strip of cheese or onion
                turn = rng.uniform(0, math.pi)
                dx, dy = 22 * math.cos(turn), 22 * math.sin(turn)
                pen.line((bx - dx, by - dy, bx + dx, by + dy), food, 7)
            else:
                pen.polygon(blob(rng, bx, by, rng.uniform(12, 25), 0.3), food, shade(food, 0.75))
    front = arc(x, y + 4, rx * 0.97, ry * 0.84, 180, 360) + arc(x, y + 4, rx * 0.97, ry * 0.14, 0, 180)
    pen.polygon(front, color)
    for _ in range(spots):
        angle, reach = math.radians(rng.uniform(184, 356)), math.sqrt(rng.uniform(0, 0.82))
        r = rng.uniform(*size)
        sx, sy = x + rx * reach * math.cos(angle), y + ry * 0.84 * reach * math.sin(angle)
        pen.polygon(blob(rng, sx, sy, r, 0.3, 7), mix(color, CRUST, rng.uniform(0.2, 0.75)))
    pen.line(arc(x, y + 4, rx * 0.97, ry * 0.84, 180, 360), shade(color, 1.14), 7)
    pen.line(arc(x, y + 4, rx * 0.95, ry * 0.14, 10, 170), shade(color, 0.7), 5)


def taco_from_above(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    """The two long rims of a hard shell, and the filling between them."""
    shell = tint(rng, CORN, 18)
    half, reach = rng.uniform(54, 70), rng.uniform(192, 220)
    bar(pen, reach, -half * 1.6, half * 0.2, half * 0.8, shade(shell, 0.86))
    filling = pick(rng, _FILLINGS)
    for _ in range(130):
        x, y = 256 + rng.uniform(-reach, reach) * 0.93, 256 + rng.uniform(-half * 0.9, half * 0.5)
        food = tint(rng, pick(rng, filling), 22)
        pen.polygon(blob(rng, x, y, rng.uniform(12, 24), 0.3), food, shade(food, 0.75))
    bar(pen, reach, half * 0.35, half * 1.6, half * 0.6, shell)
    for _ in range(50):
        x, y = 256 + rng.uniform(-reach, reach) * 0.9, 256 + half * rng.uniform(0.5, 1.45)
        pen.polygon(blob(rng, x, y, rng.uniform(2, 6), 0.3, 7), mix(shell, CRUST, rng.uniform(0.2, 0.75)))


# Sandwiches.


def toast(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    """Slices of bread seen from the side, with layers between."""
    width, y = rng.uniform(170, 215), 256 + rng.uniform(80, 115)
    bread = tint(rng, BREAD, 14)
    slices = int(rng.integers(2, 4))
    for index in range(slices):
        height = rng.uniform(46, 62)
        _slice(rng, pen, 256, y, width, height, bread)
        y -= height
        if index < slices - 1:
            y = _layers(rng, pen, 256, y, width, int(rng.integers(3, 5)))
    if rng.random() < 0.4:  # a pick with an olive
        pen.line((264, y - 84, 256, y + 26), (150, 100, 50), 10)
        pen.ellipse((236, y - 56, 286, y - 12), tint(rng, (120, 140, 50), 16))


def bun(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    width, y = rng.uniform(165, 205), 256 + rng.uniform(95, 120)
    crust = tint(rng, (206, 140, 70), 16)
    pen.rounded_rectangle((256 - width, y - 52, 256 + width, y), 26, crust)
    pen.rectangle((256 - width + 6, y - 52, 256 + width - 6, y - 40), tint(rng, BREAD, 10))
    y = _layers(rng, pen, 256, y - 50, width, int(rng.integers(3, 6)))
    dome = rng.uniform(105, 145)
    pen.polygon(arc(256, y + 6, width, dome, 180, 360), crust)
    pen.rectangle((256 - width + 4, y - 4, 256 + width - 4, y + 8), tint(rng, BREAD, 10))
    for _ in range(34):
        angle, reach = math.radians(rng.uniform(200, 340)), rng.uniform(0.4, 0.92)
        sx, sy = 256 + width * reach * math.cos(angle), y + dome * reach * math.sin(angle)
        pen.ellipse((sx - 6, sy - 4, sx + 6, sy + 4), tint(rng, CREAM, 10))


def triangles(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    """A sandwich cut in two: bread triangles seen from above, with the layers along the cut."""
    bread = tint(rng, BREAD, 14)
    size = rng.uniform(165, 200)
    for x, y in ((230, 330), (300, 385)):
        height = 0.0
        stack = [
            bread,
            *(tint(rng, pick(rng, (LETTUCE, HAM, CHEESE, TOMATO)), 16) for _ in range(3)),
            bread,
        ]
        for index, color in enumerate(stack):
            thick = 30 if index in (0, len(stack) - 1) else rng.uniform(12, 20)
            for _ in range(int(thick / 3)):
                height += 3
                corners = [
                    (x - size, y - height),
                    (x + size, y - height - 20),
                    (x - 20, y - height - size * 1.05),
                ]
                wave = 0 if color == bread else rng.uniform(-5, 5)
                pen.polygon([(cx + wave, cy) for cx, cy in corners], shade(color, 0.86))
        pen.polygon(corners, bread)
        pen.line((corners[1], corners[2], corners[0]), tint(rng, CRUST, 14), 17, joint="curve")
        for _ in range(60):
            a, b = sorted(rng.random(2))
            sx = sum(w * c[0] for w, c in zip((a, b - a, 1 - b), corners, strict=True))
            sy = sum(w * c[1] for w, c in zip((a, b - a, 1 - b), corners, strict=True))
            pen.ellipse((sx - 3, sy - 2, sx + 3, sy + 2), shade(bread, rng.uniform(0.84, 1.08)))


def sub(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    """A long roll, its layers showing between the halves."""
    crust = tint(rng, (204, 142, 76), 16)
    pen.rounded_rectangle((22, 300, 490, 372), 34, crust)
    y = _layers(rng, pen, 256, 312, 222, int(rng.integers(3, 5)))
    pen.rounded_rectangle((24, y - 70, 488, y + 14), 40, crust)
    pen.rectangle((50, y + 2, 462, y + 14), tint(rng, BREAD, 10))
    for x in range(80, 440, 64):
        pen.line((x, y - 14, x + 40, y - 56), shade(crust, 1.2), 8)


def _slice(
    rng: np.random.Generator,
    pen: ImageDraw.ImageDraw,
    x: float,
    bottom: float,
    width: float,
    height: float,
    bread: Color,
) -> None:
    pen.rounded_rectangle((x - width, bottom - height, x + width, bottom), 16, tint(rng, CRUST, 14))
    pen.rounded_rectangle((x - width + 9, bottom - height + 8, x + width - 9, bottom - 8), 10, bread)
    for _ in range(60):
        px, py = x + rng.uniform(-width + 14, width - 14), bottom - rng.uniform(12, height - 10)
        pen.ellipse((px - 3, py - 2, px + 3, py + 2), shade(bread, rng.uniform(0.82, 1.06)))


def _layers(rng: np.random.Generator, pen: ImageDraw.ImageDraw, x: float, y: float, width: float, count: int) -> float:
    """Horizontal layers from `y` upwards; returns how far up they reach."""
    for food in rng.permutation(np.array([LETTUCE, HAM, CHEESE, TOMATO, MEAT, LETTUCE]))[:count]:
        color = tint(rng, (int(food[0]), int(food[1]), int(food[2])), 16)
        height, reach = rng.uniform(20, 32), width * rng.uniform(0.97, 1.06)
        wave, length = (rng.uniform(5, 9), rng.uniform(26, 44)) if tuple(food) in (LETTUCE, HAM) else (1.5, 90)
        xs = np.linspace(x - reach, x + reach, 50)
        phase = rng.uniform(0, 6)
        lower = [(px, y + 5 + wave * math.sin(px / length * 6.28 + phase)) for px in xs]
        upper = [(px, y - height + wave * math.sin(px / length * 6.28 + phase + 1)) for px in xs[::-1]]
        pen.polygon(lower + upper, color, shade(color, 0.72))
        if tuple(food) == CHEESE:
            corner = x + rng.uniform(-0.6, 0.6) * width
            pen.polygon([(corner - 50, y), (corner + 50, y), (corner, y + 42)], color)
        y -= height
    return float(y)


# Hot dogs.


def hot_dog(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    bun = tint(rng, (220, 158, 88), 16)
    sausage = tint(rng, SAUSAGE, 20)
    half, reach = rng.uniform(52, 66), rng.uniform(190, 215)
    thick = half * rng.uniform(0.62, 0.75)
    bar(pen, reach, -half * 1.7, half * 0.2, half * 0.9, shade(bun, 0.9))
    bar(pen, reach - 8, -half * 0.9, half * 0.9, 30, tint(rng, BREAD, 10))
    bar(pen, 240, -thick, thick, thick, sausage)
    pen.line((50, 256 - thick * 0.5, 462, 256 - thick * 0.5), shade(sausage, 1.3), 9)
    bar(pen, reach, half * 0.35, half * 1.8, half * 0.7, bun)
    if rng.random() < 0.35:  # relish, onions
        for _ in range(46):
            x, y = rng.uniform(70, 440), 256 + rng.uniform(-thick, thick * 0.5)
            pen.polygon(blob(rng, x, y, 9, 0.3, 6), tint(rng, pick(rng, (LEAF, ONION, LETTUCE)), 18))
    sauce = tint(rng, pick(rng, (MUSTARD, MUSTARD, MUSTARD, KETCHUP)), 10)
    length = rng.uniform(8, 13)
    wave = [(x, 250 + thick * 0.7 * math.sin((x - 60) / length)) for x in range(60, 452, 3)]
    pen.line(wave, sauce, int(rng.integers(11, 17)), joint="curve")
