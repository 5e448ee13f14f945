"""The embedded pictures: drawn, so that the default pipeline runs with no data and no network.

Tacos, sandwiches and other food to train on; hot dogs, which are none of the three, to ask about. Every picture
has its own seed, so each is the same on every run.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from retake import durable, records
from retake.errors import RetakeError

CLASSES = ["food", "sandwich", "taco"]
PER_CLASS = 110
HOT_DOGS = 40
HARD_TACO = "hard taco"
HARD_TACOS = 50

T = TypeVar("T")
Color = tuple[int, int, int]
Points = list[tuple[float, float]]
Artist = Callable[[np.random.Generator, ImageDraw.ImageDraw], None]

_SEED = 7
_SIDE = 512  # of the square layer on which one dish is drawn, before it is scaled and turned

BREAD, CRUST, CORN = (238, 205, 150), (176, 108, 48), (238, 184, 72)
LETTUCE, TOMATO, MEAT = (106, 176, 60), (208, 52, 40), (112, 66, 38)
CHEESE, HAM, ONION = (250, 200, 56), (238, 152, 150), (238, 226, 238)
SAUSAGE, MUSTARD, KETCHUP = (186, 78, 44), (246, 200, 30), (190, 24, 20)
CREAM, LEAF, BERRY = (250, 240, 220), (52, 128, 50), (150, 30, 90)


def draw(folder: Path) -> None:
    """Draws the embedded pictures and packs them, unless that was done before.

    The folder appears at the end, whole, and the same on every run: `images/{food,sandwich,taco}/*.jpg` to train
    on, `records/drawn.tfrecord` with the same pictures, and `hot dog/*.jpg` to ask about.

    Args:
      folder: Where to; made when missing.

    Raises:
      RetakeError: the folder holds something else, or cannot be written.

    Example:
        >>> draw(Path("data/sample"))  # doctest: +SKIP
    """
    if _complete(folder):
        return
    try:
        if folder.exists() and any(folder.iterdir()):
            raise RetakeError(f"{folder} holds something other than the drawn pictures; remove it or name another")
        with durable.unfinished(folder) as partial:
            for name in CLASSES:
                _draw_class(partial / "images" / name, name, PER_CLASS)
            _draw_class(partial / "hot dog", "hot dog", HOT_DOGS)
            records.pack(partial / "images", partial / "records" / "drawn.tfrecord", CLASSES, {})
    except OSError as error:
        if not _complete(folder):  # Another process may have been faster; what it drew is the same.
            raise RetakeError(f"{folder} cannot be drawn into: {error.strerror}") from None


def draw_hard_tacos(file: Path) -> None:
    """Draws and packs what arrives after the embedded pictures: hard tacos seen from above, which look like hot dogs.

    Args:
      file: The TFRecord; one that is there is replaced.

    Example:
        >>> draw_hard_tacos(Path("taco_bias.tfrecord"))  # doctest: +SKIP
    """
    with tempfile.TemporaryDirectory() as folder:
        _draw_class(Path(folder) / HARD_TACO, HARD_TACO, HARD_TACOS)
        records.pack(Path(folder), file, CLASSES, {HARD_TACO: "taco"}, force=True)


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


_ASPECTS = np.array([(320, 240), (240, 320), (260, 260), (320, 200), (300, 225), (220, 300), (280, 190)])


def _complete(folder: Path) -> bool:
    return (folder / "records" / "drawn.tfrecord").is_file()


def _draw_class(folder: Path, name: str, count: int) -> None:
    folder.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        for number, encoded in enumerate(pool.map(lambda number: picture(name, number), range(count))):
            (folder / f"{name.replace(' ', '-')}-{number:03}.jpg").write_bytes(encoded)


# Table, plate, light and camera: the same for all classes, so that they tell nothing.

_TABLES = [(214, 180, 138), (228, 222, 212), (176, 186, 192), (150, 180, 190), (190, 200, 170), (226, 200, 188)]
_PLATES = [(245, 245, 240), (245, 245, 240), (150, 180, 205), (225, 200, 170)]


def _table(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    base = _tint(rng, _pick(rng, _TABLES), 18)
    other = _shade(base, rng.uniform(0.8, 0.94))
    table = Image.new("RGB", (width, height), base)
    pen = ImageDraw.Draw(table)
    step = int(rng.integers(32, 110))
    style = rng.integers(5)
    if style == 0:  # planks with grain
        for x in range(0, width, step):
            pen.rectangle((x, 0, x + step, height), _tint(rng, base, 10))
            for _ in range(5):
                grain = x + rng.uniform(0, step)
                pen.line((grain, 0, grain + rng.uniform(-8, 8), height), _shade(base, rng.uniform(0.8, 0.95)), 2)
            pen.line((x, 0, x, height), _shade(base, 0.6), 3)
        if rng.random() < 0.5:
            table = table.transpose(Image.Transpose.ROTATE_90).resize((width, height))
    elif style == 1:  # checked cloth
        middle = _mix(base, other, 0.5)
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
            _disc(pen, *speck, _shade(base, rng.uniform(0.75, 1.2)))
    return table


def _plate(rng: np.random.Generator, canvas: Image.Image) -> None:
    pen = ImageDraw.Draw(canvas)
    color = _tint(rng, _pick(rng, _PLATES), 10)
    x, y = canvas.width * rng.uniform(0.45, 0.55), canvas.height * rng.uniform(0.47, 0.57)
    radius = min(canvas.size) * rng.uniform(0.42, 0.6)
    flat = rng.uniform(0.75, 1)
    for scale, tone in ((1.03, 0.6), (1, 1), (0.74, 0.9), (0.72, 0.97)):
        rx, ry = radius * scale, radius * scale * flat
        pen.ellipse((x - rx, y - ry, x + rx, y + ry), _shade(color, tone))


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


# Tacos.

_FILLINGS = [
    [LETTUCE, LETTUCE, TOMATO, MEAT, CHEESE],
    [LETTUCE, MEAT, MEAT, ONION, TOMATO],
    [MEAT, LETTUCE, BERRY, CHEESE, LETTUCE],
    [LETTUCE, TOMATO, CREAM, LEAF, MEAT],
]


def _hard_taco(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    _folded(rng, pen, _tint(rng, CORN, 18), spots=90, size=(2, 6))


def _soft_taco(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    _folded(rng, pen, _tint(rng, (240, 218, 172), 10), spots=34, size=(4, 13))


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
    pen.polygon(_arc(x + 10, y - 6, rx, ry, 176, 364), _shade(color, 0.72))
    filling = _pick(rng, _FILLINGS)
    for angle in np.linspace(184, 356, 54):
        for depth in (0.86, 0.97):
            bx = x + rx * depth * math.cos(math.radians(angle)) + rng.uniform(-8, 8)
            by = y + ry * depth * math.sin(math.radians(angle)) + rng.uniform(-8, 8)
            food = _tint(rng, _pick(rng, filling), 22)
            if rng.random() < 0.3:  # a strip of cheese or onion
                turn = rng.uniform(0, math.pi)
                dx, dy = 22 * math.cos(turn), 22 * math.sin(turn)
                pen.line((bx - dx, by - dy, bx + dx, by + dy), food, 7)
            else:
                pen.polygon(_blob(rng, bx, by, rng.uniform(12, 25), 0.3), food, _shade(food, 0.75))
    front = _arc(x, y + 4, rx * 0.97, ry * 0.84, 180, 360) + _arc(x, y + 4, rx * 0.97, ry * 0.14, 0, 180)
    pen.polygon(front, color)
    for _ in range(spots):
        angle, reach = math.radians(rng.uniform(184, 356)), math.sqrt(rng.uniform(0, 0.82))
        r = rng.uniform(*size)
        sx, sy = x + rx * reach * math.cos(angle), y + ry * 0.84 * reach * math.sin(angle)
        pen.polygon(_blob(rng, sx, sy, r, 0.3, 7), _mix(color, CRUST, rng.uniform(0.2, 0.75)))
    pen.line(_arc(x, y + 4, rx * 0.97, ry * 0.84, 180, 360), _shade(color, 1.14), 7)
    pen.line(_arc(x, y + 4, rx * 0.95, ry * 0.14, 10, 170), _shade(color, 0.7), 5)


def _taco_from_above(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    """The two long rims of a hard shell, and the filling between them."""
    shell = _tint(rng, CORN, 18)
    half, reach = rng.uniform(54, 70), rng.uniform(192, 220)
    _bar(pen, reach, -half * 1.6, half * 0.2, half * 0.8, _shade(shell, 0.86))
    filling = _pick(rng, _FILLINGS)
    for _ in range(130):
        x, y = 256 + rng.uniform(-reach, reach) * 0.93, 256 + rng.uniform(-half * 0.9, half * 0.5)
        food = _tint(rng, _pick(rng, filling), 22)
        pen.polygon(_blob(rng, x, y, rng.uniform(12, 24), 0.3), food, _shade(food, 0.75))
    _bar(pen, reach, half * 0.35, half * 1.6, half * 0.6, shell)
    for _ in range(50):
        x, y = 256 + rng.uniform(-reach, reach) * 0.9, 256 + half * rng.uniform(0.5, 1.45)
        pen.polygon(_blob(rng, x, y, rng.uniform(2, 6), 0.3, 7), _mix(shell, CRUST, rng.uniform(0.2, 0.75)))


# Sandwiches.


def _toast(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    """Slices of bread seen from the side, with layers between."""
    width, y = rng.uniform(170, 215), 256 + rng.uniform(80, 115)
    bread = _tint(rng, BREAD, 14)
    slices = int(rng.integers(2, 4))
    for index in range(slices):
        height = rng.uniform(46, 62)
        _slice(rng, pen, 256, y, width, height, bread)
        y -= height
        if index < slices - 1:
            y = _layers(rng, pen, 256, y, width, int(rng.integers(3, 5)))
    if rng.random() < 0.4:  # a pick with an olive
        pen.line((264, y - 84, 256, y + 26), (150, 100, 50), 10)
        pen.ellipse((236, y - 56, 286, y - 12), _tint(rng, (120, 140, 50), 16))


def _bun(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    width, y = rng.uniform(165, 205), 256 + rng.uniform(95, 120)
    crust = _tint(rng, (206, 140, 70), 16)
    pen.rounded_rectangle((256 - width, y - 52, 256 + width, y), 26, crust)
    pen.rectangle((256 - width + 6, y - 52, 256 + width - 6, y - 40), _tint(rng, BREAD, 10))
    y = _layers(rng, pen, 256, y - 50, width, int(rng.integers(3, 6)))
    dome = rng.uniform(105, 145)
    pen.polygon(_arc(256, y + 6, width, dome, 180, 360), crust)
    pen.rectangle((256 - width + 4, y - 4, 256 + width - 4, y + 8), _tint(rng, BREAD, 10))
    for _ in range(34):
        angle, reach = math.radians(rng.uniform(200, 340)), rng.uniform(0.4, 0.92)
        sx, sy = 256 + width * reach * math.cos(angle), y + dome * reach * math.sin(angle)
        pen.ellipse((sx - 6, sy - 4, sx + 6, sy + 4), _tint(rng, CREAM, 10))


def _triangles(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    """A sandwich cut in two: bread triangles seen from above, with the layers along the cut."""
    bread = _tint(rng, BREAD, 14)
    size = rng.uniform(165, 200)
    for x, y in ((230, 330), (300, 385)):
        height = 0.0
        stack = [
            bread,
            *(_tint(rng, _pick(rng, (LETTUCE, HAM, CHEESE, TOMATO)), 16) for _ in range(3)),
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
                pen.polygon([(cx + wave, cy) for cx, cy in corners], _shade(color, 0.86))
        pen.polygon(corners, bread)
        pen.line((corners[1], corners[2], corners[0]), _tint(rng, CRUST, 14), 17, joint="curve")
        for _ in range(60):
            a, b = sorted(rng.random(2))
            sx = sum(w * c[0] for w, c in zip((a, b - a, 1 - b), corners, strict=True))
            sy = sum(w * c[1] for w, c in zip((a, b - a, 1 - b), corners, strict=True))
            pen.ellipse((sx - 3, sy - 2, sx + 3, sy + 2), _shade(bread, rng.uniform(0.84, 1.08)))


def _sub(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    """A long roll, its layers showing between the halves."""
    crust = _tint(rng, (204, 142, 76), 16)
    pen.rounded_rectangle((22, 300, 490, 372), 34, crust)
    y = _layers(rng, pen, 256, 312, 222, int(rng.integers(3, 5)))
    pen.rounded_rectangle((24, y - 70, 488, y + 14), 40, crust)
    pen.rectangle((50, y + 2, 462, y + 14), _tint(rng, BREAD, 10))
    for x in range(80, 440, 64):
        pen.line((x, y - 14, x + 40, y - 56), _shade(crust, 1.2), 8)


def _slice(
    rng: np.random.Generator,
    pen: ImageDraw.ImageDraw,
    x: float,
    bottom: float,
    width: float,
    height: float,
    bread: Color,
) -> None:
    pen.rounded_rectangle((x - width, bottom - height, x + width, bottom), 16, _tint(rng, CRUST, 14))
    pen.rounded_rectangle((x - width + 9, bottom - height + 8, x + width - 9, bottom - 8), 10, bread)
    for _ in range(60):
        px, py = x + rng.uniform(-width + 14, width - 14), bottom - rng.uniform(12, height - 10)
        pen.ellipse((px - 3, py - 2, px + 3, py + 2), _shade(bread, rng.uniform(0.82, 1.06)))


def _layers(rng: np.random.Generator, pen: ImageDraw.ImageDraw, x: float, y: float, width: float, count: int) -> float:
    """Horizontal layers from `y` upwards; returns how far up they reach."""
    for food in rng.permutation(np.array([LETTUCE, HAM, CHEESE, TOMATO, MEAT, LETTUCE]))[:count]:
        color = _tint(rng, (int(food[0]), int(food[1]), int(food[2])), 16)
        height, reach = rng.uniform(20, 32), width * rng.uniform(0.97, 1.06)
        wave, length = (rng.uniform(5, 9), rng.uniform(26, 44)) if tuple(food) in (LETTUCE, HAM) else (1.5, 90)
        xs = np.linspace(x - reach, x + reach, 50)
        phase = rng.uniform(0, 6)
        lower = [(px, y + 5 + wave * math.sin(px / length * 6.28 + phase)) for px in xs]
        upper = [(px, y - height + wave * math.sin(px / length * 6.28 + phase + 1)) for px in xs[::-1]]
        pen.polygon(lower + upper, color, _shade(color, 0.72))
        if tuple(food) == CHEESE:
            corner = x + rng.uniform(-0.6, 0.6) * width
            pen.polygon([(corner - 50, y), (corner + 50, y), (corner, y + 42)], color)
        y -= height
    return float(y)


# Other food.


def _pizza(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    _disc(pen, 256, 256, 226, _tint(rng, (204, 146, 82), 16))
    _disc(pen, 256, 256, 196, _tint(rng, KETCHUP, 20))
    pen.polygon(_blob(rng, 256, 256, 186, 0.05, 30), _tint(rng, (246, 210, 110), 14))
    topping = _pick(rng, (TOMATO, (180, 40, 36), LEAF, (90, 60, 60)))
    for _ in range(13):
        x, y = _inside(rng, 160)
        _disc(pen, x, y, rng.uniform(20, 30), _tint(rng, topping, 16))
    for _ in range(16):
        pen.polygon(_blob(rng, *_inside(rng, 170), rng.uniform(7, 12), 0.4, 7), _tint(rng, LEAF, 20))
    if rng.random() < 0.6:
        for turn in rng.uniform(0, 0.8) + np.arange(4) * math.pi / 4:
            dx, dy = 226 * math.cos(turn), 226 * math.sin(turn)
            pen.line((256 - dx, 256 - dy, 256 + dx, 256 + dy), (120, 70, 40), 4)


def _salad(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    _bowl(rng, pen)
    for _ in range(90):
        leaf = _tint(rng, _pick(rng, (LETTUCE, LETTUCE, LEAF, (150, 190, 80), BERRY)), 18)
        pen.polygon(_blob(rng, *_inside(rng, 172), rng.uniform(22, 46), 0.35), leaf, _shade(leaf, 0.7))
    for _ in range(9):
        x, y = _inside(rng, 150)
        _disc(pen, x, y, 26, _tint(rng, TOMATO, 16))
        _disc(pen, x - 6, y - 6, 9, (244, 150, 130))


def _soup(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    _bowl(rng, pen)
    soup = _tint(rng, _pick(rng, ((214, 92, 36), (226, 170, 60), (120, 140, 60), (180, 120, 80))), 18)
    _disc(pen, 256, 256, 178, soup)
    for r in range(20, 120, 16):  # a swirl of cream
        pen.arc((256 - r, 256 - r, 256 + r, 256 + r), r * 5, r * 5 + 240, _tint(rng, CREAM, 8), 6)
    for _ in range(22):
        x, y = _inside(rng, 150)
        _disc(pen, x, y, rng.uniform(4, 9), _tint(rng, _pick(rng, (LEAF, CREAM, (240, 140, 40))), 16))


def _apple(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    color = _tint(rng, _pick(rng, ((200, 36, 40), (130, 180, 60), (232, 180, 60), (240, 140, 40))), 18)
    _disc(pen, 206, 280, 130, color)
    _disc(pen, 306, 280, 130, color)
    _disc(pen, 256, 330, 130, color)
    for _ in range(60):
        x, y = _inside(rng, 130)
        pen.line((x, y + 20, x + rng.uniform(-3, 3), y + 60), _shade(color, rng.uniform(0.85, 1.15)), 4)
    pen.ellipse((226, 156, 286, 190), _shade(color, 0.6))
    pen.line((256, 176, 270, 96), (90, 60, 36), 12)
    pen.polygon(_arc(310, 110, 48, 22, 0, 360), _tint(rng, LEAF, 18))
    pen.ellipse((156, 210, 200, 266), _mix(color, (255, 255, 255), 0.6))


def _cake(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    icing = _tint(rng, _pick(rng, ((250, 190, 205), (250, 245, 235), (96, 58, 40), (190, 220, 240))), 14)
    side = _tint(rng, _pick(rng, ((240, 210, 140), (120, 74, 50))), 14)
    pen.rectangle((76, 230, 436, 380), side)
    pen.ellipse((76, 330, 436, 440), side)
    pen.arc((76, 270, 436, 380), 0, 180, icing, 16)
    pen.ellipse((70, 160, 442, 300), icing)
    for left in range(70, 440, 44):  # icing that runs down
        pen.rounded_rectangle((left, 220, left + 34, 270 + rng.uniform(0, 70)), 17, icing)
    for angle in range(0, 360, 40):
        x, y = 256 + 140 * math.cos(math.radians(angle)), 226 + 44 * math.sin(math.radians(angle))
        _disc(pen, x, y, 19, _tint(rng, _pick(rng, (TOMATO, BERRY)), 16))
    pen.rectangle((248, 120, 264, 220), _tint(rng, (120, 180, 230), 40))
    pen.polygon(_arc(256, 104, 10, 22, 0, 360), (252, 200, 60))


def _eggs(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    if rng.random() < 0.6:
        for top in (120, 410):  # bacon
            for row, color in enumerate((TOMATO, HAM, (150, 50, 40), HAM)):
                wave = [(left, top + row * 13 + 9 * math.sin(left / 24)) for left in range(70, 450, 8)]
                pen.line(wave, _tint(rng, color, 14), 15, joint="curve")
    for x in (160.0, 350.0):
        y = 260 + rng.uniform(-30, 30)
        pen.polygon(_blob(rng, x, y, 118, 0.12, 16), (228, 205, 170))
        pen.polygon(_blob(rng, x, y, 110, 0.12, 16), (250, 248, 240))
        _disc(pen, x, y, rng.uniform(44, 54), _tint(rng, (248, 176, 40), 14))
        _disc(pen, x - 16, y - 16, 11, (255, 235, 190))


def _donut(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    _disc(pen, 256, 256, 206, _tint(rng, (216, 160, 96), 14))
    icing = _tint(rng, _pick(rng, ((245, 150, 185), (92, 54, 38), (250, 240, 225), (150, 210, 190))), 14)
    pen.polygon(_blob(rng, 256, 256, 184, 0.06, 26), icing)
    for _ in range(60):
        angle, reach = rng.uniform(0, 6.28), rng.uniform(90, 166)
        x, y, turn = 256 + reach * math.cos(angle), 256 + reach * math.sin(angle), rng.uniform(0, 3.14)
        bright = (int(rng.integers(90, 255)), int(rng.integers(90, 255)), int(rng.integers(90, 255)))
        pen.line((x, y, x + 18 * math.cos(turn), y + 18 * math.sin(turn)), bright, 8)
    _disc(pen, 256, 256, 66, _shade((216, 160, 96), 0.8))
    _disc(pen, 256, 256, 54, (110, 80, 60))


def _sushi(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    for x in (116, 256, 396):
        for y in (180, 330):
            _disc(pen, x, y, 66, (34, 48, 40))
            _disc(pen, x, y, 56, _tint(rng, (244, 242, 234), 6))
            for _ in range(24):
                angle, reach = rng.uniform(0, 6.28), rng.uniform(30, 52)
                _disc(pen, x + reach * math.cos(angle), y + reach * math.sin(angle), 4, (214, 212, 204))
            _disc(pen, x, y, 26, _tint(rng, _pick(rng, ((244, 130, 90), LETTUCE, CHEESE, TOMATO)), 14))


def _spaghetti(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    _disc(pen, 256, 256, 232, _tint(rng, (240, 238, 232), 8))
    noodle = _tint(rng, (240, 206, 116), 12)
    for _ in range(110):
        x, y = _inside(rng, 96)
        r, start = rng.uniform(34, 92), rng.uniform(0, 360)
        pen.arc((x - r, y - r, x + r, y + r), start, start + 200, _shade(noodle, rng.uniform(0.78, 1.08)), 8)
    pen.polygon(_blob(rng, 256, 250, 96, 0.2, 16), _tint(rng, KETCHUP, 20))
    for _ in range(6):
        x, y = _inside(rng, 80)
        _disc(pen, x, y, 30, _tint(rng, MEAT, 14))
        _disc(pen, x - 8, y - 8, 9, _tint(rng, (160, 104, 66), 10))


# Hot dogs.


def _hot_dog(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    bun = _tint(rng, (220, 158, 88), 16)
    sausage = _tint(rng, SAUSAGE, 20)
    half, reach = rng.uniform(52, 66), rng.uniform(190, 215)
    thick = half * rng.uniform(0.62, 0.75)
    _bar(pen, reach, -half * 1.7, half * 0.2, half * 0.9, _shade(bun, 0.9))
    _bar(pen, reach - 8, -half * 0.9, half * 0.9, 30, _tint(rng, BREAD, 10))
    _bar(pen, 240, -thick, thick, thick, sausage)
    pen.line((50, 256 - thick * 0.5, 462, 256 - thick * 0.5), _shade(sausage, 1.3), 9)
    _bar(pen, reach, half * 0.35, half * 1.8, half * 0.7, bun)
    if rng.random() < 0.35:  # relish, onions
        for _ in range(46):
            x, y = rng.uniform(70, 440), 256 + rng.uniform(-thick, thick * 0.5)
            pen.polygon(_blob(rng, x, y, 9, 0.3, 6), _tint(rng, _pick(rng, (LEAF, ONION, LETTUCE)), 18))
    sauce = _tint(rng, _pick(rng, (MUSTARD, MUSTARD, MUSTARD, KETCHUP)), 10)
    length = rng.uniform(8, 13)
    wave = [(x, 250 + thick * 0.7 * math.sin((x - 60) / length)) for x in range(60, 452, 3)]
    pen.line(wave, sauce, int(rng.integers(11, 17)), joint="curve")


def _bar(pen: ImageDraw.ImageDraw, reach: float, top: float, bottom: float, radius: float, color: Color) -> None:
    pen.rounded_rectangle((256 - reach, 256 + top, 256 + reach, 256 + bottom), radius, color)


_ARTISTS: dict[str, list[Artist]] = {
    "food": [_pizza, _salad, _soup, _apple, _cake, _eggs, _donut, _sushi, _spaghetti],
    "sandwich": [_toast, _bun, _triangles, _toast, _sub],
    "taco": [_hard_taco, _soft_taco, _hard_taco],
    HARD_TACO: [_taco_from_above],
    "hot dog": [_hot_dog],
}


# Shapes and colours.


def _bowl(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    color = _tint(rng, _pick(rng, ((244, 240, 232), (70, 110, 150), (150, 90, 60), (60, 62, 66))), 14)
    _disc(pen, 256, 256, 232, color)
    _disc(pen, 256, 256, 206, _shade(color, 0.75))


def _disc(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, color: Color) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), color)


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float) -> Points:
    angles = np.radians(np.linspace(start, stop, 48))
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


def _blob(rng: np.random.Generator, x: float, y: float, radius: float, wobble: float, corners: int = 10) -> Points:
    radii = radius * (1 + rng.uniform(-wobble, wobble, corners))
    angles = np.arange(corners) * (2 * math.pi / corners)
    return [(x + r * math.cos(angle), y + r * math.sin(angle)) for r, angle in zip(radii, angles, strict=True)]


def _inside(rng: np.random.Generator, radius: float) -> tuple[float, float]:
    angle, reach = rng.uniform(0, 2 * math.pi), radius * math.sqrt(rng.random())
    return 256 + reach * math.cos(angle), 256 + reach * math.sin(angle)


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _tint(rng: np.random.Generator, color: Color, spread: int) -> Color:
    """A colour nearby."""
    bright = rng.uniform(-spread, spread)
    return _clip(part + bright + rng.uniform(-spread, spread) / 2 for part in color)


def _shade(color: Color, factor: float) -> Color:
    return _clip(part * factor for part in color)


def _mix(one: Color, other: Color, share: float) -> Color:
    return _clip(a * (1 - share) + b * share for a, b in zip(one, other, strict=True))


def _clip(parts: Iterable[float]) -> Color:
    red, green, blue = (min(255, max(0, round(part))) for part in parts)
    return red, green, blue
