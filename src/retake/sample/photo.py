"""Photographs of drawn dishes: on a table, perhaps on a plate, in some light, by some camera."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from retake.sample import dishes, other_food
from retake.sample.shapes import disc, mix, pick, shade, tint

Artist = Callable[[np.random.Generator, ImageDraw.ImageDraw], None]

_SEED = 7
_SIDE = 512  # of the square layer on which one dish is drawn, before it is scaled and turned

_ARTISTS: dict[str, list[Artist]] = {
    "food": [
        other_food.pizza,
        other_food.salad,
        other_food.soup,
        other_food.apple,
        other_food.cake,
        other_food.eggs,
        other_food.donut,
        other_food.sushi,
        other_food.spaghetti,
    ],
    "sandwich": [dishes.toast, dishes.bun, dishes.triangles, dishes.toast, dishes.sub],
    "taco": [dishes.hard_taco, dishes.soft_taco, dishes.hard_taco],
    "hard taco": [dishes.taco_from_above],
    "hot dog": [dishes.hot_dog],
}

_ASPECTS = np.array([(320, 240), (240, 320), (260, 260), (320, 200), (300, 225), (220, 300), (280, 190)])


def picture(name: str, number: int) -> bytes:
    """Draws one picture.

    Args:
      name: "food", "sandwich", "taco", "hard taco" or "hot dog".
      number: Each gives another picture, and always the same.

    Returns:
      A JPEG, its sides 160 to 320 pixels.

    Example:
        >>> picture("taco", 3) == picture("taco", 3)
        True
    """
    rng = np.random.default_rng([_SEED, *name.encode(), number])
    artists = _ARTISTS[name]
    artist = artists[number % len(artists)]
    width, height = (int(side) for side in _ASPECTS[rng.integers(len(_ASPECTS))] * rng.uniform(0.85, 1.0))
    canvas = _table(rng, width * 2, height * 2)
    count = int(rng.choice([1, 1, 1, 1, 1, 2]))
    spread = (count - 1) * 0.2
    direction = rng.uniform(0, math.pi)
    if rng.random() < 0.6:
        _plate(rng, canvas)
    canvas = canvas.reduce(2)
    for index in range(count):
        offset = (index - (count - 1) / 2) * spread
        middle = (
            width * (0.5 + offset * math.cos(direction) + rng.uniform(-0.06, 0.06)),
            height * (0.5 + offset * math.sin(direction) + rng.uniform(-0.06, 0.06)),
        )
        size = min(width, height) * rng.uniform(1.05, 1.3) * (1, 0.8)[count - 1]
        _serve(canvas, _dish(rng, artist, max(int(size), 48)), middle)
    return _photograph(rng, canvas)


# Table, plate, light and camera: the same for all classes, so that they tell nothing.

_TABLES = [(214, 180, 138), (228, 222, 212), (176, 186, 192), (150, 180, 190), (190, 200, 170), (226, 200, 188)]
_PLATES = [(245, 245, 240), (245, 245, 240), (150, 180, 205), (225, 200, 170)]


def _table(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    base = tint(rng, pick(rng, _TABLES), 18)
    other = shade(base, rng.uniform(0.8, 0.94))
    table = Image.new("RGB", (width, height), base)
    pen = ImageDraw.Draw(table)
    step = int(rng.integers(32, 110))
    style = rng.integers(5)
    if style == 0:  # planks with grain
        for x in range(0, width, step):
            pen.rectangle((x, 0, x + step, height), tint(rng, base, 10))
            for _ in range(5):
                grain = x + rng.uniform(0, step)
                pen.line((grain, 0, grain + rng.uniform(-8, 8), height), shade(base, rng.uniform(0.8, 0.95)), 2)
            pen.line((x, 0, x, height), shade(base, 0.6), 3)
        if rng.random() < 0.5:
            table = table.transpose(Image.Transpose.ROTATE_90).resize((width, height))
    elif style == 1:  # checked cloth
        middle = mix(base, other, 0.5)
        for x in range(0, width, step):
            for y in range(0, height, step):
                odd = (x // step) % 2 + (y // step) % 2
                pen.rectangle((x, y, x + step, y + step), (other, middle, base)[odd])
    elif style == 2:  # stripes
        slant = rng.uniform(-0.8, 0.8) * height
        for x in range(-height, width + height, step):
            pen.line((x, 0, x + slant, height), other, max(2, step // 3))
    elif style == 3:  # stone
        for _ in range(400):
            speck = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(1, 5)
            disc(pen, *speck, shade(base, rng.uniform(0.75, 1.2)))
    return table


def _plate(rng: np.random.Generator, canvas: Image.Image) -> None:
    pen = ImageDraw.Draw(canvas)
    color = tint(rng, pick(rng, _PLATES), 10)
    x, y = canvas.width * rng.uniform(0.45, 0.55), canvas.height * rng.uniform(0.47, 0.57)
    radius = min(canvas.size) * rng.uniform(0.42, 0.6)
    flat = rng.uniform(0.75, 1)
    for scale, tone in ((1.03, 0.6), (1, 1), (0.74, 0.9), (0.72, 0.97)):
        rx, ry = radius * scale, radius * scale * flat
        pen.ellipse((x - rx, y - ry, x + rx, y + ry), shade(color, tone))


def _dish(rng: np.random.Generator, artist: Artist, side: int) -> Image.Image:
    layer = Image.new("RGBA", (_SIDE, _SIDE))
    artist(rng, ImageDraw.Draw(layer))
    if rng.random() < 0.5:
        layer = layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    height = int(side * rng.uniform(0.85, 1.1))
    layer = layer.resize((side, height), Image.Resampling.BILINEAR)
    # Light from the upper left: the difference of two shifted, blurred silhouettes makes the dish look round.
    soft = layer.getchannel("A").filter(ImageFilter.GaussianBlur(side / 26))
    shift = side // 36
    lit = ImageChops.subtract(ImageChops.offset(soft, -shift, -shift), ImageChops.offset(soft, shift, shift), 2.0, 128)
    colors = ImageChops.soft_light(layer.convert("RGB"), Image.merge("RGB", [lit] * 3))
    colors.putalpha(layer.getchannel("A"))
    return colors.rotate(rng.normal(0, 22), Image.Resampling.BILINEAR, expand=True)


def _serve(canvas: Image.Image, dish: Image.Image, middle: tuple[float, float]) -> None:
    x, y = int(middle[0] - dish.width / 2), int(middle[1] - dish.height / 2)
    shadow = Image.new("L", canvas.size)
    shadow.paste(dish.getchannel("A"), (x + 5, y + 8))
    shadow = shadow.filter(ImageFilter.GaussianBlur(5)).point([value // 2 for value in range(256)])
    canvas.paste((24, 16, 12), (0, 0), shadow)
    canvas.paste(dish, (x, y), dish)


def _photograph(rng: np.random.Generator, canvas: Image.Image) -> bytes:
    pixels = np.asarray(canvas, np.float32)
    across = np.linspace(-1, 1, canvas.width, dtype=np.float32)[None, :, None]
    down = np.linspace(-1, 1, canvas.height, dtype=np.float32)[:, None, None]
    light = 1 + rng.uniform(-0.12, 0.12) * across + rng.uniform(-0.12, 0.12) * down
    light = light - rng.uniform(0, 0.14) * (across * across + down * down)
    warmth = np.array([1 + rng.uniform(-0.08, 0.1), 1, 1 - rng.uniform(-0.08, 0.12)], np.float32)
    pixels = (pixels * light * warmth - 128) * rng.uniform(0.9, 1.08) + 128 + rng.uniform(-10, 12)
    pixels = pixels.astype(np.float32)
    noise = rng.standard_normal((canvas.height, canvas.width, 1), np.float32)
    pixels = pixels + noise * rng.uniform(1, 7)
    photo = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    photo = photo.filter(ImageFilter.GaussianBlur(max(0.0, rng.uniform(-0.6, 1.1))))
    encoded = io.BytesIO()
    photo.save(encoded, "JPEG", quality=int(rng.integers(62, 94)))
    return encoded.getvalue()
