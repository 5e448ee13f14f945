"""Which weights a run starts from, decided before it starts, so that the cache never serves another run's choice."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from retake.backbones import BACKBONES, Name, Variant
from retake.errors import RetakeError, UsageError
from retake.sections import ModelSection

IMAGENET_URL = "https://storage.googleapis.com/tensorflow/keras-applications/"
"""Where keras.applications downloads from."""

SECONDS = 5

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
      RetakeError: the weights file cannot be read, or does not fit the backbone.
      UsageError: `auto` for nodes elsewhere, and ImageNet cannot be reached from here.
    """
    if model.weights in ("imagenet", "none"):
        return Weights(model.weights, "")
    if model.weights == "auto":
        if model.known.from_scratch:
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
    if problem := misfit(path, model.backbone):
        raise RetakeError(problem)
    return Weights(str(path), digest.hexdigest())


def misfit(file: Path, name: Name) -> str | None:
    """Compares a weights file with a backbone, by the shapes of its arrays. The network is not built.

    Args:
      file: one that can be read.
      name: the backbone.

    Returns:
      Why the file cannot be loaded, or None. None also where that cannot be seen from the shapes: in a .keras archive,
      and in a .weights.h5 file that holds more than the backbone, such as its top.
    """
    if file.suffix == ".keras":
        return None
    variants = BACKBONES[name].variants
    misfits = f"weights file {file} does not fit {name} without its top"
    need = f"save {name} with include_top=False and save_weights, or set model.weights to imagenet or none"
    try:
        if file.suffix not in (".h5", ".hdf5"):
            raise OSError
        found = _variant(file)
    except OSError:
        return f"{misfits}: it is no HDF5 file of weights, whose name ends in .weights.h5 or .h5; {need}"
    if found.shapes in (variant.shapes for variant in variants):
        return None
    sizes = " or ".join(sorted({f"{variant.arrays}" for variant in variants}))
    holds = f"{misfits}, which has {sizes} arrays; it holds {found.arrays} arrays of {found.numbers:,} numbers"
    for other, known in BACKBONES.items():
        if found.shapes in (variant.shapes for variant in known.variants):
            return f"{holds}, as {other} does; set model.backbone to {other}, or name another file"
    if file.name.endswith(".weights.h5") and found.arrays > min(variant.arrays for variant in variants):
        return None
    return f"{holds}; set model.backbone to the network that it was saved from, or {need}"


def _variant(file: Path) -> Variant:
    """The variant of weights in a Keras file of the newer or the older format."""
    import h5py

    shapes: list[tuple[int, ...]] = []

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        # Not weights of layers: the state of random generators, and of the optimizer that the network was trained with.
        if isinstance(item, h5py.Dataset) and "seed_generator" not in name and not name.startswith("optimizer"):
            shapes.append(item.shape)

    with h5py.File(file) as opened:
        opened.visititems(add)
    digest = hashlib.sha256(json.dumps(sorted(shapes)).encode()).hexdigest()[:16]
    return Variant(len(shapes), sum(map(math.prod, shapes)), digest)


def _imagenet_can_be_had(model: ModelSection) -> bool:
    size = model.image_size if model.image_size in model.known.image_sizes else 224
    keras_home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    if list((keras_home / "models").glob(model.known.downloaded.format(size=size))):
        return True
    try:
        urllib.request.urlopen(urllib.request.Request(IMAGENET_URL, method="HEAD"), timeout=SECONDS)
    except urllib.error.HTTPError:
        return True  # It answered.
    except OSError:
        return False
    return True
