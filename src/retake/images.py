"""Encoded pictures: which the pipeline takes as they are, which it converts, and which it refuses.

Training and serving decode in one graph (`components.transform.to_pixels`). It decodes JPEG, PNG and plain BMP; any
other format becomes a PNG here, before the graph. The graph also turns a picture by its EXIF orientation, so a JPEG
or PNG is not turned here. docs/pictures.md tells the user the same.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageCms, ImageOps

from retake.files import open_regular

if TYPE_CHECKING:
    import numpy as np

EMPTY = "empty"
NOT_A_PICTURE = "not a picture"
DAMAGED = "damaged or cut off"
TOO_MANY_BYTES = "over the byte limit"
TOO_MANY_PIXELS = "over the pixel limit"
TOO_MANY_SCANS = "over the limit of 100 JPEG scans"
TOO_MANY_CHUNKS = "over the limit of 10,000 PNG chunks"

MAX_CHUNKS = 10_000
"""Of a PNG: 20 MB in chunks of 4 kB have half as many."""

MAX_SCANS = 100
"""A scan of a few bytes makes the decoder visit the whole picture; a progressive JPEG has about 10 scans."""

# The limit is data.max_pixels, compared with the header; Pillow's own would refuse to read that header.
Image.MAX_IMAGE_PIXELS = None

Image.init()
# Not all that Pillow knows: EPS starts Ghostscript, and TGA recognises what is no picture.
_READABLE: list[str] = [
    name
    for name in ("JPEG", "PNG", "BMP", "MPO", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000", "PPM")
    if name in Image.OPEN
]

_BRANDS = rb"\A.{4}ftyp"
_UNSUPPORTED = {
    "HEIC": _BRANDS + rb"(heic|heix|heim|heis|hevc|hevx|mif1|msf1)",
    "AVIF": _BRANDS + rb"(avif|avis)",
    "MP4 video": _BRANDS,
    "WebM video": rb"\A\x1a\x45\xdf\xa3",
    "AVI video": rb"\ARIFF....AVI ",
    "SVG": rb"\A(\xef\xbb\xbf)?\s*(<\?xml.{,2000}|<!--.{,2000}|<!DOCTYPE\s+)?<?svg[\s>]",
    "ICO": rb"\A\0\0[\1\2]\0[^\0]\0",
    "PSD": rb"\A8BPS\0[\1\2]",
    "EPS": rb"\A(%!PS|\xc5\xd0\xd3\xc6)",
    "PDF": rb"\A%PDF-",
    "JPEG XL": rb"\A(\xff\x0a|\0\0\0\x0cJXL )",
}
_UNSUPPORTED_STARTS = {name: re.compile(start, re.DOTALL) for name, start in _UNSUPPORTED.items()}

_JPEG_MARKER = re.compile(rb"\xff[^\0\x01\xd0-\xd8\xff]")


def unsupported(name: str) -> str:
    """The reason for refusing a picture in a format that neither the graph nor Pillow decodes."""
    return f"{name} is not supported; convert it to JPEG or PNG"


REASONS = (
    EMPTY,
    NOT_A_PICTURE,
    DAMAGED,
    TOO_MANY_BYTES,
    TOO_MANY_PIXELS,
    TOO_MANY_SCANS,
    TOO_MANY_CHUNKS,
    *map(unsupported, _UNSUPPORTED),
)


def probe(encoded: bytes) -> tuple[str, int, int]:
    """Reads a picture's header, and never its pixels.

    Returns:
      Format ("JPEG", "PNG", "WEBP", …), width and height.

    Raises:
      ValueError: the bytes are no picture; the message is one of `REASONS`.

    Example:
        >>> picture = io.BytesIO()
        >>> Image.new("RGB", (4, 3)).save(picture, "JPEG")
        >>> probe(picture.getvalue())
        ('JPEG', 4, 3)
    """
    with _open(encoded) as image:
        return _format(image), image.width, image.height


def acceptable(encoded: bytes, max_pixels: int, max_bytes: int) -> str | None:
    """Says why the pipeline refuses a picture.

    Returns:
      One of `REASONS`, or None when `to_graph_format` gives a picture that the graph decodes.

    Example:
        >>> acceptable(b"plain text", max_pixels=1_000, max_bytes=1_000)
        'not a picture'
    """
    try:
        to_graph_format(encoded, max_pixels, max_bytes)
    except ValueError as reason:
        return str(reason)
    return None


def to_graph_format(encoded: bytes, max_pixels: int, max_bytes: int) -> bytes:
    """Turns a picture into one that the graph decodes.

    The limits come first: no pixel of a picture above them is decoded. What is left is decoded once, because a
    picture that is cut off in the middle would end the whole run in the graph.

    Args:
      encoded: The file's bytes.
      max_pixels: Most width × height.
      max_bytes: Most encoded bytes.

    Returns:
      The same bytes where the graph decodes them. Else (GIF, WebP, TIFF, AVIF, a BMP with a palette or run-length
      encoding, …) a PNG of the same pixels: of an animation's first frame, turned upright, in RGB or with alpha.
      Where that PNG is over `max_bytes`, a JPEG on white.

    Raises:
      ValueError: no picture, one that cannot be decoded, or one over a limit; the message is one of `REASONS`.

    Example:
        >>> webp = io.BytesIO()
        >>> Image.new("RGB", (4, 3)).save(webp, "WEBP")
        >>> probe(to_graph_format(webp.getvalue(), max_pixels=1_000, max_bytes=1_000))
        ('PNG', 4, 3)
    """
    if len(encoded) > max_bytes:
        raise ValueError(TOO_MANY_BYTES)
    with _open(encoded) as image:
        if max(image.width * image.height, _tile_pixels(image)) > max_pixels:
            raise ValueError(TOO_MANY_PIXELS)
        if _format(image) == "JPEG":
            _check_jpeg(encoded)
        if _format(image) == "PNG":
            _check_png(encoded)
        try:
            image.load()
            if _for_graph(image, encoded):
                return encoded
            _turn_upright(image)
            upright = _eight_bits(image)
            converted = _saved(upright, "PNG")
            if len(converted) > max_bytes:
                white = Image.new("RGBA", upright.size, "white")
                converted = _saved(
                    Image.alpha_composite(white, upright.convert("RGBA")).convert("RGB"), "JPEG", quality=95
                )
        except Exception:
            raise ValueError(DAMAGED) from None
    if len(converted) > max_bytes:
        raise ValueError(TOO_MANY_BYTES)
    return converted


def of_file(file: Path, max_pixels: int, max_bytes: int) -> tuple[bytes, bool]:
    """Reads a file as a picture that the graph decodes.

    Args:
      file: a larger one than `max_bytes` is not read.
      max_pixels, max_bytes: as for `to_graph_format`.

    Returns:
      The picture's bytes, and whether it was converted.

    Raises:
      OSError: the file cannot be read, or is no regular file.
      ValueError: as `to_graph_format`.
    """
    with open_regular(file) as stream:
        if os.fstat(stream.fileno()).st_size > max_bytes:
            raise ValueError(TOO_MANY_BYTES)
        encoded = stream.read()
    converted = to_graph_format(encoded, max_pixels, max_bytes)
    return converted, converted != encoded


def _open(encoded: bytes) -> Image.Image:
    if not encoded:
        raise ValueError(EMPTY)
    try:
        return Image.open(io.BytesIO(encoded), formats=_READABLE)
    except Exception:  # Pillow's readers raise all sorts of errors on bytes that only begin like a picture
        beginning = encoded[:4096]
        known = (name for name, start in _UNSUPPORTED_STARTS.items() if start.search(beginning))
        name = next(known, None)
        raise ValueError(unsupported(name) if name and name not in _READABLE else NOT_A_PICTURE) from None


def _format(image: Image.Image) -> str:
    # MPO is what Pillow calls the JPEG of phones that holds a second picture behind the first.
    return "JPEG" if image.format == "MPO" else str(image.format)


def _for_graph(image: Image.Image, encoded: bytes) -> bool:
    name = _format(image)
    return _plain_bitmap(encoded) if name == "BMP" else name in ("JPEG", "PNG")


def _plain_bitmap(encoded: bytes) -> bool:
    """Of 24 or 32 bits, as decode_bmp takes indices of a palette for shades of grey, and of the exact length."""
    if len(encoded) < 66:
        return False
    start, header, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", encoded, 10)
    masks = compression == 3 and encoded[54:66] == struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
    whole = len(encoded) == start + (width * bits + 31) // 32 * 4 * abs(height)
    return header >= 40 and bits in (24, 32) and (compression == 0 or masks) and whole


def _check_jpeg(encoded: bytes) -> None:
    """Walks the segments as libjpeg does: Pillow stops at the last pixel, and TensorFlow reads on to the end."""
    scans, at, kind = 0, 2, 0
    while kind != 0xD9:
        marker = _JPEG_MARKER.search(encoded, at)
        if marker is None or (kind := marker[0][1]) < 0xC0:
            raise ValueError(DAMAGED)
        scans += kind == 0xDA
        if scans > MAX_SCANS:
            raise ValueError(TOO_MANY_SCANS)
        at = marker.end() + max(2, int.from_bytes(encoded[marker.end() : marker.end() + 2], "big"))


def _check_png(encoded: bytes) -> None:
    """Checks the chunks of pixels: Pillow stops at the last pixel, and TensorFlow reads on to the checksum."""
    at, kind, chunks = 8, b"", 0
    while kind != b"IEND" and at + 12 <= len(encoded):
        chunks += 1
        if chunks > MAX_CHUNKS:
            raise ValueError(TOO_MANY_CHUNKS)
        length, kind = struct.unpack_from(">I4s", encoded, at)
        checksum = encoded[at + 8 + length : at + 12 + length]
        if kind == b"IDAT" and checksum != zlib.crc32(encoded[at + 4 : at + 8 + length]).to_bytes(4, "big"):
            raise ValueError(DAMAGED)
        at += 12 + length


def _tile_pixels(image: Image.Image) -> int:
    """Pixels of a TIFF's tile, which may be larger than the picture."""
    tags: Any = getattr(image, "tag_v2", {})
    try:
        return int(tags.get(322, 0)) * int(tags.get(323, 0))
    except (TypeError, ValueError):
        raise ValueError(DAMAGED) from None


def _eight_bits(image: Image.Image) -> Image.Image:
    """The picture in a mode of 8 bits a channel: L, LA, RGB or RGBA.

    16 bits keep their high byte. Integers of 32 bits and floats keep their values when all are within 0 to 255; floats
    within 0 to 1 are times 255, integers within 0 to 65,535 keep their high byte, and all others are spread from
    their own minimum to their own maximum. Infinities become the nearer end, and what is not a number the minimum.
    """
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return Image.fromarray(_scaled(image))
    if mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="RGB")  # type: ignore[return-value]
    if mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    if mode == "La":
        return image.convert("LA")
    return image.convert("RGBA" if image.has_transparency_data or mode == "RGBa" else "RGB")


def _scaled(image: Image.Image) -> np.ndarray:
    import numpy as np

    values = np.asarray(image)
    # Pillow gives 16 bits the mode I where they are signed, or a PGM's.
    if image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I"):
        bits = max(getattr(image, "tag_v2", {}).get(258, (16,)))
        return (values >> (bits - 8)).astype("uint8")
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    values = np.nan_to_num(values.astype("float32"), nan=low, posinf=high, neginf=low)
    if low < 0 or high > (255 if image.mode == "F" else 65_535):
        with np.errstate(over="ignore"):
            values = (values - low) * (255 / max(high - low, 1e-30))
    elif high > 255:
        values = values / 256
    elif image.mode == "F" and high <= 1:
        values = values * 255
    return values.clip(0, 255).astype("uint8")


def _turn_upright(image: Image.Image) -> None:
    # Pillow also looks for an orientation in XMP, which the graph does not read.
    for key in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(key, None)
    ImageOps.exif_transpose(image, in_place=True)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.info = {}
    image.save(stream, kind, **options)
    return stream.getvalue()
