"""Encoded pictures: what they are, whether the pipeline takes them, and how others become pictures it takes.

The pipeline decodes in the graph, with `tf.io.decode_image`: training and serving see the same pixels. What
that operation refuses or misreads has to be found out here, before a run fails on it.

EXIF orientation: TensorFlow ignores it, in training as well as in serving, so a JPEG that carries one is kept
as it is. Turned only in the records, a phone's photo would be learnt upright and asked about on its side. A
picture that has to be rewritten anyway is turned upright: the new file no longer says how it should be held.
"""

from __future__ import annotations

import io
import struct

from PIL import Image, ImageOps

GRAPH_FORMATS = ("JPEG", "PNG", "GIF", "BMP")

EMPTY = "empty"
NOT_A_PICTURE = "not a picture"
WRONG_FORMAT = "format TensorFlow cannot decode"
DAMAGED = "damaged or cut off"
TOO_MANY_BYTES = "over the byte limit"
TOO_MANY_PIXELS = "over the pixel limit"
REASONS = (EMPTY, NOT_A_PICTURE, WRONG_FORMAT, DAMAGED, TOO_MANY_BYTES, TOO_MANY_PIXELS)

# The limit is data.max_pixels, compared with the header; Pillow's own would refuse to read that header.
Image.MAX_IMAGE_PIXELS = None

Image.init()
# Not all that Pillow knows: EPS starts Ghostscript, and TGA recognises what is no picture.
_READABLE = [name for name in (*GRAPH_FORMATS, "MPO", "WEBP", "TIFF", "AVIF", "JPEG2000", "PPM") if name in Image.OPEN]


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

    The limits come first: no pixel of a picture above them is decoded. What is left is decoded once, because
    a single picture that is cut off in the middle would end the whole run in the graph.

    Args:
      encoded: The file's bytes.
      max_pixels: Most width × height.
      max_bytes: Most encoded bytes.

    Returns:
      One of `REASONS`, or None when `tf.io.decode_image` will take it.

    Example:
        >>> acceptable(b"plain text", max_pixels=1_000, max_bytes=1_000)
        'not a picture'
    """
    if not encoded:
        return EMPTY
    if len(encoded) > max_bytes:
        return TOO_MANY_BYTES
    try:
        with _open(encoded) as image:
            if image.width * image.height > max_pixels:
                return TOO_MANY_PIXELS
            if not _for_graph(image, encoded):
                return WRONG_FORMAT
            _decode(image, encoded)
    except ValueError as error:
        return str(error)
    return None


def to_graph_format(encoded: bytes) -> bytes:
    """Turns a picture into one that `tf.io.decode_image` decodes.

    Returns:
      The same bytes where TensorFlow can decode them. Else (WebP, TIFF, AVIF, a BMP with a palette or
      run-length encoding, …) a PNG of the same pixels, of the first frame of an animation, turned upright.

    Raises:
      ValueError: no picture, or one that cannot be decoded; the message is one of `REASONS`.

    Example:
        >>> webp = io.BytesIO()
        >>> Image.new("RGB", (4, 3)).save(webp, "WEBP")
        >>> probe(to_graph_format(webp.getvalue()))
        ('PNG', 4, 3)
    """
    with _open(encoded) as image:
        if _for_graph(image, encoded):
            _decode(image, encoded)
            return encoded
        _decode(image, encoded)
        png = io.BytesIO()
        try:
            upright = ImageOps.exif_transpose(image)
            if upright.mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
                upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
            upright.save(png, "PNG")
        except Exception:
            raise ValueError(DAMAGED) from None
        return png.getvalue()


def _open(encoded: bytes) -> Image.Image:
    if not encoded:
        raise ValueError(EMPTY)
    try:
        return Image.open(io.BytesIO(encoded), formats=_READABLE)
    except Exception:  # Pillow's readers raise all sorts of errors on bytes that only begin like a picture
        raise ValueError(NOT_A_PICTURE) from None


def _format(image: Image.Image) -> str:
    # MPO is what Pillow calls the JPEG of phones that holds a second picture behind the first.
    return "JPEG" if image.format == "MPO" else str(image.format)


def _for_graph(image: Image.Image, encoded: bytes) -> bool:
    name = _format(image)
    return _plain_bitmap(image, encoded) if name == "BMP" else name in GRAPH_FORMATS


def _plain_bitmap(image: Image.Image, encoded: bytes) -> bool:
    """TensorFlow's decode_bmp takes 24 and 32 bits, and takes the indices of a palette for shades of grey."""
    if len(encoded) < 54 or struct.unpack_from("<I", encoded, 14)[0] < 40:
        return False
    bits, compression = struct.unpack_from("<HI", encoded, 28)
    masks = compression == 3 and encoded[54:66] == struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
    return (compression == 0 or masks) and (bits in (24, 32) or (bits == 8 and image.mode == "L"))


def _decode(image: Image.Image, encoded: bytes) -> None:
    """Raises ValueError where libjpeg, libpng or giflib in TensorFlow would give up."""
    try:
        if image.format != "PNG":
            image.load()
            return
        # Pillow does without the last chunk, and libpng does not.
        if b"IEND" not in encoded[-4096:]:
            raise ValueError
        image.load()
    except Exception:
        raise ValueError(DAMAGED) from None
