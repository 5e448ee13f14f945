"""Tiny pushed models, which judge a picture by its mean colour, and pictures for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def push(
    folder: Path,
    classes: tuple[str, str, str],
    signature: str = "image_bytes",
    probability: float = 1.0,
    without: str | None = None,
    takes: str = "image_bytes",
    shape: tuple[int | None, int | None, int] = (None, None, 3),
) -> None:
    import tensorflow as tf

    def colour(encoded: Any) -> Any:
        pixels = tf.ensure_shape(tf.io.decode_image(encoded, channels=3, expand_animations=False), shape)
        return tf.reduce_mean(tf.cast(pixels, tf.float32) / 255, (0, 1))

    class Served(tf.Module):
        def __init__(self) -> None:
            self.kernel = tf.Variable(tf.eye(3) * 5 * probability)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=takes)])
        def answer(self, image_bytes: Any) -> dict[str, Any]:
            colours = tf.map_fn(colour, image_bytes, fn_output_signature=tf.TensorSpec([3], tf.float32))
            probabilities = tf.nn.softmax(colours @ self.kernel)
            names = tf.constant(classes)
            answers = {
                "probabilities": probabilities,
                "classes": tf.tile(names[None], [tf.shape(probabilities)[0], 1]),
                "label": tf.gather(names, tf.argmax(probabilities, 1)),
            }
            return {name: value for name, value in answers.items() if name != without}

    served = Served()
    tf.saved_model.save(served, str(folder), signatures={signature: served.answer})


def paint(file: Path, colour: tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)
    return file


def numbers(prefix: Path) -> Any:
    return json.loads(prefix.with_name(f"{prefix.name}.json").read_text())


def cells(text: str, name: str) -> list[str]:
    return next(line.split()[1:] for line in text.splitlines() if line.split()[:1] == [name])
