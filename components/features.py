"""What a frozen backbone says of each picture, computed once per picture and kept from run to run.

When records arrive, only their pictures go through the network; the others' features are on file.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from retake import durable

_log = logging.getLogger("retake")


def of_pictures(
    digests: Sequence[bytes],
    store: str | None,
    compute: Callable[[np.ndarray], np.ndarray],
    others: Sequence[bytes] = (),
) -> np.ndarray:
    """Features of pictures, each different picture's computed at most once.

    Args:
      digests: what identifies each of the n pictures.
      store: file that keeps features for the next run, local or gs://; None keeps nothing.
      compute: takes bool[n], the pictures to compute, and returns their features, float32[pictures, features].
      others: pictures whose features stay in the store, if they are there; those of all others are forgotten.

    Returns:
      float32[n, features].
    """
    known = _read(store) if store else {}
    missing, seen = np.zeros(len(digests), bool), set(known)
    for i, digest in enumerate(digests):
        missing[i] = digest not in seen
        seen.add(digest)
    if known:
        _log.info("features: %d pictures are known, %d are new", len(digests) - missing.sum(), missing.sum())
    if missing.any():
        new = [digest for digest, is_missing in zip(digests, missing, strict=True) if is_missing]
        known |= zip(new, compute(missing), strict=True)
        if store:
            kept = dict.fromkeys([*digests, *others])
            _write(store, {digest: known[digest] for digest in kept if digest in known})
    return np.stack([known[digest] for digest in digests])


def store_for(folder: str, network: dict[str, object]) -> str:
    """The file for a network's features, named for all that they depend on."""
    key = hashlib.sha256(json.dumps(network, sort_keys=True).encode()).hexdigest()
    return f"{folder}/{key[:32]}.npz"


def _read(store: str) -> dict[bytes, np.ndarray]:
    try:
        with tf.io.gfile.GFile(store, "rb") as file:
            content = np.load(io.BytesIO(file.read()), allow_pickle=False)
            return dict(zip(map(bytes, content["digests"]), content["features"], strict=True))
    except tf.errors.NotFoundError:
        return {}
    except (tf.errors.OpError, zipfile.BadZipFile, EOFError, ValueError, KeyError, OSError) as error:
        _log.info("features on file cannot be used (%s): computing them again", error)
        return {}


def _write(store: str, known: dict[bytes, np.ndarray]) -> None:
    content = io.BytesIO()
    digests = np.frombuffer(b"".join(known), np.uint8).reshape(len(known), -1)
    np.savez(content, digests=digests, features=np.stack(list(known.values())))
    if "://" not in store:
        durable.write(Path(store), content.getvalue())
        return
    with tf.io.gfile.GFile(store, "wb") as file:  # An object appears whole or not at all.
        file.write(content.getvalue())
