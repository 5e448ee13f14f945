"""What is taken for a picture, what is refused and why, and what other formats become."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from retake import images

LIMITS = {"max_pixels": 1_000_000, "max_bytes": 1_000_000}


def photo(mode="RGB", size=(53, 37)):
    pixels = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def read(encoded):
    return Image.open(io.BytesIO(encoded))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(side=20_000):
    """400 million pixels in about 60 kB."""
    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def many_scans(number):
    """A progressive JPEG whose last scan comes again and again."""
    encoded = encode(photo("L"), "JPEG", progressive=True)
    return encoded[:-2] + encoded[encoded.rindex(b"\xff\xda") : -2] * number + b"\xff\xd9"


def many_chunks(number):
    """A PNG with empty chunks of an unknown kind."""
    encoded = encode(photo(), "PNG")
    return encoded[:33] + chunk(b"teXt", b"") * number + encoded[33:]


TAKEN = {
    "a JPEG": encode(photo(), "JPEG"),
    "a progressive JPEG": encode(photo(), "JPEG", progressive=True),
    "a CMYK JPEG": encode(photo("CMYK"), "JPEG"),
    "a grey JPEG": encode(photo("L"), "JPEG"),
    "a phone's JPEG with a second picture": encode(photo(), "MPO", save_all=True, append_images=[photo()]),
    "a phone's JPEG with a film behind it": encode(photo(), "JPEG") + 200 * b"\xff\xda\0\2ftypmp42",
    "a PNG": encode(photo(), "PNG"),
    "a palette PNG": encode(photo().quantize(16), "PNG"),
    "a PNG with alpha": encode(photo("RGBA"), "PNG"),
    "a grey PNG with alpha": encode(photo("LA"), "PNG"),
    "a black and white PNG": encode(photo("1"), "PNG"),
    "a 16-bit PNG": encode(Image.fromarray(np.full((37, 53), 40_000, np.uint16)), "PNG"),
    "an animated PNG": encode(photo(), "PNG", save_all=True, append_images=[photo("L").convert("RGB")]),
    "a PNG without its last chunk": encode(photo(), "PNG")[:-12],
    "a BMP": encode(photo(), "BMP"),
    "a BMP with alpha": encode(photo("RGBA"), "BMP"),
}
REWRITTEN = {
    "GIF": encode(photo(), "GIF"),
    "animated GIF": encode(photo(), "GIF", save_all=True, append_images=[photo("L")]),
    "WebP": encode(photo(), "WEBP"),
    "animated WebP": encode(photo(), "WEBP", save_all=True, append_images=[photo("L")]),
    "WebP with alpha": encode(photo("RGBA"), "WEBP"),
    "TIFF": encode(photo(), "TIFF"),
    "TIFF of two pages": encode(photo(), "TIFF", save_all=True, append_images=[photo("L")]),
    "CMYK TIFF": encode(photo("CMYK"), "TIFF"),
    "YCbCr TIFF": encode(photo("YCbCr"), "TIFF", compression="jpeg"),
    "a BMP with a palette": encode(photo().quantize(16), "BMP"),
    "a grey BMP": encode(photo("L"), "BMP"),
    "a black and white BMP": encode(photo("1"), "BMP"),
    "a BMP with bytes behind it": encode(photo(), "BMP") + b"\0\0",
}


@pytest.mark.parametrize("encoded", TAKEN.values(), ids=TAKEN)
def test_what_the_graph_decodes_stays_as_it_is(encoded):
    assert images.probe(encoded)[1:] == (53, 37)
    assert images.acceptable(encoded, **LIMITS) is None
    assert images.to_graph_format(encoded, **LIMITS) == encoded


@pytest.mark.parametrize("encoded", REWRITTEN.values(), ids=REWRITTEN)
def test_what_the_graph_does_not_decode_becomes_a_png_of_the_same_pixels(encoded):
    assert images.acceptable(encoded, **LIMITS) is None
    png = images.to_graph_format(encoded, **LIMITS)
    assert images.probe(png) == ("PNG", 53, 37)
    assert images.to_graph_format(png, **LIMITS) == png
    assert np.array_equal(read(png).convert("RGBA"), read(encoded).convert("RGBA"))


# Steps from black to white, so that a wrong range is seen at both ends.
STEPS = np.repeat(np.linspace(0, 255, 16).astype(np.uint8)[None], 16, 0)
DEPTHS = {
    "16 bits": STEPS.astype("<u2") * 257,
    "16 bits, big-endian": (STEPS.astype("u2") * 257).astype(">u2"),
    "32-bit integers up to 255": STEPS.astype("i4"),
    "32-bit integers up to 65,535": STEPS.astype("i4") * 257,
    "large 32-bit integers": STEPS.astype("i4") * 8_000_000 - 1_000_000_000,
    "floats up to 1": STEPS.astype("f4") / 255,
    "floats up to 255": STEPS.astype("f4"),
    "large floats": STEPS.astype("f4") * 1e30 - 1e32,
}


@pytest.mark.parametrize("values", DEPTHS.values(), ids=DEPTHS)
def test_values_of_more_than_8_bits_are_scaled_by_their_range(values):
    png = images.to_graph_format(encode(Image.fromarray(values), "TIFF"), **LIMITS)
    assert np.abs(np.asarray(read(png).convert("L")).astype(int) - STEPS).max() <= 1


def test_a_16_bit_pgm_is_scaled_as_16_bits_however_dark_it_is():
    png = images.to_graph_format(encode(Image.fromarray(np.full((4, 4), 200, np.uint16)), "PPM"), **LIMITS)
    assert read(png).getpixel((0, 0)) == 0


def test_infinities_and_what_is_not_a_number_do_not_spoil_the_others():
    values = STEPS.astype("f4") / 255
    values[0, :3] = np.nan, np.inf, -np.inf
    found = np.asarray(read(images.to_graph_format(encode(Image.fromarray(values), "TIFF"), **LIMITS)))
    assert found[0, :3].tolist() == [0, 255, 0]
    assert np.abs(found[1:].astype(int) - STEPS[1:]).max() <= 1


def test_lab_becomes_srgb():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.new("RGB", (9, 9), (200, 100, 50)), *profiles, outputMode="LAB")
    found = read(images.to_graph_format(encode(lab, "TIFF"), **LIMITS)).getpixel((4, 4))
    assert np.abs(np.subtract(found, (200, 100, 50))).max() <= 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_picture_that_is_cut_off_is_refused(kind):
    encoded = encode(photo(), kind)[:-500]
    assert images.acceptable(encoded, **LIMITS) == images.DAMAGED


def test_a_webp_that_is_cut_off_cannot_become_a_png():
    with pytest.raises(ValueError):
        images.to_graph_format(encode(photo(), "WEBP")[:-300], **LIMITS)


@pytest.mark.parametrize("encoded", [encode(photo(), "JPEG")[:-2], encode(photo(), "PNG")[:-14] + bytes(14)])
def test_an_end_that_only_pillow_does_without_is_missed(encoded):
    assert images.acceptable(encoded, **LIMITS) == images.DAMAGED


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", images.EMPTY),
        (b"this is text under the name of taco.jpg", images.NOT_A_PICTURE),
        (b"\xff\xd8\xff\xe0 begins like a JPEG", images.NOT_A_PICTURE),
        (b"<?xml version='1.0'?><note>no picture</note>", images.NOT_A_PICTURE),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", images.unsupported("HEIC")),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", images.unsupported("HEIC")),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", images.unsupported("MP4 video")),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", images.unsupported("MP4 video")),
        (b"\x1a\x45\xdf\xa3\x01\0\0\0\0\0\0\x1f\x42\x86\x81\x01webm", images.unsupported("WebM video")),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", images.unsupported("SVG")),
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg width='9'/>", images.unsupported("SVG")),
        (encode(photo(), "ICO"), images.unsupported("ICO")),
        (b"8BPS\0\1" + bytes(30), images.unsupported("PSD")),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", images.unsupported("EPS")),
        (b"%PDF-1.7\n", images.unsupported("PDF")),
        (many_scans(101), images.TOO_MANY_SCANS),
        (many_chunks(10_001), images.TOO_MANY_CHUNKS),
    ],
)
def test_what_cannot_be_used_is_refused_with_one_of_the_fixed_reasons(encoded, reason):
    assert images.acceptable(encoded, **LIMITS) == reason
    assert reason in images.REASONS
    with pytest.raises(ValueError, match=reason):
        images.to_graph_format(encoded, **LIMITS)


def test_what_is_no_picture_has_no_size():
    with pytest.raises(ValueError, match=images.NOT_A_PICTURE):
        images.probe(b"this is text under the name of taco.jpg")


def test_a_huge_png_is_measured_and_refused_without_decoding_a_pixel():
    encoded = huge_png()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images.probe(encoded) == ("PNG", 20_000, 20_000)
        assert images.acceptable(encoded, max_pixels=40_000_000, max_bytes=1_000_000) == images.TOO_MANY_PIXELS


def test_a_gif_counts_by_its_first_frame_and_not_by_its_screen():
    encoded = bytearray(encode(photo(), "GIF"))
    encoded[6:10] = struct.pack("<HH", 2, 2)
    assert images.acceptable(bytes(encoded), 53 * 37 - 1, 1_000_000) == images.TOO_MANY_PIXELS
    assert images.probe(images.to_graph_format(bytes(encoded), **LIMITS)) == ("PNG", 53, 37)


def test_the_limits_themselves_are_still_accepted():
    encoded = encode(photo(), "JPEG")
    assert images.acceptable(encoded, 53 * 37, len(encoded)) is None
    assert images.acceptable(encoded, 53 * 37 - 1, len(encoded)) == images.TOO_MANY_PIXELS
    assert images.acceptable(encoded, 53 * 37, len(encoded) - 1) == images.TOO_MANY_BYTES


def test_a_picture_whose_png_would_be_over_the_byte_limit_becomes_a_jpeg():
    encoded = encode(photo(size=(200, 200)), "WEBP", quality=10)
    made = images.to_graph_format(encoded, 1_000_000, 90_000)
    assert images.probe(made) == ("JPEG", 200, 200)
    assert images.acceptable(encoded, 1_000_000, len(encoded)) == images.TOO_MANY_BYTES


def turned(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(photo(), kind, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_the_graph_decodes_is_left_to_the_graph_to_turn(kind):
    assert images.to_graph_format(turned(kind), **LIMITS) == turned(kind)


@pytest.mark.parametrize("kind", ["WEBP", "TIFF"])
def test_a_picture_that_is_rewritten_is_turned_upright(kind):
    made = images.to_graph_format(turned(kind), **LIMITS)
    assert images.probe(made) == ("PNG", 37, 53)
    assert not read(made).getexif()
