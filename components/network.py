"""Trains a network by gradient steps, writes TensorBoard's curves, and turns a fitted head into layers."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from components.head import Head
from components.training_split import FORWARD_CHUNK, Split

BATCHES_BETWEEN_WORDS = 10
"""Batches between two progress messages."""

CURVES = "3-network"
"""TensorBoard's name of this phase of a training."""

_log = logging.getLogger("retake")


class Schedule(NamedTuple):
    epochs: int
    learning_rate: float
    patience: int


def strategy() -> tf.distribute.Strategy:
    """Uses all GPUs of the machine."""
    return (
        tf.distribute.MirroredStrategy()
        if len(tf.config.list_physical_devices("GPU")) > 1
        else tf.distribute.get_strategy()
    )


def _compile(model: keras.Model, learning_rate: float) -> None:
    model.compile(
        keras.optimizers.Adam(learning_rate),
        "sparse_categorical_crossentropy",
        weighted_metrics=[keras.metrics.SparseCategoricalCrossentropy(name="log_loss"), "accuracy"],
        jit_compile=False,  # XLA is slower on a CPU and pays its compilation again in every run.
    )


def head_layers(head: Head, regularizer: keras.Regularizer | None = None) -> keras.Model:
    """The head as a network from float32[n, features] to float32[n, classes]."""
    features, classes = head.kernel.shape
    standardize = keras.layers.Normalization(mean=head.mean, variance=head.variance)
    softmax = keras.layers.Dense(classes, activation="softmax", kernel_regularizer=regularizer, name="probabilities")
    layers = keras.Sequential([keras.Input([features]), standardize, softmax], name="head")
    softmax.set_weights([head.kernel, head.bias])
    return layers


def unfreeze(network: keras.Model, layers: int | str) -> None:
    """Makes the last layers trainable. Batch-norm statistics stay fixed: a few updates would spoil the features."""
    inner = next(layer for layer in network.layers if isinstance(layer, keras.Model))
    network.trainable = True
    inner.trainable = True
    able = [layer for layer in inner.layers if layer.weights and not isinstance(layer, keras.layers.BatchNormalization)]
    chosen = able if layers == "all" else able[-int(layers) :]
    for layer in inner.layers:
        layer.trainable = layer in chosen


def train(model: keras.Model, split: Split, weights: np.ndarray, schedule: Schedule, log_dir: str) -> int:
    """Trains the layers that are not frozen, on the pictures that are not held out.

    Returns:
      The epoch with the lowest held-out log loss; the model has the weights of that epoch. 0 if no epoch lowered it.
    """
    _compile(model, schedule.learning_rate)
    fit, validation = (split.examples(weights, side) for side in (~split.held_out, split.held_out))
    start = model.get_weights()
    before = model.evaluate(validation, verbose=0, return_dict=True)
    _log.debug("network: before training, %s", in_words(before))
    history = model.fit(
        fit,
        validation_data=validation,
        epochs=schedule.epochs,
        callbacks=[
            keras.callbacks.EarlyStopping(
                "val_log_loss",
                mode="min",
                patience=schedule.patience,
                baseline=before["log_loss"],
                restore_best_weights=True,
            ),
            keras.callbacks.TensorBoard(f"{log_dir}/{CURVES}", write_graph=False),
            _EpochProgress("network", schedule.epochs, int((~split.held_out).sum()), split.batch_size),
        ],
        verbose=0,
    ).history
    log_losses = [before["log_loss"], *history["val_log_loss"]]
    accuracies = [before["accuracy"], *history["val_accuracy"]]
    best = int(np.nanargmin(log_losses))
    if best == 0:
        model.set_weights(start)
    _log.info(
        "network: %.3f accuracy on %d held-out pictures before training, %.3f after %d epochs",
        accuracies[0],
        split.held_out.sum(),
        accuracies[best],
        best,
    )
    return best


def write_scalars(step: int, **values: float) -> None:
    for name, value in values.items():
        tf.summary.scalar(name, value, step)


def in_words(logs: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in sorted(logs.items()))


class Progress(keras.callbacks.Callback):
    """Logs how many pictures the network has processed."""

    def __init__(self, what: str, number: int):
        super().__init__()
        self._what, self._number = what, number

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        done = min(self._number, (batch + 1) * FORWARD_CHUNK)
        _log.debug("%s: %d of %d pictures", self._what, done, self._number)


class _EpochProgress(keras.callbacks.Callback):
    """Logs the progress and the metrics of an epoch."""

    def __init__(self, phase: str, epochs: int, pictures: int, batch_size: int):
        super().__init__()
        self._phase, self._epochs, self._pictures, self._batch_size = phase, epochs, pictures, batch_size
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (batch + 1) % BATCHES_BETWEEN_WORDS == 0:
            done = min(self._pictures, (batch + 1) * self._batch_size)
            self._log(f"{done} of {self._pictures} pictures")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._log(in_words(logs or {}))

    def _log(self, progress: str) -> None:
        _log.debug("%s: epoch %d of at most %d, %s", self._phase, self._epoch, self._epochs, progress)
