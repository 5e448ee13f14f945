"""Any picture that ExampleGen lets through becomes square RGB pixels: the same in training and in serving."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path
from struct import pack

import numpy as np
import pytest
import tensorflow as tf
from colours import config, encoded, picture
from one_node import column, saved_model, split
from PIL import Image

from components import transform
from components.trainer import Split, transform_of
from retake import images

SIZE = 32


MAX_PIXELS, MAX_BYTES = 100_000, 1_000_000


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def graph_of(image):
    return transform.to_pixels(image, SIZE, MAX_PIXELS, MAX_BYTES)


def pixels(image: bytes) -> np.ndarray:
    return graph_of(image).numpy()


def refusal(image: bytes) -> str:
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        pixels(image)
    return str(error.value)


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
        pytest.param(filled((200, 100, 50, 255), "RGBA", kind="BMP"), (200, 100, 50), id="BMP of 32 bits"),
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
    animation = encoded(first, "PNG", save_all=True, append_images=[second])
    assert pixels(animation)[0, 0].tolist() == [255, 0, 0]


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
QUARTERS = Image.new("RGB", (48, 33))
for at, colour in enumerate(["red", "lime", "blue", "white"]):
    QUARTERS.paste(colour, (24 * (at % 2), 16 * (at // 2), 48, 33))


def stored_as(orientation: int, kind: str, endian: str = ">") -> bytes:
    """The quarters as a camera would store them that was held another way."""
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F], exif[0x0112] = "the maker", orientation
    stored = QUARTERS.transpose(TURNS[orientation]) if orientation in TURNS else QUARTERS
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    return encoded(stored, kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG II", "JPEG MM", "PNG II", "PNG MM", "WEBP MM", "TIFF II"])
def test_a_picture_is_turned_as_its_exif_orientation_says(kind, orientation):
    image = stored_as(orientation, kind[:-3], "<" if kind.endswith("II") else ">")
    found = pixels(images.to_graph_format(image, MAX_PIXELS, MAX_BYTES))
    assert np.abs(found - pixels(encoded(QUARTERS, "PNG"))).max() <= 8


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation):
    assert (pixels(stored_as(orientation, "PNG")) == pixels(encoded(QUARTERS, "PNG"))).all()


@pytest.mark.parametrize(
    "tiff",
    [
        b"",
        b"MM",
        b"MM\0*\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01",
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x01\0\x06\0\0",
    ],
)
def test_exif_data_that_are_garbage_turn_nothing(tiff):
    assert (pixels(encoded(QUARTERS, "PNG", exif=tiff)) == pixels(encoded(QUARTERS, "PNG"))).all()
    jpeg = encoded(QUARTERS, "JPEG")
    with_garbage = jpeg[:2] + b"\xff\xe1" + (8 + len(tiff)).to_bytes(2, "big") + b"Exif\0\0" + tiff + jpeg[2:]
    assert (pixels(with_garbage) == pixels(jpeg)).all()


def test_half_transparent_edges_fade_to_white_without_the_colour_below():
    image = Image.new("RGBA", (2 * SIZE, 2 * SIZE), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, SIZE + 1, 2 * SIZE))
    row = pixels(encoded(image, "PNG"))[5]
    assert row[0].tolist() == [255, 255, 255] and row[-1].tolist() == [255, 0, 0]
    assert (row[:, 0] == 255).all()


def chunk(kind: bytes, content: bytes) -> bytes:
    return pack(">I", len(content)) + kind + content + pack(">I", zlib.crc32(kind + content))


def lying_bmp(width: int, height: int, bits: int = 24) -> bytes:
    return b"BM" + pack("<IIIIiiHH", 99, 0, 54, 40, width, height, 1, bits) + bytes(40)


def scans(number: int) -> bytes:
    jpeg = encoded(QUARTERS.convert("L"), "JPEG", progressive=True)
    return jpeg[:-2] + jpeg[jpeg.rindex(b"\xff\xda") : -2] * number + b"\xff\xd9"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "the picture is not JPEG, PNG or BMP"),
        (b"plain text" * 20, "the picture is not JPEG, PNG or BMP"),
        (filled("red", kind="WEBP"), "the picture is not JPEG, PNG or BMP"),
        (filled("red", kind="GIF"), "GIF is not supported: send JPEG, PNG or BMP"),
        (filled(0, "1", kind="BMP"), "the BMP is not of 24 or 32 bits: send JPEG or PNG"),
        (lying_bmp(400, 400), f"the picture is not of 1 to {MAX_PIXELS} pixels"),
        (lying_bmp(40_000, -40_000), f"the picture is not of 1 to {MAX_PIXELS} pixels"),
        (lying_bmp(-(2**31), -(2**31)), f"the picture is not of 1 to {MAX_PIXELS} pixels"),
        (lying_bmp(40, 40), "Input size should match"),
        (filled("red", size=(400, 251)), f"the picture is not of 1 to {MAX_PIXELS} pixels"),
        (filled("red", size=(400, 251), kind="JPEG"), f"the picture is not of 1 to {MAX_PIXELS} pixels"),
        (filled("red") + bytes(MAX_BYTES), f"the picture is over {MAX_BYTES} bytes"),
        (filled("red")[:40], "Invalid PNG"),
        (filled("red")[:20], "the PNG is damaged"),
        (filled("red", kind="JPEG")[:300], "Invalid JPEG data"),
        (scans(101), "the JPEG has over 100 scans"),
        (filled("red")[:33] + chunk(b"teXt", b"") * 10_001 + filled("red")[33:], "the PNG has over 10000 chunks"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_safe_to_decode_is_refused_with_the_reason(image, message):
    assert message in refusal(image)


def test_a_film_behind_a_jpeg_is_no_scan():
    image = filled("red", kind="JPEG")
    film = np.random.default_rng(7).integers(0, 256, MAX_BYTES - len(image) - 900, np.uint8).tobytes()
    assert (pixels(image + b"\xff\xda\0\2" * 200 + film) == pixels(image)).all()


def test_what_is_no_pixel_of_a_png_never_reaches_the_decoder():
    image, damaged = filled("red"), b"\0\0\0\x04zTXtk\0\0\0none"
    assert (pixels(image[:33] + damaged + image[33:-12] + damaged + image[-12:]) == pixels(image)).all()
    assert (pixels(image[:-12]) == pixels(image)).all()


def test_mutated_pictures_are_decoded_or_refused_in_little_memory():
    """More mutants: python tests/support/fuzz.py 100000 1."""
    command = [sys.executable, str(Path(__file__).parents[1] / "support" / "fuzz.py"), "3000", "7"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-2000:]
    counts = json.loads(ended.stdout)
    assert counts["mutants"] == 3000
    assert 500 < counts["accepted"] < 2000 and 200 < counts["decoded"] < 2000
    assert counts["undecodable"] == 0
    assert counts["megabytes"] < 100


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
    examples = column(split(colours, "train"), "image")[:20]
    expected = np.stack([pixels(image) for image in examples])

    to_pixels = transform_of(graph.uri)
    training = Split([f"{colours.uri}/Split-train/*"], to_pixels, config().trainer).sample(20)
    assert (training == expected).all()

    answer = tf.saved_model.load(str(saved_model(trained))).signatures["image_bytes"]
    as_they_are = [encoded(Image.fromarray(each.astype("uint8")), "PNG") for each in training]
    of_pictures, of_pixels = (
        answer(image_bytes=tf.constant(each))["probabilities"] for each in (examples, as_they_are)
    )
    assert len(np.unique(of_pictures, axis=0)) == 20
    np.testing.assert_array_equal(of_pictures, of_pixels)


def test_a_served_model_turns_pictures_and_refuses_what_is_not_safe(trained):
    answer = tf.saved_model.load(str(saved_model(trained))).signatures["image_bytes"]

    def probabilities(*given):
        return answer(image_bytes=tf.constant(given))["probabilities"].numpy()

    # One by one, since some processors round a picture differently at another place of a batch.
    upright = probabilities(encoded(QUARTERS, "PNG"))
    for which in range(1, 9):
        np.testing.assert_array_equal(probabilities(stored_as(which, "PNG")), upright)
    with pytest.raises(tf.errors.InvalidArgumentError, match="GIF is not supported: send JPEG, PNG or BMP"):
        probabilities(filled("red", kind="GIF"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="not of 1 to 40000000 pixels"):
        probabilities(lying_bmp(40_000, 40_000))


def test_no_pixels_are_written(graph):
    written = sum(path.stat().st_size for path in Path(graph.uri).rglob("*") if path.is_file())
    assert written < 1_000_000
