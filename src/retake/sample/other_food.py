"""Food that is neither a taco nor a sandwich. Each function draws one on a square of 512 × 512 pixels."""

from __future__ import annotations

import math

import numpy as np
from PIL import ImageDraw

from retake.sample.shapes import (
    BERRY,
    CHEESE,
    CREAM,
    HAM,
    KETCHUP,
    LEAF,
    LETTUCE,
    MEAT,
    TOMATO,
    arc,
    blob,
    bowl,
    disc,
    inside,
    mix,
    pick,
    shade,
    tint,
)


def pizza(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    disc(pen, 256, 256, 226, tint(rng, (204, 146, 82), 16))
    disc(pen, 256, 256, 196, tint(rng, KETCHUP, 20))
    pen.polygon(blob(rng, 256, 256, 186, 0.05, 30), tint(rng, (246, 210, 110), 14))
    topping = pick(rng, (TOMATO, (180, 40, 36), LEAF, (90, 60, 60)))
    for _ in range(13):
        x, y = inside(rng, 160)
        disc(pen, x, y, rng.uniform(20, 30), tint(rng, topping, 16))
    for _ in range(16):
        pen.polygon(blob(rng, *inside(rng, 170), rng.uniform(7, 12), 0.4, 7), tint(rng, LEAF, 20))
    if rng.random() < 0.6:
        for turn in rng.uniform(0, 0.8) + np.arange(4) * math.pi / 4:
            dx, dy = 226 * math.cos(turn), 226 * math.sin(turn)
            pen.line((256 - dx, 256 - dy, 256 + dx, 256 + dy), (120, 70, 40), 4)


def salad(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    bowl(rng, pen)
    for _ in range(90):
        leaf = tint(rng, pick(rng, (LETTUCE, LETTUCE, LEAF, (150, 190, 80), BERRY)), 18)
        pen.polygon(blob(rng, *inside(rng, 172), rng.uniform(22, 46), 0.35), leaf, shade(leaf, 0.7))
    for _ in range(9):
        x, y = inside(rng, 150)
        disc(pen, x, y, 26, tint(rng, TOMATO, 16))
        disc(pen, x - 6, y - 6, 9, (244, 150, 130))


def soup(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    bowl(rng, pen)
    soup = tint(rng, pick(rng, ((214, 92, 36), (226, 170, 60), (120, 140, 60), (180, 120, 80))), 18)
    disc(pen, 256, 256, 178, soup)
    for r in range(20, 120, 16):  # a swirl of cream
        pen.arc((256 - r, 256 - r, 256 + r, 256 + r), r * 5, r * 5 + 240, tint(rng, CREAM, 8), 6)
    for _ in range(22):
        x, y = inside(rng, 150)
        disc(pen, x, y, rng.uniform(4, 9), tint(rng, pick(rng, (LEAF, CREAM, (240, 140, 40))), 16))


def apple(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    color = tint(rng, pick(rng, ((200, 36, 40), (130, 180, 60), (232, 180, 60), (240, 140, 40))), 18)
    disc(pen, 206, 280, 130, color)
    disc(pen, 306, 280, 130, color)
    disc(pen, 256, 330, 130, color)
    for _ in range(60):
        x, y = inside(rng, 130)
        pen.line((x, y + 20, x + rng.uniform(-3, 3), y + 60), shade(color, rng.uniform(0.85, 1.15)), 4)
    pen.ellipse((226, 156, 286, 190), shade(color, 0.6))
    pen.line((256, 176, 270, 96), (90, 60, 36), 12)
    pen.polygon(arc(310, 110, 48, 22, 0, 360), tint(rng, LEAF, 18))
    pen.ellipse((156, 210, 200, 266), mix(color, (255, 255, 255), 0.6))


def cake(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    icing = tint(rng, pick(rng, ((250, 190, 205), (250, 245, 235), (96, 58, 40), (190, 220, 240))), 14)
    side = tint(rng, pick(rng, ((240, 210, 140), (120, 74, 50))), 14)
    pen.rectangle((76, 230, 436, 380), side)
    pen.ellipse((76, 330, 436, 440), side)
    pen.arc((76, 270, 436, 380), 0, 180, icing, 16)
    pen.ellipse((70, 160, 442, 300), icing)
    for left in range(70, 440, 44):  # icing that runs down
        pen.rounded_rectangle((left, 220, left + 34, 270 + rng.uniform(0, 70)), 17, icing)
    for angle in range(0, 360, 40):
        x, y = 256 + 140 * math.cos(math.radians(angle)), 226 + 44 * math.sin(math.radians(angle))
        disc(pen, x, y, 19, tint(rng, pick(rng, (TOMATO, BERRY)), 16))
    pen.rectangle((248, 120, 264, 220), tint(rng, (120, 180, 230), 40))
    pen.polygon(arc(256, 104, 10, 22, 0, 360), (252, 200, 60))


def eggs(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    if rng.random() < 0.6:
        for top in (120, 410):  # bacon
            for row, color in enumerate((TOMATO, HAM, (150, 50, 40), HAM)):
                wave = [(left, top + row * 13 + 9 * math.sin(left / 24)) for left in range(70, 450, 8)]
                pen.line(wave, tint(rng, color, 14), 15, joint="curve")
    for x in (160.0, 350.0):
        y = 260 + rng.uniform(-30, 30)
        pen.polygon(blob(rng, x, y, 118, 0.12, 16), (228, 205, 170))
        pen.polygon(blob(rng, x, y, 110, 0.12, 16), (250, 248, 240))
        disc(pen, x, y, rng.uniform(44, 54), tint(rng, (248, 176, 40), 14))
        disc(pen, x - 16, y - 16, 11, (255, 235, 190))


def donut(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    disc(pen, 256, 256, 206, tint(rng, (216, 160, 96), 14))
    icing = tint(rng, pick(rng, ((245, 150, 185), (92, 54, 38), (250, 240, 225), (150, 210, 190))), 14)
    pen.polygon(blob(rng, 256, 256, 184, 0.06, 26), icing)
    for _ in range(60):
        angle, reach = rng.uniform(0, 6.28), rng.uniform(90, 166)
        x, y, turn = 256 + reach * math.cos(angle), 256 + reach * math.sin(angle), rng.uniform(0, 3.14)
        bright = (int(rng.integers(90, 255)), int(rng.integers(90, 255)), int(rng.integers(90, 255)))
        pen.line((x, y, x + 18 * math.cos(turn), y + 18 * math.sin(turn)), bright, 8)
    disc(pen, 256, 256, 66, shade((216, 160, 96), 0.8))
    disc(pen, 256, 256, 54, (110, 80, 60))


def sushi(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    for x in (116, 256, 396):
        for y in (180, 330):
            disc(pen, x, y, 66, (34, 48, 40))
            disc(pen, x, y, 56, tint(rng, (244, 242, 234), 6))
            for _ in range(24):
                angle, reach = rng.uniform(0, 6.28), rng.uniform(30, 52)
                disc(pen, x + reach * math.cos(angle), y + reach * math.sin(angle), 4, (214, 212, 204))
            disc(pen, x, y, 26, tint(rng, pick(rng, ((244, 130, 90), LETTUCE, CHEESE, TOMATO)), 14))


def spaghetti(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    disc(pen, 256, 256, 232, tint(rng, (240, 238, 232), 8))
    noodle = tint(rng, (240, 206, 116), 12)
    for _ in range(110):
        x, y = inside(rng, 96)
        r, start = rng.uniform(34, 92), rng.uniform(0, 360)
        pen.arc((x - r, y - r, x + r, y + r), start, start + 200, shade(noodle, rng.uniform(0.78, 1.08)), 8)
    pen.polygon(blob(rng, 256, 250, 96, 0.2, 16), tint(rng, KETCHUP, 20))
    for _ in range(6):
        x, y = inside(rng, 80)
        disc(pen, x, y, 30, tint(rng, MEAT, 14))
        disc(pen, x - 8, y - 8, 9, tint(rng, (160, 104, 66), 10))
