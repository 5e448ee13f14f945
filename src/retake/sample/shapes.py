"""Shapes and colours that the dishes are drawn with. A dish is drawn on a square of 512 × 512 pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from PIL import ImageDraw

T = TypeVar("T")
Color = tuple[int, int, int]
Points = list[tuple[float, float]]

BREAD, CRUST, CORN = (238, 205, 150), (176, 108, 48), (238, 184, 72)
LETTUCE, TOMATO, MEAT = (106, 176, 60), (208, 52, 40), (112, 66, 38)
CHEESE, HAM, ONION = (250, 200, 56), (238, 152, 150), (238, 226, 238)
SAUSAGE, MUSTARD, KETCHUP = (186, 78, 44), (246, 200, 30), (190, 24, 20)
CREAM, LEAF, BERRY = (250, 240, 220), (52, 128, 50), (150, 30, 90)


def bowl(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    color = tint(rng, pick(rng, ((244, 240, 232), (70, 110, 150), (150, 90, 60), (60, 62, 66))), 14)
    disc(pen, 256, 256, 232, color)
    disc(pen, 256, 256, 206, shade(color, 0.75))


def disc(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, color: Color) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), color)


def arc(x: float, y: float, rx: float, ry: float, start: float, stop: float) -> Points:
    angles = np.radians(np.linspace(start, stop, 48))
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


def blob(rng: np.random.Generator, x: float, y: float, radius: float, wobble: float, corners: int = 10) -> Points:
    radii = radius * (1 + rng.uniform(-wobble, wobble, corners))
    angles = np.arange(corners) * (2 * math.pi / corners)
    return [(x + r * math.cos(angle), y + r * math.sin(angle)) for r, angle in zip(radii, angles, strict=True)]


def inside(rng: np.random.Generator, radius: float) -> tuple[float, float]:
    angle, reach = rng.uniform(0, 2 * math.pi), radius * math.sqrt(rng.random())
    return 256 + reach * math.cos(angle), 256 + reach * math.sin(angle)


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def tint(rng: np.random.Generator, color: Color, spread: int) -> Color:
    """A colour nearby."""
    bright = rng.uniform(-spread, spread)
    return _clip(part + bright + rng.uniform(-spread, spread) / 2 for part in color)


def shade(color: Color, factor: float) -> Color:
    return _clip(part * factor for part in color)


def mix(one: Color, other: Color, share: float) -> Color:
    return _clip(a * (1 - share) + b * share for a, b in zip(one, other, strict=True))


def _clip(parts: Iterable[float]) -> Color:
    red, green, blue = (min(255, max(0, round(part))) for part in parts)
    return red, green, blue


def bar(pen: ImageDraw.ImageDraw, reach: float, top: float, bottom: float, radius: float, color: Color) -> None:
    pen.rounded_rectangle((256 - reach, 256 + top, 256 + reach, 256 + bottom), radius, color)
