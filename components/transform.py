"""Transform: the graph that turns encoded bytes into pixels, for both training and serving.

A client may send any bytes to the served graph. So the graph checks the size in a picture's header before it decodes
the picture, and passes only the parts of a PNG that hold pixels to libpng.

Pixels are not stored: the Trainer runs this graph in its input. The default schedule reads each picture once, and in
every other schedule decoding takes a few hundredths of the network's time.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from retake.images import MAX_CHUNKS, MAX_SCANS

EXIF_BYTES = 65_536
"""The largest segment of a JPEG."""

MAX_EXIF_SEGMENTS = 64
"""EXIF is searched in as many segments of a JPEG. Cameras write it first."""

PARALLEL = 2
"""Pictures that are decoded at a time. One may need 0.5 GB at the default data.max_pixels."""

UPRIGHT = 1


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, Any]:
    """TFT's entry point: `image` string[batch, 1] → `pixels` float32[batch, size, size, 3]; label and source stay.

    Pixels are whole numbers from 0 to 255. float32 is the smallest type that a transform graph can return.
    """
    size, *limits = (int(custom_config[key]) for key in ("image_size", "max_pixels", "max_bytes"))
    pixels = batch_to_pixels(size, *limits)(dense(inputs["image"]))
    return {"pixels": pixels, "label": dense(inputs["label"]), "source": dense(inputs["source"])}


@functools.cache
def batch_to_pixels(size: int, max_pixels: int, max_bytes: int) -> Any:
    """`to_pixels` for string[batch], traced once in a process: TFT calls `preprocessing_fn` for many graphs."""

    def of_batch(encoded: tf.Tensor) -> tf.Tensor:
        pixels = tf.map_fn(
            lambda image: to_pixels(image, size, max_pixels, max_bytes),
            encoded,
            parallel_iterations=PARALLEL,
            fn_output_signature=tf.float32,
        )
        return tf.ensure_shape(pixels, (None, size, size, 3))

    return tf.function(of_batch, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)


def dense(column: Any) -> tf.Tensor:
    """A column of one value per row, as [batch]."""
    return tf.reshape(tf.sparse.to_dense(column) if isinstance(column, tf.SparseTensor) else column, [-1])


def to_pixels(encoded: tf.Tensor, size: int, max_pixels: int, max_bytes: int) -> tf.Tensor:
    """Decodes one picture, turns it upright and scales it.

    The whole picture is scaled until it fits, and the rest is filled with black. So the subject is neither cut off nor
    distorted. On the food, sandwich and taco pictures, a linear head on frozen features reaches 0.863 this way, 0.854
    with stretching and 0.852 with a centre crop (5-fold cross-validation, identical pictures together). Transparent
    parts of a PNG become white, as on a web page.

    Args:
      encoded: string[], JPEG, PNG or BMP of 24 or 32 bits; grey, palette, alpha and CMYK are fine.
      size: side of the result in pixels.
      max_pixels: most width × height.
      max_bytes: most encoded bytes.

    Returns:
      float32[size, size, 3], RGB, whole numbers from 0 to 255.

    Raises:
      InvalidArgumentError: the picture has another format, is damaged or exceeds a limit; the message says which.
    """
    encoded = _checked(encoded, tf.strings.length(encoded) <= max_bytes, f"the picture is over {max_bytes} bytes")
    encoded = _checked(encoded, ~_starts(encoded, b"GIF8"), "GIF is not supported: send JPEG, PNG or BMP")
    resized, orientation = tf.case(
        [
            (_starts(encoded, b"\x89PNG"), lambda: _png(encoded, size, max_pixels)),
            (_starts(encoded, b"\xff\xd8\xff"), lambda: _jpeg(encoded, size, max_pixels)),
        ],
        default=lambda: _bmp(encoded, size, max_pixels),
    )
    resized = tf.ensure_shape(resized, (None, None, 3))
    # The picture is turned before it is padded: so an odd rest goes to the same side for every stored orientation.
    padded = tf.image.resize_with_crop_or_pad(_upright(resized, orientation), size, size)
    return tf.clip_by_value(tf.round(padded), 0, 255)


def _jpeg(encoded: tf.Tensor, size: int, max_pixels: int) -> tuple[tf.Tensor, tf.Tensor]:
    raw = tf.io.decode_raw(encoded, tf.uint8)
    end = tf.size(raw)

    def places(marker: int) -> tf.Tensor:
        return tf.cast(tf.where((raw[:-1] == 255) & (raw[1:] == marker))[:, 0], tf.int32)

    # A scan begins with FF DA and its header's length, for one to four components. Pixels contain no marker. Other
    # bytes (a video behind the picture) look like a scan once in a gigabyte.
    scans = places(0xDA)
    length = tf.gather(raw, tf.minimum(scans[:, None] + [2, 3], end - 1))
    scans = tf.boolean_mask(scans, (length[:, 0] == 0) & tf.reduce_any(length[:, 1:] == [8, 10, 12, 14], 1))
    encoded = _checked(encoded, tf.size(scans) <= MAX_SCANS, f"the JPEG has over {MAX_SCANS} scans")
    shape = tf.cast(tf.io.extract_jpeg_shape(encoded), tf.int64)
    encoded = _bounded(encoded, shape[1], shape[0], max_pixels)
    picture = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    # EXIF is before the first scan. Its thumbnail has scans, too, but they come after the start of EXIF.
    segments = places(0xE1)[:MAX_EXIF_SEGMENTS]
    segments = tf.boolean_mask(segments, segments + 10 <= tf.concat([scans, [end]], 0)[0])
    names = tf.gather(raw, segments[:, None] + tf.range(4, 10))
    is_exif = tf.reduce_all(names == tf.constant(list(b"Exif\0\0"), tf.uint8), 1)
    exif = tf.concat([tf.boolean_mask(segments, is_exif) + 10, [end]], 0)[0]
    return _resized(picture, size), _orientation(tf.strings.substr(encoded, exif, EXIF_BYTES))


def _png(encoded: tf.Tensor, size: int, max_pixels: int) -> tuple[tf.Tensor, tf.Tensor]:
    end = tf.strings.length(encoded)
    has_header = _starts(encoded, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR") & (end > 33)
    encoded = _checked(encoded, has_header, "the PNG is damaged")
    sides = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False), tf.int64)
    encoded = _bounded(encoded, sides[0], sides[1], max_pixels)

    def chunk(number: Any, at: Any, head: Any, first: Any, last: Any, exif: Any) -> Any:
        kind = tf.strings.substr(encoded, at + 4, 4)
        length = tf.reshape(tf.io.decode_raw(tf.strings.substr(encoded, at, 4), tf.int32, little_endian=False), [])
        # A length beyond the end or below zero is not a chunk.
        whole = (length >= 0) & (length <= end - at - 12)
        after = tf.where(whole, at + 12 + length, end)
        is_pixels, is_first = kind == b"IDAT", first == end
        kept = whole & is_first & ((kind == b"PLTE") | (kind == b"tRNS"))
        return (
            number + 1,
            tf.where(kind == b"IEND", end, after),
            tf.strings.join([head, tf.strings.substr(encoded, at, tf.where(kept, 12 + length, 0))]),
            tf.where(is_pixels & is_first, at, first),
            tf.where(is_pixels & (is_first | (last == at)), after, last),
            tf.where((kind == b"eXIf") & (exif == end), at + 8, exif),
        )

    _, at, head, first, last, exif = tf.while_loop(
        lambda number, at, *_: (number < MAX_CHUNKS) & (at + 12 <= end),
        chunk,
        (0, 33, tf.strings.substr(encoded, 0, 33), end, 0, end),
    )
    encoded = _checked(encoded, at + 12 > end, f"the PNG has over {MAX_CHUNKS} chunks")
    # Texts and profiles are left out: libpng would unpack a few kB of each to 8 MB, and they hold no pixels.
    pixels = tf.strings.substr(encoded, tf.minimum(first, last), tf.maximum(last - first, 0))
    tail = b"\0\0\0\0IEND\xaeB`\x82"
    rgba = tf.io.decode_png(tf.strings.join([head, pixels, tail]), channels=4)
    # TensorFlow gives an opaque PNG of 1, 2 or 4 bits an alpha of 1, 3 or 15.
    bits = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 24, 1), tf.uint8)[0], tf.int32)
    opaque = tf.cast(tf.minimum(2 ** tf.minimum(bits, 8) - 1, 255), tf.uint8)
    resized = tf.cond(
        tf.reduce_all(rgba[..., 3] == opaque),
        lambda: _resized(rgba[..., :3], size),
        lambda: _resized_on_white(rgba, size),
    )
    return resized, _orientation(tf.strings.substr(encoded, exif, EXIF_BYTES))


def _resized_on_white(rgba: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes colour × alpha and alpha apart: resizing is linear, and this needs no large picture of floats."""
    alpha = rgba[..., 3:]
    colour = tf.cast(rgba[..., :3], tf.uint16) * tf.cast(alpha, tf.uint16)
    return 255 + (_resized(colour, size) - 255 * _resized(alpha, size)) / 255


def _bmp(encoded: tf.Tensor, size: int, max_pixels: int) -> tuple[tf.Tensor, tf.Tensor]:
    has_header = _starts(encoded, b"BM") & (tf.strings.length(encoded) >= 66)
    encoded = _checked(encoded, has_header, "the picture is not JPEG, PNG or BMP")
    fields = tf.io.decode_raw(tf.strings.substr(encoded, 14, 20), tf.int32)
    header, width, height, bits, compression = tf.unstack(tf.ensure_shape(fields, [5]))
    bits = bits // 2**16  # Its low half is the number of planes.
    has_masks = (compression == 3) & (tf.strings.substr(encoded, 54, 12) == b"\0\0\xff\0\0\xff\0\0\xff\0\0\0")
    plain = (header >= 40) & ((bits == 24) | (bits == 32)) & ((compression == 0) | has_masks)
    encoded = _checked(encoded, plain, "the BMP is not of 24 or 32 bits: send JPEG or PNG")
    # A BMP with a height below zero is stored from the top down.
    encoded = _bounded(encoded, tf.cast(width, tf.int64), tf.abs(tf.cast(height, tf.int64)), max_pixels)
    picture = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return _resized(picture, size), tf.constant(UPRIGHT)


def _resized(picture: tf.Tensor, size: int) -> tf.Tensor:
    sides = tf.shape(picture, tf.int64)[:2]
    # tf.image.resize_with_pad would round the short side of a 2000 × 1 picture down to nothing, and fail.
    fitted = tf.maximum(sides * size // tf.reduce_max(sides), 1)
    picture = tf.ensure_shape(picture, (None, None, None))
    return tf.image.resize(picture, tf.cast(fitted, tf.int32), antialias=True)


def _upright(picture: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns by an EXIF orientation, 1 to 8."""
    flipped = tf.reduce_any(orientation == [[3, 4, 7, 8], [2, 3, 6, 7]], 1)
    picture = tf.transpose(picture, tf.where(orientation > 4, [1, 0, 2], [0, 1, 2]))
    return tf.reverse(picture, tf.boolean_mask([0, 1], flipped))


def _orientation(tiff: tf.Tensor) -> tf.Tensor:
    """The EXIF orientation, int32[], from a TIFF header and its data; 1 if it is missing or invalid.

    Args:
      tiff: string[], possibly empty.
    """
    big = _starts(tiff, b"MM\0*")
    known = big | _starts(tiff, b"II*\0")
    last = tf.maximum(tf.strings.length(tiff) - 2, 0)
    tiff = tf.strings.join([tiff, b"\0" * 8])

    def numbers(text: tf.Tensor, kind: tf.DType) -> tf.Tensor:
        return tf.where(big, tf.io.decode_raw(text, kind, little_endian=False), tf.io.decode_raw(text, kind))

    directory = tf.clip_by_value(numbers(tf.strings.substr(tiff, 4, 4), tf.int32)[0], 0, last)
    count = tf.cast(numbers(tf.strings.substr(tiff, directory, 2), tf.uint16)[0], tf.int32)
    entries = tf.strings.substr(tiff, directory + 2, 12 * count)
    entries = tf.strings.substr(entries, 0, tf.strings.length(entries) // 12 * 12)
    # Six numbers of 16 bits: tag, type, the number of values (two numbers), the value, and padding.
    fields = tf.cast(tf.reshape(numbers(entries, tf.uint16), [-1, 6]), tf.int32)
    wanted = (fields[:, 0] == 0x0112) & (fields[:, 1] == 3) & (fields[:, 2] + fields[:, 3] == 1)
    value = tf.reduce_sum(tf.boolean_mask(fields[:, 4], wanted)[:1])
    return tf.where(known & (value >= 1) & (value <= 8), value, UPRIGHT)


def _starts(encoded: tf.Tensor, magic: bytes) -> tf.Tensor:
    return tf.strings.substr(encoded, 0, len(magic)) == magic


def _bounded(encoded: tf.Tensor, width: tf.Tensor, height: tf.Tensor, max_pixels: int) -> tf.Tensor:
    inside = (width > 0) & (height > 0) & (width * height <= max_pixels)
    return _checked(encoded, inside, f"the picture is not of 1 to {max_pixels} pixels")


def _checked(encoded: tf.Tensor, right: tf.Tensor, message: str) -> tf.Tensor:
    # tf.debugging.Assert adds a conditional with functions of its own, which costs more than the check.
    with tf.control_dependencies([tf.raw_ops.Assert(condition=right, data=[message])]):
        return tf.identity(encoded)
