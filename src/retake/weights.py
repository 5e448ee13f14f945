"""Which weights a run starts from, decided before it starts, so that the cache never serves another run's choice."""

from __future__ import annotations

import hashlib
import logging
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from retake.errors import RetakeError, UsageError
from retake.sections import ModelSection

IMAGENET_URL = "https://storage.googleapis.com/tensorflow/keras-applications/"
"""Where keras.applications downloads from."""

SECONDS = 5

_CACHED = {
    "EfficientNetB0": "efficientnetb0_notop.h5",
    "EfficientNetV2B0": "efficientnetv2-b0_notop.h5",
    "MobileNetV2": "mobilenet_v2_*_1.0_{size}_no_top.h5",
    "ResNet50": "resnet50_*_notop.h5",
}
"""What keras.applications calls the files that it downloads."""

_MOBILENET_SIZES = (96, 128, 160, 192)
"""Image sizes for which keras.applications has a MobileNetV2 of its own; it takes that of 224 for all others."""

_log = logging.getLogger("retake")


class Weights(NamedTuple):
    """`imagenet`, `none` or the absolute path of a file, and the SHA-256 of its content ("" without a file)."""

    weights: str
    fingerprint: str


def resolve(model: ModelSection, elsewhere: bool = False) -> Weights:
    """Decides `auto` and checks a file.

    Args:
      model: the configuration's section.
      elsewhere: the nodes run on other machines, which may reach more or less than this one. `auto` is then ImageNet
        or an error, never random weights that nobody asked for.

    Raises:
      RetakeError: the weights file cannot be read.
      UsageError: `auto` for nodes elsewhere, and ImageNet cannot be reached from here.
    """
    if model.weights in ("imagenet", "none"):
        return Weights(model.weights, "")
    if model.weights == "auto":
        if model.backbone == "LeNet5":
            return Weights("none", "")
        if _imagenet_can_be_had(model):
            return Weights("imagenet", "")
        if elsewhere:
            raise UsageError(
                "model.weights auto: ImageNet weights cannot be reached from here, and the nodes run elsewhere; give "
                "--weights imagenet if the nodes can download them, else a weights file, or --weights none (random)"
            )
        _log.info("ImageNet weights cannot be reached from here: going on from random weights.")
        return Weights("none", "")
    path = Path(model.weights).resolve()
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise RetakeError(
            f"weights file {path} cannot be read ({error.strerror}); model.weights is a file's path, imagenet or none"
        ) from None
    return Weights(str(path), digest.hexdigest())


def _imagenet_can_be_had(model: ModelSection) -> bool:
    size = model.image_size if model.image_size in _MOBILENET_SIZES else 224
    keras_home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    if list((keras_home / "models").glob(_CACHED[model.backbone].format(size=size))):
        return True
    try:
        urllib.request.urlopen(urllib.request.Request(IMAGENET_URL, method="HEAD"), timeout=SECONDS)
    except urllib.error.HTTPError:
        return True  # It answered.
    except OSError:
        return False
    return True
