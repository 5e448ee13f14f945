"""The smallest data set that a network can learn: noise that is more red, more green or more blue."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from pipelines.settings import Settings

CLASSES = ["red", "green", "blue"]


def picture(colour: int, seed: int, size: tuple[int, int] = (20, 16), kind: str = "JPEG") -> bytes:
    """An encoded picture of noise with more of one colour: 0 red, 1 green, 2 blue."""
    pixels = np.random.default_rng([colour, seed]).integers(0, 120, (size[1], size[0], 3), dtype=np.uint8)
    pixels[..., colour] += 120
    return encoded(Image.fromarray(pixels), kind)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A black-and-white PNG, made without ever holding its pixels."""
    packer, rows = zlib.compressobj(9), bytes(1 + (width + 7) // 8)
    packed = b"".join(packer.compress(rows) for _ in range(height)) + packer.flush()

    def chunk(name: bytes, content: bytes) -> bytes:
        return pack(">I", len(content)) + name + content + pack(">I", zlib.crc32(name + content))

    header = pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def example(image: bytes | None, label: Any) -> bytes:
    """A serialized tf.train.Example; a label is a class name, an index or one-hot."""
    feature = {}
    if image is not None:
        feature["image"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    if isinstance(label, str):
        feature["label"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[label.encode()]))
    elif label is not None:
        values = [label] if isinstance(label, int) else label
        feature["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write_records(path: Path, examples: Sequence[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), "GZIP" if path.suffix == ".gz" else "") as writer:
        for each in examples:
            writer.write(each)
    return path


def coloured(per_class: int, seed: int = 0) -> list[bytes]:
    """Examples of the three colours, which any network can tell apart."""
    return [
        example(picture(colour, 1000 * seed + number), CLASSES[colour])
        for number in range(per_class)
        for colour in range(len(CLASSES))
    ]


def config(**sections: Any) -> Settings:
    """A configuration of the three colours and a network that trains in a second."""
    small = {
        "pipeline": {"name": "colours"},
        "data": {"location": "data", "classes": CLASSES},
        "model": {"backbone": "LeNet5", "weights": "none", "image_size": 32},
        "trainer": {"epochs": 20, "learning_rate": 0.003},
        "evaluator": {"min_accuracy": 0.0},
    }
    return Settings.model_validate(
        {name: {**small.get(name, {}), **sections.get(name, {})} for name in {**small, **sections}}
    )
