"""Reads the examples of a split for a training: the pixels as a stream, everything else as arrays."""

from __future__ import annotations

import fnmatch
import hashlib
import logging
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from retake.errors import RetakeError
from retake.sections import TrainerSection

VALIDATION_PERCENT = 15
"""The share of held-out pictures in the train split, which choose the head's penalty and the network's epoch."""

FORWARD_CHUNK = 8
"""Pictures that a network processes at once outside of training. Peak memory grows with it."""

PIXEL_CACHE_BYTES = 256 * 2**20

_log = logging.getLogger("retake")


def transform_of(transform_output: str) -> Any:
    """The transform graph as a function from string[n] to pixels float32[n, size, size, 3], traced once."""
    layer = tft.TFTransformOutput(transform_output).transform_features_layer()
    return tf.function(
        lambda encoded: layer({"image": encoded[:, None]})["pixels"],
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )


class Split:
    """The examples of a split in a fixed order: their pixels as a stream, everything else as arrays."""

    def __init__(self, files: list[str], to_pixels: Any, config: TrainerSection):
        self._files = sorted(path for pattern in files for path in tf.io.gfile.glob(pattern))
        self._to_pixels = to_pixels
        self.batch_size = config.batch_size
        self._seed = config.seed
        columns = [
            (batch["label"].numpy(), batch["source"].numpy(), [_digest(image) for image in batch["image"].numpy()])
            for batch in self._examples().batch(256).map(_parse)
        ]
        self.labels: np.ndarray = np.concatenate([labels for labels, _, _ in columns])
        self.sources = [source.decode() for _, sources, _ in columns for source in sources]
        self.digests: list[bytes] = [digest for _, _, digests in columns for digest in digests]
        self.held_out: np.ndarray = held_out(self.digests)
        """bool[n]: the pictures that choose the head's penalty and the network's epoch."""

    def _examples(self) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(self._files, compression_type="GZIP")

    def pixels(self, which: np.ndarray | None = None) -> tf.data.Dataset:
        """float32[batch, size, size, 3], 0 to 255, in order, of the examples where `which` is true."""
        records = self._examples()
        if which is not None:
            marked = tf.data.Dataset.zip(records, tf.data.Dataset.from_tensor_slices(which))
            records = marked.filter(lambda _, chosen: chosen).map(lambda record, _: record)
        return (
            records.batch(FORWARD_CHUNK)
            .map(
                lambda records: self._to_pixels(_parse(records)["image"]),
                num_parallel_calls=2,
            )
            .prefetch(2)
        )

    def examples(self, weights: np.ndarray, side: np.ndarray) -> tf.data.Dataset:
        """(pixels, label, weight) of the examples where `side` is true, shuffled anew in each epoch."""
        rows = self.pixels(side).unbatch().map(lambda pixels: tf.cast(pixels, tf.uint8))
        columns = tf.data.Dataset.from_tensor_slices((self.labels[side], weights[side]))
        chosen = tf.data.Dataset.zip(rows, columns).map(lambda pixels, columns: (pixels, *columns))
        size = int(np.prod(rows.element_spec.shape))
        if size * side.sum() <= PIXEL_CACHE_BYTES:
            chosen = chosen.cache()
        return chosen.shuffle(1000 if size < 2**16 else 250, seed=self._seed).batch(self.batch_size).prefetch(1)

    def sample(self, number: int) -> np.ndarray:
        """The first pictures' pixels, float32[≤ number, size, size, 3]."""
        return np.concatenate(list(self.pixels().take(-(-number // FORWARD_CHUNK)).as_numpy_iterator()))[:number]

    def new(self, known: Collection[str]) -> np.ndarray:
        """bool[n]: the pictures of record files that are not among the known ones."""
        return np.array([source not in known for source in self.sources])

    def weights(self, config: TrainerSection, classes: int, known: Collection[str] = ()) -> np.ndarray:
        """float32[n] with mean 1: the record file's weight times the class's, then `trainer.new_share`.

        Args:
          config: has the settings of the weights.
          classes: number of classes.
          known: record files that the model in service was trained on; empty without such a model.
        """
        of_source = {source: _record_weight(source, config.record_weights) for source in set(self.sources)}
        weights = np.array([of_source[source] for source in self.sources])
        if not weights.any():
            raise RetakeError(
                f"trainer.record_weights {config.record_weights} gives every record file the weight 0; "
                f"files: {', '.join(sorted(of_source))}"
            )
        if config.class_weights:
            mass = np.bincount(self.labels, weights, minlength=classes)
            weights = weights / np.where(mass > 0, mass, 1)[self.labels]
        if config.new_share is not None:
            new = self.new(known)
            of_new, of_old = weights[new].sum(), weights[~new].sum()
            if of_new and of_old:
                weights[new] *= config.new_share / (1 - config.new_share) * of_old / of_new
                message = "%d pictures of new record files are %.3g of the training loss"
                _log.info(message, new.sum(), config.new_share)
        return (weights / weights.mean()).astype("float32")


def held_out(digests: Sequence[bytes]) -> np.ndarray:
    """bool[n]: chooses held-out pictures by their digests, so that identical pictures are on the same side."""
    chosen = np.array([int.from_bytes(digest[:8], "big") % 100 < VALIDATION_PERCENT for digest in digests])
    if chosen.any() and not chosen.all():
        return chosen
    return np.arange(len(digests)) % 7 == 0


def _record_weight(source: str, patterns: dict[str, float]) -> float:
    """The weight of the longest matching pattern. The first one would not do: TFX sorts the keys."""
    matching = [pattern for pattern in patterns if fnmatch.fnmatchcase(source, pattern)]
    return patterns[max(matching, key=len)] if matching else 1.0


def _digest(image: bytes) -> bytes:
    return hashlib.sha256(image).digest()


def _parse(records: tf.Tensor) -> dict[str, tf.Tensor]:
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "source": tf.io.FixedLenFeature([], tf.string),
    }
    return tf.io.parse_example(records, features)
