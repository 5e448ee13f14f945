"""Writes the models' answers to each eval picture, from TFMA's predictions, into the evaluation's folder.

`pictures.jsonl` has one line of JSON for each eval picture, in no particular order:

    {"sha256": of its bytes, "source": its record file, "label": class, "candidate": class, "baseline": class or null}

`candidate` is the new model's answer, and `baseline` the answer of the model in service, or null without such a model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_model_analysis as tfma

FILE = "pictures.jsonl"
CANDIDATE, BASELINE = "candidate", "baseline"
"""TFMA's names of the two models."""

FOLDER: ContextVar[str] = ContextVar("folder")
"""Folder of the evaluation. TFX does not pass it to the extractors."""


def read(evaluation: str) -> Iterator[dict[str, Any]]:
    """The rows of an evaluation's folder."""
    with tf.io.gfile.GFile(f"{evaluation}/{FILE}") as lines:
        yield from map(json.loads, lines)


class Write(beam.PTransform):
    """Writes a line of a few hundred bytes for each of TFMA's extracts below `FOLDER`, and passes the extracts on."""

    def expand(self, extracts: Any) -> Any:
        lines = extracts | "ToLine" >> beam.Map(_line)
        _ = lines | "Write" >> beam.io.WriteToText(f"{FOLDER.get()}/{FILE}", num_shards=1, shard_name_template="")
        return extracts


def _line(extracts: dict[str, Any]) -> str:
    features, predictions = extracts[tfma.FEATURES_KEY], extracts[tfma.PREDICTIONS_KEY]
    if CANDIDATE not in predictions:  # TFMA names the models only if there are two.
        predictions = {CANDIDATE: predictions}
    image, source, label = (np.ravel(features[name])[0] for name in ("image", "source", "label"))
    row = {
        "sha256": hashlib.sha256(image).hexdigest(),
        "source": source.decode(),
        "label": _names(predictions[CANDIDATE])[label],
        CANDIDATE: _answer(predictions[CANDIDATE]),
        BASELINE: _answer(predictions[BASELINE]) if BASELINE in predictions else None,
    }
    return json.dumps(row)


def _answer(prediction: dict[str, Any]) -> str:
    return _names(prediction)[np.argmax(prediction["probabilities"])]


def _names(prediction: dict[str, Any]) -> list[str]:
    return [name.decode() for name in np.ravel(prediction["classes"])]
