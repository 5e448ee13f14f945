"""Assigns pictures to splits."""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable

import apache_beam as beam
import tensorflow as tf


class Smallest(beam.CombineFn):
    """The `number` smallest distinct values."""

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
    """Hashes of the train pictures that move to the eval split, so that each class has `least` eval pictures.

    Args:
      smallest: ((class, position of the split), the least + 1 smallest hashes of its pictures, or all of them).
      least: least number of eval pictures of a class; one picture of each class stays in the train split.
    """
    train, held_out = ({label: hashes for (label, split), hashes in smallest if split == at} for at in (0, 1))
    classes_of = defaultdict(list)  # A picture may have several labels.
    for label, hashes in train.items():
        for picture in hashes:
            classes_of[picture].append(label)
    left = {label: len(hashes) for label, hashes in train.items()}
    lacking = {label: least - len(held_out.get(label, [])) for label in train}
    moved = set()
    for label in sorted(train):
        for picture in train[label]:
            if lacking[label] > 0 and picture not in moved and all(left[other] > 1 for other in classes_of[picture]):
                moved.add(picture)
                for other in classes_of[picture]:
                    left[other] -= 1
                    lacking[other] -= 1
    return frozenset(moved)


def split_of(
    example: tf.train.Example, number: int, buckets: dict[str, int], seed: int, moved: frozenset[bytes] = frozenset()
) -> int:
    """The position in `buckets` of a picture's split, which depends on the picture's bytes and the seed.

    With seed 0, it is the split of TFX's own hash. Pictures in `moved` go from train to eval.
    """
    picture = hash_of(example, seed)
    bucket = int.from_bytes(picture, "big") % sum(buckets.values())
    split = bisect.bisect(list(itertools.accumulate(buckets.values())), bucket)
    return 1 if split == 0 and picture in moved else split


def label_of(example: tf.train.Example) -> int:
    """The first label's index."""
    return example.features.feature["label"].int64_list.value[0]


def hash_of(example: tf.train.Example, seed: int) -> bytes:
    """SHA-256 of the picture's bytes and the seed; for seed 0, the hash of TFX's own split."""
    picture = example.features.feature["image"].SerializeToString(deterministic=True)
    return hashlib.sha256((f"{seed} ".encode() if seed else b"") + picture).digest()
