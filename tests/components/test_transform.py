"""Any picture that ExampleGen lets through becomes square RGB pixels: the same in training and in serving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from colours import config, encoded, picture
from one_node import column, saved_model, split
from PIL import Image

from components import transform
from components.trainer import Split

SIZE = 32


def pixels(image: bytes, size: int = SIZE) -> np.ndarray:
    return transform.to_pixels(tf.constant(image), size).numpy()


def filled(colour, mode="RGB", size=(SIZE, SIZE), kind="PNG", **options):
    return encoded(Image.new(mode, size, colour), kind, **options)


def palette(bits: int, **options) -> bytes:
    image = Image.new("P", (SIZE, SIZE), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    return encoded(image, "PNG", bits=bits, **options)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(filled((200, 100, 50)), (200, 100, 50), id="RGB PNG"),
        pytest.param(filled(90, "L"), (90, 90, 90), id="grey PNG"),
        pytest.param(filled(0, "1"), (0, 0, 0), id="black-and-white PNG"),
        pytest.param(filled(256 * 90, "I;16"), (90, 90, 90), id="16-bit PNG"),
        pytest.param(palette(bits=8), (200, 100, 50), id="palette PNG of 8 bits"),
        pytest.param(palette(bits=4), (200, 100, 50), id="palette PNG of 4 bits"),
        pytest.param(palette(bits=4, transparency=1), (255, 255, 255), id="transparent palette PNG of 4 bits"),
        pytest.param(palette(bits=1), (200, 100, 50), id="palette PNG of 1 bit"),
        pytest.param(filled((200, 100, 50, 255), "RGBA"), (200, 100, 50), id="opaque PNG with alpha"),
        pytest.param(filled((0, 0, 0, 0), "RGBA"), (255, 255, 255), id="transparent PNG"),
        pytest.param(filled((200, 100, 50, 51), "RGBA"), (244, 224, 214), id="PNG of one fifth opacity"),
        pytest.param(filled((200, 100, 50), kind="BMP"), (200, 100, 50), id="BMP"),
        pytest.param(filled((200, 100, 50), kind="GIF"), (200, 100, 50), id="GIF"),
        pytest.param(filled(90, "L", kind="JPEG"), (90, 90, 90), id="grey JPEG"),
        pytest.param(filled((0, 128, 255, 0), "CMYK", kind="JPEG"), (255, 127, 0), id="CMYK JPEG"),
    ],
)
def test_a_picture_of_any_kind_becomes_rgb(image, expected):
    found = pixels(image)
    assert found.shape == (SIZE, SIZE, 3)
    assert np.abs(found - expected).max() <= 2


def test_of_an_animation_the_first_frame_counts():
    first, second = (Image.new("RGB", (SIZE, SIZE), colour) for colour in ("red", "blue"))
    animation = encoded(first, "GIF", save_all=True, append_images=[second])
    assert pixels(animation)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(1, 1), (40, 20), (20, 40), (1, 2000), (2000, 1), (3000, 7)])
def test_a_picture_of_any_shape_is_fitted_whole_and_padded_with_black(size):
    found = pixels(filled("white", size=size))
    assert found.shape == (SIZE, SIZE, 3)
    white = (found == 255).all(-1)
    assert white.any()
    assert (white | (found == 0).all(-1)).all()
    rows, columns = white.any(1).sum(), white.any(0).sum()
    scale = SIZE / max(size)
    assert (columns, rows) == tuple(max(1, int(side * scale)) for side in size)


def test_pixels_are_whole_numbers_of_a_byte():
    found = pixels(picture(0, seed=1, size=(301, 199)))
    assert found.dtype == np.float32
    assert (found == found.round()).all()
    assert found.min() >= 0 and found.max() <= 255


def test_a_pixel_in_training_is_the_same_pixel_in_serving(colours, graph, trained):
    images = column(split(colours, "train"), "image")[:20]
    expected = np.stack([pixels(image) for image in images])

    to_pixels = tft.TFTransformOutput(graph.uri).transform_features_layer()
    training = Split([f"{colours.uri}/Split-train/*"], to_pixels, config().trainer).sample(20)
    assert (training == expected).all()

    answer = tf.saved_model.load(str(saved_model(trained))).signatures["image_bytes"]
    as_they_are = [encoded(Image.fromarray(each.astype("uint8")), "PNG") for each in training]
    of_pictures, of_pixels = (answer(image_bytes=tf.constant(each))["probabilities"] for each in (images, as_they_are))
    assert len(np.unique(of_pictures, axis=0)) == 20
    np.testing.assert_array_equal(of_pictures, of_pixels)


def test_no_pixels_are_written(graph):
    written = sum(path.stat().st_size for path in Path(graph.uri).rglob("*") if path.is_file())
    assert written < 1_000_000
