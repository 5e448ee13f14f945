"""Which split a picture belongs to."""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable

import apache_beam as beam
import tensorflow as tf


class Smallest(beam.CombineFn):
    """The `number` smallest of the different values."""

    def __init__(self, number: int):
        self._number = number

    def create_accumulator(self) -> list[bytes]:
        return []

    def add_input(self, smallest: list[bytes], value: bytes) -> list[bytes]:
        return self.merge_accumulators([smallest, [value]])

    def merge_accumulators(self, accumulators: Iterable[list[bytes]]) -> list[bytes]:
        return sorted(set().union(*accumulators))[: self._number]

    def extract_output(self, smallest: list[bytes]) -> list[bytes]:
        return smallest


def moved_to_eval(smallest: list[tuple[tuple[int, int], list[bytes]]], least: int) -> frozenset[bytes]:
    """Hashes of the train pictures that have to be eval pictures for each class to have `least` of them.

    Args:
      smallest: ((class, position of the split), the least + 1 smallest hashes of its pictures, or all it has).
      least: eval pictures that a class has to have, as far as one picture of it is left to train on.
    """
    train, held_out = ({label: found for (label, split), found in smallest if split == at} for at in (0, 1))
    classes_of = defaultdict(list)  # More than one where a picture has several labels.
    for label, hashes in train.items():
        for each in hashes:
            classes_of[each].append(label)
    left = {label: len(hashes) for label, hashes in train.items()}
    lacking = {label: least - len(held_out.get(label, [])) for label in train}
    moved = set()
    for label in sorted(train):
        for each in train[label]:
            if lacking[label] > 0 and each not in moved and all(left[other] > 1 for other in classes_of[each]):
                moved.add(each)
                for other in classes_of[each]:
                    left[other] -= 1
                    lacking[other] -= 1
    return frozenset(moved)


def split_of(
    example: tf.train.Example, number: int, buckets: dict[str, int], seed: int, moved: frozenset[bytes] = frozenset()
) -> int:
    """The position in `buckets` of the split that a picture belongs to: its bytes decide, and the seed.

    With seed 0 it is the split that TFX's own hash gives. Pictures in `moved` go from train to eval.
    """
    picture = hash_of(example, seed)
    bucket = int.from_bytes(picture, "big") % sum(buckets.values())
    split = bisect.bisect(list(itertools.accumulate(buckets.values())), bucket)
    return 1 if split == 0 and picture in moved else split


def label_of(example: tf.train.Example) -> int:
    """The first label's index."""
    return example.features.feature["label"].int64_list.value[0]


def hash_of(example: tf.train.Example, seed: int) -> bytes:
    """SHA-256 of the picture's bytes and the seed; that of TFX's own split for seed 0."""
    picture = example.features.feature["image"].SerializeToString(deterministic=True)
    return hashlib.sha256((f"{seed} ".encode() if seed else b"") + picture).digest()
