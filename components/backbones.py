"""Backbones: networks of keras.applications by name, with their preprocessing inside and their weights checked."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import keras
import numpy as np

from retake.backbones import BACKBONES, Name, Pixels
from retake.errors import RetakeError, first_line

WeightsOrigin = Literal["imagenet", "file", "random"]

CALIBRATION_CHUNK = 2


class Backbone(NamedTuple):
    """A network from float32[batch, size, size, 3] pixels, 0 to 255, to float32[batch, features]."""

    network: keras.Model
    weights: WeightsOrigin


def build(name: Name, weights: str, size: int, frozen: bool, calibration: Callable[[], np.ndarray]) -> Backbone:
    """Makes a backbone.

    Args:
      name: a `model.backbone` of the configuration.
      weights: `imagenet`, `none` or a file's path.
      size: side of the pictures in pixels.
      frozen: whether the network stays untrained, so that random weights have to give useful features.
      calibration: returns float32[n, size, size, 3] training pixels; called only if the weights are random.

    Raises:
      RetakeError: the weights cannot be loaded, or belong to another network.
    """
    known = BACKBONES[name]
    preprocessing = _preprocessing(known.pixels)
    if known.from_scratch:
        if weights != "none":
            raise RetakeError(f"{name} trains from scratch and takes no weights; set model.weights to none")
        return Backbone(_with_pixels(_lenet5(size), preprocessing, size), "random")
    application = getattr(keras.applications, name)
    arguments = {"include_top": False, "pooling": "avg", "input_shape": (size, size, 3)}
    origin: WeightsOrigin = "random"
    if weights == "imagenet":
        network, origin = _downloaded(application, name, arguments), "imagenet"
    elif weights == "none":
        network = application(weights=None, **arguments)
    else:
        network, origin = _from_file(application, name, Path(weights), arguments), "file"
    if origin == "random":
        if frozen:
            network = _shallow(network, size)
        _calibrate(network, preprocessing, calibration())
    return Backbone(_with_pixels(network, preprocessing, size), origin)


def _preprocessing(pixels: Pixels) -> keras.layers.Layer | None:
    """What turns pixels from 0 to 255 into those that a network takes."""
    if pixels == "-1 to 1":
        return keras.layers.Rescaling(1 / 127.5, offset=-1)
    if pixels == "0 to 1":
        return keras.layers.Rescaling(1 / 255)
    if pixels == "less ImageNet's means":
        return keras.layers.Lambda(keras.applications.resnet50.preprocess_input)
    return None


def _with_pixels(network: keras.Model, preprocessing: keras.layers.Layer | None, size: int) -> keras.Model:
    pixels = keras.Input((size, size, 3), dtype="uint8", name="pixels")
    x = keras.layers.Lambda(lambda p: keras.ops.cast(p, "float32"), name="as_float")(pixels)
    return keras.Model(pixels, network(preprocessing(x) if preprocessing else x, training=False), name="backbone")


def _lenet5(size: int) -> keras.Model:
    """LeNet-5 (LeCun et al., 1998, Gradient-based learning applied to document recognition) with ReLU and RGB input."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            layers.Conv2D(6, 5, activation="relu"),
            layers.AveragePooling2D(2),
            layers.Conv2D(16, 5, activation="relu"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
        ],
        name="lenet5",
    )


def _downloaded(application: Callable[..., keras.Model], name: str, arguments: dict[str, Any]) -> keras.Model:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # Without it, the run would hang where a firewall drops packets.
    try:
        return application(weights="imagenet", **arguments)
    except Exception as error:
        raise RetakeError(
            f"the ImageNet weights of {name} cannot be downloaded ({first_line(error)}); "
            "give a weights file with --weights PATH, or go without with --weights none"
        ) from None
    finally:
        socket.setdefaulttimeout(before)


def _from_file(
    application: Callable[..., keras.Model],
    name: Name,
    path: Path,
    arguments: dict[str, Any],
) -> keras.Model:
    if not path.is_file():
        raise RetakeError(f"weights file {path} does not exist; see model.weights")
    problem: Exception = ValueError()
    widths = [variant.width for variant in BACKBONES[name].variants]
    for options in [{"alpha": width} for width in widths] if len(widths) > 1 else [{}]:
        network = application(weights=None, **arguments, **options)
        try:
            network.load_weights(path)
            return network
        except Exception as error:
            problem = error
    raise RetakeError(
        f"weights file {path} does not fit {name} without its top ({first_line(problem)}); "
        "set model.backbone to the network that it was saved from"
    ) from None


def _shallow(network: keras.Model, size: int) -> keras.Model:
    """Mean, deviation and maximum of a random network's early activations (sides of at least size / 4 pixels).

    In a network that was never trained, deep layers only lose information. On the drawn pictures, a logistic regression
    (5-fold cross-validation) has an accuracy of 0.45 on the top of a random EfficientNetB0, and 0.89 on these features.
    """
    early = [
        layer.output
        for layer in network.layers
        if isinstance(layer, keras.layers.Activation | keras.layers.ReLU)
        and len(layer.output.shape) == 4
        and layer.output.shape[1] >= size // 4
    ]
    pools = [pool(output, axis=(1, 2)) for output in early for pool in (keras.ops.mean, keras.ops.std, keras.ops.max)]
    return keras.Model(network.input, keras.ops.concatenate(pools, axis=-1), name=network.name)


def _calibrate(network: keras.Model, preprocessing: keras.layers.Layer | None, pixels: np.ndarray) -> None:
    """Computes the batch-norm statistics from training pictures.

    With the initial statistics (mean 0, variance 1), the features of a random network shrink to almost zero in deep
    layers. The function processes the pictures in chunks, because Keras keeps every activation of a call in memory:
    70 MB a picture in EfficientNetB0.
    """
    norms = [layer for layer in _layers(network) if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in _layers(network):
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    for done, start in enumerate(range(0, len(pixels), CALIBRATION_CHUNK)):
        for norm in norms:
            norm.momentum = done / (done + 1)  # The statistics become the mean over the chunks.
        chunk = pixels[start : start + CALIBRATION_CHUNK]
        network(preprocessing(chunk) if preprocessing else chunk, training=True)


def _layers(network: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in network.layers:
        yield from _layers(layer) if isinstance(layer, keras.Model) else (layer,)
