"""A model's files for a later training: its card, and the head that a warm start continues from."""

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
{record file: its pictures in the model's training}}."""

HEAD_FILE = "assets.extra/head.npz"
"""Beside the card, if a later training can continue from the head: the arrays of components.head.Head, `l2`, and
`network`, a name of the frozen network that computed the features."""

_log = logging.getLogger("retake")


class Fitted(NamedTuple):
    head: Head
    l2: float


class Start(NamedTuple):
    """The head that a training continues from, and the record files that it was trained on."""

    fitted: Fitted
    sources: dict[str, int]


def find(model: str | None, classes: list[str], network: str) -> Start | None:
    """The head of the model in service; if a warm start is impossible, None, and the log gives the reason.

    Args:
      model: folder of the model in service, or None.
      classes: the classes of this training.
      network: name of this training's frozen network; empty if its weights are random.
    """
    if not model:
        obstacle = "there is no blessed model"
    elif not network:
        obstacle = "a network with random weights has no features that a later training can use"
    else:
        try:
            card = json.loads(read(f"{model}/{MODEL_CARD}"))
            stored = np.load(io.BytesIO(read(f"{model}/{HEAD_FILE}")), allow_pickle=False)
            fitted = Fitted(Head(*(stored[name] for name in Head._fields)), float(stored["l2"]))
            if card["classes"] != classes:
                obstacle = f"the model in service knows other classes ({', '.join(card['classes'])})"
            elif str(stored["network"]) != network:
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
    """The record files that a model was trained on; empty without a model, or if its card does not list them."""
    try:
        return dict(json.loads(read(f"{model}/{MODEL_CARD}"))["sources"]) if model else {}
    except (tf.errors.OpError, ValueError, KeyError):
        return {}
