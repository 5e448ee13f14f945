"""Features of pictures from a frozen backbone, computed once for each network and kept for later runs.

When records arrive, only their pictures go through the network. A store is a folder. Each run adds a file with the
features that it computed, and changes no other file, so concurrent runs do not disturb each other.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import uuid
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from retake import durable

_log = logging.getLogger("retake")


def of_pictures(digests: Sequence[bytes], store: str | None, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Features of pictures. Identical pictures and pictures in the store are not computed again.

    Args:
      digests: a digest of each of the n pictures, all of the same number of bytes.
      store: folder that keeps features for the next run, local or gs://; None stores nothing. A damaged file in it is
        ignored, with a message.
      compute: takes bool[n], which is true for m pictures, and returns their features, float32[m, features].

    Returns:
      float32[n, features].

    Raises:
      OSError, tf.errors.OpError: the store cannot be written.

    Example:
        >>> pixels = np.array([[1.0, 3.0], [5.0, 7.0], [1.0, 3.0]], np.float32)
        >>> of_pictures([b"a", b"b", b"a"], None, lambda missing: pixels[missing].mean(axis=1, keepdims=True))
        array([[2.],
               [6.],
               [2.]], dtype=float32)
    """
    known = _read(store, set(digests)) if store else {}
    missing, seen = np.zeros(len(digests), bool), set(known)
    for i, digest in enumerate(digests):
        missing[i] = digest not in seen
        seen.add(digest)
    if known:
        _log.info("features: %d pictures are known, %d are new", len(digests) - missing.sum(), missing.sum())
    if missing.any():
        new = [digest for digest, is_missing in zip(digests, missing, strict=True) if is_missing]
        computed = np.asarray(compute(missing))
        if store:
            _add(store, new, computed)
        known |= zip(new, computed, strict=True)
    return np.stack([known[digest] for digest in digests])


def store_for(folder: str, network: dict[str, object]) -> str:
    """The folder for a network's features.

    Args:
      folder: holds the stores of all networks.
      network: all that the features depend on, as JSON.

    Example:
        >>> store_for("runs/sample/features", {"backbone": "ResNet50", "image_size": 224})
        'runs/sample/features/508afac0cbdc36613fb42531f113c7e6'
    """
    key = hashlib.sha256(json.dumps(network, sort_keys=True).encode()).hexdigest()
    return f"{folder}/{key[:32]}"


def _read(store: str, wanted: set[bytes]) -> dict[bytes, np.ndarray]:
    stored: dict[bytes, np.ndarray] = {}
    for path in sorted(tf.io.gfile.glob(f"{store}/*.npz")):
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                content = np.load(io.BytesIO(file.read()), allow_pickle=False)
            rows = zip(map(bytes, content["digests"]), content["features"], strict=True)
            stored |= ((digest, features.copy()) for digest, features in rows if digest in wanted)
        except (tf.errors.OpError, zipfile.BadZipFile, EOFError, ValueError, KeyError, OSError) as error:
            _log.info("features in %s cannot be used (%s): computing them again", path, error)
    return stored


def _add(store: str, new: list[bytes], computed: np.ndarray) -> None:
    content = io.BytesIO()
    np.savez(content, digests=np.frombuffer(b"".join(new), np.uint8).reshape(len(new), -1), features=computed)
    path = f"{store}/{uuid.uuid4().hex}.npz"
    if "://" not in store:
        durable.write(Path(path), content.getvalue())
        return
    with tf.io.gfile.GFile(path, "wb") as file:  # An object of a bucket appears when it is complete.
        file.write(content.getvalue())
