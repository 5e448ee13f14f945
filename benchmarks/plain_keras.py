"""Transfer learning in one script, as a good engineer would write it, for comparison in benchmarks.pipeline.

The script reads class folders, holds out a fifth by the pictures' bytes, trains EfficientNetV2B0, writes a SavedModel,
and prints accuracy and seconds as JSON. `frozen` caches the features of a frozen backbone, and trains a head on them.
`whole` trains the whole network for one epoch, as classic notebooks do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

BATCH = 32


def main(schedule: str, images: Path, weights: Path, out: Path) -> None:
    keras.utils.set_random_seed(7)
    classes = ["food", "sandwich", "taco"]
    files = [(str(path), label) for label, name in enumerate(classes) for path in sorted((images / name).iterdir())]
    held_out = [int(hashlib.sha256(Path(path).read_bytes()).hexdigest(), 16) % 5 == 0 for path, _ in files]
    train = [file for file, out in zip(files, held_out, strict=True) if not out]
    test = [file for file, out in zip(files, held_out, strict=True) if out]
    np.random.default_rng(7).shuffle(train)
    labels, test_labels = (np.array([int(label) for _, label in part]) for part in (train, test))
    backbone = keras.applications.EfficientNetV2B0(
        include_top=False, weights=str(weights), pooling="avg", input_shape=(224, 224, 3)
    )
    head = keras.Sequential([keras.layers.Dropout(0.3), keras.layers.Dense(3, activation="softmax")])
    model = keras.Sequential([keras.Input((224, 224, 3)), backbone, head])
    timing = {}
    if schedule == "frozen":
        backbone.trainable = False
        features = backbone.predict(pixels(train).batch(BATCH), verbose=0)
        head.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
        stop = keras.callbacks.EarlyStopping(patience=15, restore_best_weights=True)
        head.fit(features, labels, batch_size=BATCH, epochs=200, validation_split=0.15, callbacks=[stop], verbose=0)
    else:
        data = tf.data.Dataset.zip(pixels(train), tf.data.Dataset.from_tensor_slices(labels)).batch(BATCH)
        optimizer = keras.optimizers.Adam(1e-4)
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
        begun = time.monotonic()
        model.fit(data.prefetch(1), epochs=1, verbose=0)
        timing["epoch"] = time.monotonic() - begun
    predicted = model.predict(pixels(test).batch(BATCH), verbose=0).argmax(-1)
    model.export(out, verbose=False)
    print(json.dumps({"accuracy": float((predicted == test_labels).mean()), **timing}))


def pixels(files: list[tuple[str, int]]) -> tf.data.Dataset:
    def decode(path: tf.Tensor) -> tf.Tensor:
        picture = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
        return tf.ensure_shape(tf.image.resize_with_pad(picture, 224, 224, antialias=True), (224, 224, 3))

    return (
        tf.data.Dataset.from_tensor_slices([path for path, _ in files]).map(decode, num_parallel_calls=2).prefetch(64)
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plain_keras", description=__doc__)
    parser.add_argument("schedule", choices=["frozen", "whole"])
    parser.add_argument("images", type=Path, metavar="IMAGES", help="has the folders food, sandwich and taco")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="weights of EfficientNetV2B0 without its top")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the SavedModel")
    options = parser.parse_args()
    main(options.schedule, options.images, options.weights, options.out)
