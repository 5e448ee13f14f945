"""What is taken for a picture, what is refused and why, and what other formats become."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from retake import images

LIMITS = {"max_pixels": 1_000_000, "max_bytes": 1_000_000}


def photo(mode="RGB", size=(53, 37)):
    pixels = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decoded_by_tensorflow(encoded):
    import tensorflow as tf

    return tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()


def huge_png(side=20_000):
    """400 million pixels in about 60 kB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


TAKEN = {
    "a JPEG": encode(photo(), "JPEG"),
    "a progressive JPEG": encode(photo(), "JPEG", progressive=True),
    "a CMYK JPEG": encode(photo("CMYK"), "JPEG"),
    "a grey JPEG": encode(photo("L"), "JPEG"),
    "a phone's JPEG with a second picture": encode(photo(), "MPO", save_all=True, append_images=[photo()]),
    "a PNG": encode(photo(), "PNG"),
    "a palette PNG": encode(photo().quantize(16), "PNG"),
    "a PNG with alpha": encode(photo("RGBA"), "PNG"),
    "a grey PNG with alpha": encode(photo("LA"), "PNG"),
    "a black and white PNG": encode(photo("1"), "PNG"),
    "a 16-bit PNG": encode(Image.fromarray(np.full((37, 53), 40_000, np.uint16)), "PNG"),
    "a GIF": encode(photo(), "GIF"),
    "an animated GIF": encode(photo(), "GIF", save_all=True, append_images=[photo("L")]),
    "a BMP": encode(photo(), "BMP"),
    "a BMP with alpha": encode(photo("RGBA"), "BMP"),
    "a grey BMP": encode(photo("L"), "BMP"),
}
REWRITTEN = {
    "WebP": encode(photo(), "WEBP"),
    "WebP with alpha": encode(photo("RGBA"), "WEBP"),
    "TIFF": encode(photo(), "TIFF"),
    "CMYK TIFF": encode(photo("CMYK"), "TIFF"),
    "16-bit TIFF": encode(Image.fromarray(np.full((37, 53), 40_000, np.uint16)), "TIFF"),
    "a BMP with a palette": encode(photo().quantize(16), "BMP"),
    "a black and white BMP": encode(photo("1"), "BMP"),
}


@pytest.mark.parametrize("encoded", TAKEN.values(), ids=TAKEN)
def test_what_is_acceptable_stays_as_it_is_and_tensorflow_decodes_it(encoded):
    assert images.probe(encoded)[1:] == (53, 37)
    assert images.acceptable(encoded, **LIMITS) is None
    assert images.to_graph_format(encoded) == encoded
    assert decoded_by_tensorflow(encoded).shape == (37, 53, 3)


@pytest.mark.parametrize("encoded", REWRITTEN.values(), ids=REWRITTEN)
def test_what_tensorflow_refuses_or_misreads_is_refused_and_can_become_a_png(encoded):
    assert images.acceptable(encoded, **LIMITS) == images.WRONG_FORMAT
    png = images.to_graph_format(encoded)
    assert images.probe(png) == ("PNG", 53, 37)
    assert images.acceptable(png, **LIMITS) is None
    with Image.open(io.BytesIO(encoded)) as original:
        if not original.mode.startswith("I"):  # Pillow clips 16 bits, TensorFlow scales them
            expected = original.convert("RGBA").convert("RGB")
            assert np.array_equal(decoded_by_tensorflow(png), np.asarray(expected))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_picture_that_is_cut_off_is_refused(kind):
    encoded = encode(photo(), kind)[:-500]
    assert images.acceptable(encoded, **LIMITS) == images.DAMAGED
    with pytest.raises(ValueError, match=images.DAMAGED):
        images.to_graph_format(encoded)


def test_a_webp_that_is_cut_off_cannot_become_a_png():
    with pytest.raises(ValueError):
        images.to_graph_format(encode(photo(), "WEBP")[:-300])


def test_a_png_without_its_last_chunk_is_refused_because_libpng_refuses_it():
    assert images.acceptable(encode(photo(), "PNG")[:-12], **LIMITS) == images.DAMAGED


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", images.EMPTY),
        (b"this is text under the name of taco.jpg", images.NOT_A_PICTURE),
        (b"\xff\xd8\xff\xe0 begins like a JPEG", images.NOT_A_PICTURE),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", images.NOT_A_PICTURE),
    ],
)
def test_what_is_no_picture_is_refused_with_one_of_the_fixed_reasons(encoded, reason):
    assert images.acceptable(encoded, **LIMITS) == reason
    assert reason in images.REASONS
    with pytest.raises(ValueError, match=reason):
        images.probe(encoded)
    with pytest.raises(ValueError, match=reason):
        images.to_graph_format(encoded)


def test_a_huge_png_is_measured_and_refused_without_decoding_a_pixel():
    encoded = huge_png()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images.probe(encoded) == ("PNG", 20_000, 20_000)
        assert images.acceptable(encoded, max_pixels=40_000_000, max_bytes=1_000_000) == images.TOO_MANY_PIXELS


def test_the_limits_themselves_are_still_accepted():
    encoded = encode(photo(), "JPEG")
    assert images.acceptable(encoded, 53 * 37, len(encoded)) is None
    assert images.acceptable(encoded, 53 * 37 - 1, len(encoded)) == images.TOO_MANY_PIXELS
    assert images.acceptable(encoded, 53 * 37, len(encoded) - 1) == images.TOO_MANY_BYTES


def test_a_jpeg_keeps_its_exif_orientation_because_serving_ignores_it_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = encode(photo(), "JPEG", exif=exif)
    assert images.to_graph_format(encoded) == encoded


def test_a_picture_that_is_rewritten_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert images.probe(images.to_graph_format(encode(photo(), "WEBP", exif=exif))) == ("PNG", 37, 53)
