"""Counts the examples of each class in each split and the dropped examples, and checks that they suffice."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from components.record_files import some
from retake import records
from retake.errors import RetakeError
from retake.sections import TEST

MANY = 6
"""A long message lists as many names, and the number of the rest."""

_log = logging.getLogger("retake")


def read(path: str, settings: dict[str, Any], splits: Iterable[str]) -> dict[str, Any]:
    """{"examples": {split: {class: n}}, "dropped": {reason: n}} of the file that ExampleGen writes."""
    examples = {split: dict.fromkeys(settings["classes"], 0) for split in splits}
    dropped: Counter[str] = Counter()
    with tf.io.gfile.GFile(path) as lines:
        for line in lines:
            (group, what), number = json.loads(line)
            if group == "dropped":
                dropped[what] = number
            else:
                examples[group][settings["classes"][what]] = number
    return {"examples": examples, "dropped": dict(sorted(dropped.items()))}


def check(counts: dict[str, Any], settings: dict[str, Any], location: str) -> None:
    """Checks that a model can be trained and judged on these examples.

    Raises:
      RetakeError: there is no example, too many are dropped, or a class has no pictures in a split.
    """
    dropped = sum(counts["dropped"].values())
    total = dropped + sum(sum(classes.values()) for classes in counts["examples"].values())
    reasons = ", ".join(f"{number} {reason}" for reason, number in counts["dropped"].items())
    if not total:
        raise RetakeError(f"the record files below {location} hold no examples; look with: retake records inspect FILE")
    if dropped > settings["max_dropped"] * total:
        names = f"; data.classes are {', '.join(map(repr, settings['classes']))}"
        raise RetakeError(
            f"{dropped} of {total} examples below {location} cannot train ({reasons}): more than "
            f"data.max_dropped = {settings['max_dropped']:g} allows"
            f"{names if records.UNKNOWN_CLASS in counts['dropped'] else ''}; look with: retake records inspect FILE"
        )
    if dropped:
        _log.info("dropped %d of %d examples: %s", dropped, total, reasons)
    if not any(counts["examples"].get(TEST, {"": 1}).values()):
        raise RetakeError(
            f"none of the {total} pictures below {location} is in the test split: add pictures, give test more of "
            "data.split, or leave test out of it"
        )
    held = {name: sum(split[name] for split in counts["examples"].values()) for name in settings["classes"]}
    if absent := [repr(name) for name, number in held.items() if not number]:
        raise RetakeError(
            f"data.classes names {some(absent)}, but the records below {location} hold no picture of "
            f"{'it' if len(absent) == 1 else 'them'}; "
            f"classes that they hold: {some([name for name, number in held.items() if number], MANY)}"
        )
    for split in ("eval", "train"):
        lacking = {name: held[name] for name, number in counts["examples"][split].items() if not number}
        if lacking:
            raise RetakeError(_too_few(split, lacking, len(held), location))


def _too_few(split: str, lacking: dict[str, int], classes: int, location: str) -> str:
    """The message about classes without a picture in a split; `lacking` maps a class to its pictures in all splits."""
    named = some([f"{name!r} (has {number})" for name, number in lacking.items()], MANY)
    advice = [f"give {split} more of data.split"]
    if single := sum(number == 1 for number in lacking.values()):
        advice.append(f"add pictures of the {single} with a single one")
    if single < len(lacking):
        advice.insert(0, "set data.min_eval_per_class to 1 or more" if split == "eval" else "add pictures of them")
    return (
        f"{len(lacking)} of {classes} classes below {location} {'has' if len(lacking) == 1 else 'have'} no picture in "
        f"the {split} split: {named}; {', or '.join(advice)}"
    )
