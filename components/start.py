"""What a model leaves for a later training: its card, and the head that a warm start goes on from."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from components.head import Head

MODEL_CARD = "assets.extra/retake.json"
"""In the SavedModel's folder: {"classes": […], "backbone": …, "weights": …, "image_size": …, "pictures": n, "sources":
{record file: pictures of it that the model was trained on}}."""

HEAD_FILE = "assets.extra/head.npz"
"""Beside it where a later training can go on from the head: the arrays of components.head.Head, `l2`, and `network`,
which names the frozen network that the features came from."""

_log = logging.getLogger("retake")


class Fitted(NamedTuple):
    head: Head
    l2: float


class Start(NamedTuple):
    """What a training goes on from."""

    fitted: Fitted
    sources: dict[str, int]


def find(model: str | None, classes: list[str], network: str) -> Start | None:
    """What the model in service leaves to go on from; None, with a word about it, where that cannot be.

    Args:
      model: its folder, or None.
      classes: of this training.
      network: names the frozen network of this training; empty where its weights are random.
    """
    if not model:
        obstacle = "there is no blessed model"
    elif not network:
        obstacle = "a network of random weights gives no features to go on with"
    else:
        try:
            card = json.loads(read(f"{model}/{MODEL_CARD}"))
            kept = np.load(io.BytesIO(read(f"{model}/{HEAD_FILE}")), allow_pickle=False)
            fitted = Fitted(Head(*(kept[name] for name in Head._fields)), float(kept["l2"]))
            if card["classes"] != classes:
                obstacle = f"the model in service knows other classes ({', '.join(card['classes'])})"
            elif str(kept["network"]) != network:
                obstacle = "the model in service has another network"
            else:
                return Start(fitted, card["sources"])
        except tf.errors.NotFoundError:
            obstacle = "the model in service has no head on a frozen network"
        except (tf.errors.OpError, zipfile.BadZipFile, EOFError, ValueError, KeyError) as error:
            obstacle = f"the head of the model in service cannot be read ({error})"
    _log.info("the start is fresh, not warm: %s", obstacle)
    return None


def read(path: str) -> bytes:
    with tf.io.gfile.GFile(path, "rb") as file:
        return bytes(file.read())


def keep(fitted: Fitted, network: str, path: str) -> None:
    content = io.BytesIO()
    np.savez(content, network=network, l2=fitted.l2, **fitted.head._asdict())
    tf.io.gfile.makedirs(path.rpartition("/")[0])
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(content.getvalue())


def known(model: str | None) -> dict[str, int]:
    """The record files that a model was trained on; none where there is no model, or it does not say."""
    try:
        return dict(json.loads(read(f"{model}/{MODEL_CARD}"))["sources"]) if model else {}
    except (tf.errors.OpError, ValueError, KeyError):
        return {}
